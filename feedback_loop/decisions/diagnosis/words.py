"""A diagnosis as records and in words: causes, data quality, recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from feedback_loop.decisions.diagnosis.comparison import Effect
from feedback_loop.decisions.diagnosis.split import Split
from feedback_loop.schema import Contract, shown_names
from feedback_loop.store.alerts import Message
from feedback_loop.store.conclusions import Diagnosis
from feedback_loop.store.evaluations import Evaluation, newest_evaluations

MOST_NAMED = 5
"""The most checks named in words, those that fail in the most windows first; the evidence has all of them."""


class Recommendation(StrEnum):
    """What is to be done."""

    REPAIR = "repair"
    RECENT = "recent"
    MORE = "more"
    REPLACE = "replace"
    ARCHITECTURE = "architecture"
    NONE = "none"
    INSUFFICIENT_DATA = "insufficient_data"


@dataclass(frozen=True)
class Fault:
    """A feature that is broken in a `share` of rows: the fault, and its cost on the reference's rows."""

    feature: str
    kind: str  # missing | frozen | units | vocabulary
    share: float
    what: str
    cost: Effect


@dataclass(frozen=True)
class Causes:
    """The recommendation, its reason in words, and the change of the mean loss in its parts.

    `broken`, `split.inputs` and `split.relation` add up to `change`. `feature` is the one that is to be repaired or
    replaced. `split` is of rows that all have the same faults.
    """

    recommendation: Recommendation
    summary: str
    loss: str
    rows_before: int
    rows_now: int
    seed: int
    mean_before: float | None = None
    change: Effect | None = None
    broken: Effect | None = None
    split: Split | None = None
    faults: tuple[Fault, ...] = ()
    feature: str = ""

    def evidence(self) -> dict[str, Any]:
        """All of it but recommendation and summary, as plain values."""
        return {name: value for name, value in asdict(self).items() if name not in ("recommendation", "summary")}


ADVICE = {
    Recommendation.REPAIR: "repair the feed, do not retrain",
    Recommendation.RECENT: "retrain on recent data",
    Recommendation.MORE: "retrain on more data",
    Recommendation.REPLACE: "drop or replace a feature",
    Recommendation.ARCHITECTURE: "search another architecture",
    Recommendation.NONE: "nothing to be done is known",
    Recommendation.INSUFFICIENT_DATA: "too few rows for a diagnosis yet",
}
"""What is recommended, in an alert's title."""


def advice_message(diagnosis: Diagnosis) -> Message:
    """The alert about an incident's diagnosis; a repeated recommendation has the same subject."""
    about = {"model": diagnosis.model, "model_version": diagnosis.version, "incident": str(diagnosis.incident_id)}
    return Message(
        f"incident:{diagnosis.incident_id}:diagnosis:{diagnosis.recommendation}:{diagnosis.evidence['feature']}",
        f"{diagnosis.model} version {diagnosis.version}: {ADVICE[Recommendation(diagnosis.recommendation)]}",
        diagnosis.summary,
        diagnosis.incident_id,
        about | {"recommendation": diagnosis.recommendation},
        diagnosis.model,
    )


def causes_words(causes: Causes) -> str:
    """The recommendation, its reason, and the figures."""
    assert causes.change and causes.broken and causes.split and causes.mean_before is not None
    split, change, before = causes.split, causes.change, causes.mean_before
    what = {
        Recommendation.REPAIR: "Repair the feed, do not retrain",
        Recommendation.RECENT: "Retrain on recent data: at the same inputs outcomes are others than they were",
        Recommendation.MORE: "Retrain on more data, old and new: inputs are where the champion has learned little",
        Recommendation.REPLACE: f"Drop or replace {causes.feature}",
        Recommendation.ARCHITECTURE: "Search another architecture: the champion misses what its own features tell",
        Recommendation.NONE: _nothing(causes),
    }[causes.recommendation]
    if causes.recommendation is Recommendation.REPLACE and not any(
        f.feature == causes.feature for f in causes.faults
    ):
        what += ": it tells nothing about outcomes any more"
    broken = "; ".join(f"{fault.feature} is {fault.what}" for fault in causes.faults)
    parts = [
        f"{causes.loss} {before:.4f} → {before + change.value:.4f} ({_figure(change)})",
        f"broken features {_figure(causes.broken)}" if causes.faults else "no feature is broken",
        f"inputs {_figure(split.inputs)}",
        f"relation {_figure(split.relation)}",
    ]
    saved = f"A flexible learner would save {split.gain_now.value:.4f} now, {split.gain_before.value:.4f} before."
    return f"{what}{': ' + broken if broken else ''}. {', '.join(parts)}. {saved}"


def _nothing(causes: Causes) -> str:
    assert causes.change and causes.split
    if not causes.change.is_sure:
        return "Nothing to do: the change is not beyond chance"
    if causes.split.inputs.is_sure:
        return "No retraining helps: inputs are harder, and no learner does better on them"
    return "Not told: none of the causes is beyond chance; more labels may tell"


def _figure(effect: Effect) -> str:
    return f"{effect.value:+.4f} ± {effect.error:.4f}"


@dataclass(frozen=True)
class Finding:
    """A check that fails in some of the windows: its greatest value, and the value expected by the reference."""

    column: str
    check: str
    failed: int
    windows: int
    value: float
    expected: float

    @property
    def words(self) -> str:
        """`age out_of_range 20.1% (0.0% expected) in 5 of 6 windows`."""
        share = (
            f" {self.value:.1%} ({self.expected:.1%} expected)" if self.check not in ("schema", "constant") else ""
        )
        return f"{self.column} {self.check}{share} in {self.failed} of {self.windows} windows"


def quality_findings(contract: Contract, evaluations: Sequence[Evaluation], version: str) -> list[Finding]:
    """The checks that fail in evaluations of a version, those that fail in the most windows first."""
    names = shown_names((*contract.outputs, *contract.features))
    of_version = [evaluation for evaluation in newest_evaluations(evaluations) if evaluation.version == version]
    failed = [value for evaluation in of_version for value in evaluation.quality if value.failed]
    checks: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for value in failed:
        key = names.get(value.column, value.column or "rows"), value.check
        checks.setdefault(key, []).append((value.value, value.expected))
    findings = [
        Finding(column, check, len(values), len(of_version), max(value for value, _ in values), values[0][1])
        for (column, check), values in checks.items()
    ]
    return sorted(findings, key=lambda check: (-check.failed, -check.value, check.column, check.check))


def quality_words(findings: Sequence[Finding]) -> str:
    """The first sentence of a summary; empty where no check fails."""
    if not findings:
        return ""
    more = f"; and {len(findings) - MOST_NAMED} more" if len(findings) > MOST_NAMED else ""
    return f"Data quality: {'; '.join(finding.words for finding in findings[:MOST_NAMED])}{more}. "
