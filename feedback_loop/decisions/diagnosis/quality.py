"""What data quality has found in the windows of a diagnosis: where rows look broken, that is looked at first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feedback_loop.schema import Contract, shown_names
from feedback_loop.store.evaluations import Evaluation, newest_evaluations

MOST_TOLD = 5
"""So many checks are named in words, those that fail in the most windows; all are in the evidence."""


@dataclass(frozen=True)
class Finding:
    """A check that fails in some of the windows: the share of rows at most, and what the reference lets expect."""

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
    own = [each for each in newest_evaluations(evaluations) if each.version == version]
    failed = [value for each in own for value in each.quality if value.failed]
    checks: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for value in failed:
        key = names.get(value.column, value.column or "rows"), value.check
        checks.setdefault(key, []).append((value.value, value.expected))
    found = [
        Finding(column, check, len(values), len(own), max(value for value, _ in values), values[0][1])
        for (column, check), values in checks.items()
    ]
    return sorted(found, key=lambda each: (-each.failed, -each.value, each.column, each.check))


def quality_words(findings: Sequence[Finding]) -> str:
    """A sentence to begin with; empty where nothing fails."""
    if not findings:
        return ""
    more = f"; and {len(findings) - MOST_TOLD} more" if len(findings) > MOST_TOLD else ""
    return f"Data quality: {'; '.join(each.words for each in findings[:MOST_TOLD])}{more}. "
