"""Why the mean loss has changed, and what is to be done about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.decisions.diagnosis.faults import suspects
from feedback_loop.decisions.diagnosis.replays import MATERIAL, Replay, Score, confirmed, dead_feature
from feedback_loop.decisions.diagnosis.reweighting import Split, split_change
from feedback_loop.decisions.diagnosis.sides import TIME, Effect, Sides, loss_name, make_sides, mean_change
from feedback_loop.schema import Contract

LEAST_ROWS = 500
"""With fewer labelled rows on either side nothing is said."""

STRUCTURE = 0.1
"""Another architecture is worth a search where a flexible learner saves so much of the reference's own loss."""

WORTH = 0.1
"""More data are worth a retraining where a learner that has them saves so much of the change."""

GONE_SHARE, GONE_AFTER = 0.99, timedelta(days=30)
"""What has been missing from so many rows for so long does not come back by itself."""


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
    """A feature that is broken in a `share` of rows: what happened, and what it costs on the reference's rows."""

    feature: str
    kind: str  # missing | frozen | units | vocabulary
    share: float
    what: str
    cost: Effect


@dataclass(frozen=True)
class Causes:
    """What is to be done, why in words, and the change of the mean loss in its parts.

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


def find_causes(
    contract: Contract, reference: pa.Table, current: pa.Table, score: Score, *, length: timedelta, seed: int
) -> Causes:
    """The causes that labelled rows of the reference and of now speak for (stored names, with `predicted_at`).

    `score` is the champion, `length` that of a window. What is broken is done to the reference too: what it costs
    there is the faults' share, and the rest of the change is split between rows that have the same faults. The same
    rows and seed give the same causes.
    """
    from threadpoolctl import threadpool_limits

    rows = reference.num_rows, current.num_rows
    if min(rows) < LEAST_ROWS:
        summary = (
            f"The reference has {rows[0]:,} labelled rows and the window {rows[1]:,}: {LEAST_ROWS} each are needed."
        )
        return Causes(Recommendation.INSUFFICIENT_DATA, summary, loss_name(contract), *rows, seed)
    sides = make_sides(contract, reference, current, length=length, seed=seed)
    with threadpool_limits(1):  # threads that wait for each other are slower on work as small as this
        replay = Replay(sides, score)
        found = confirmed(replay, suspects(sides))
        broken = replay.broken(found) if found else sides
        causes = Causes(
            Recommendation.NONE,
            "",
            loss_name(contract),
            *rows,
            seed,
            mean_before=float(sides.losses[~sides.is_now].mean()),
            change=mean_change(sides),
            broken=replay.cost(found),
            split=split_change(broken),
            faults=tuple(Fault(e.column.name, e.kind, e.share, e.what, replay.cost([e])) for e in found),
        )
        causes = _concluded(causes, broken, score)
    return replace(causes, summary=_words(causes))


def _concluded(causes: Causes, broken: Sides, score: Score) -> Causes:
    """The recommendation: a broken feed first, for nothing is learned from one; then what costs the most."""
    assert causes.change and causes.broken and causes.split and causes.mean_before is not None
    split, total = causes.split, causes.change.value
    if causes.broken.is_sure and causes.broken.value > MATERIAL * total:
        worst = max(causes.faults, key=lambda each: each.cost.value)
        is_gone = worst.kind == "missing" and worst.share > GONE_SHARE and _span(broken.current) > GONE_AFTER
        return replace(
            causes,
            recommendation=Recommendation.REPLACE if is_gone else Recommendation.REPAIR,
            feature=worst.feature,
        )
    structure = split.gain_before
    if (
        structure.is_sure
        and structure.value > STRUCTURE * causes.mean_before
        and structure.value > max(split.relation.value, total / 2)
    ):
        return replace(causes, recommendation=Recommendation.ARCHITECTURE)
    if split.relation.is_sure and split.relation.value > MATERIAL * total:
        dead = dead_feature(Replay(broken, score), split.relation.value)
        return replace(causes, recommendation=Recommendation.REPLACE if dead else Recommendation.RECENT, feature=dead)
    if causes.change.is_sure and split.gain_now.is_sure and split.gain_now.value > WORTH * total:
        return replace(causes, recommendation=Recommendation.MORE)
    return causes


def _span(rows: pa.Table) -> timedelta:
    """From the first row to the last."""
    ends = pc.min_max(rows.column(TIME)).as_py()
    span: timedelta = ends["max"] - ends["min"]
    return span


def _words(causes: Causes) -> str:
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
    broken = "; ".join(f"{each.feature} is {each.what}" for each in causes.faults)
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
