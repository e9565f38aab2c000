"""Diagnosis: why the mean loss has changed, and what is to be done about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any

import pyarrow as pa

from feedback_loop.decisions.faults import suspects
from feedback_loop.decisions.replays import MATERIAL, Replay, Score, confirmed, dead_feature
from feedback_loop.decisions.reweighting import Split, split_change
from feedback_loop.decisions.sides import Effect, loss_name, make_sides
from feedback_loop.schema import Contract

LEAST_ROWS = 500
"""With fewer labelled rows on either side nothing is said."""

STRUCTURE = 0.1
"""Another architecture is worth a search where a flexible learner saves so much of the reference's own loss."""

WORTH = 0.1
"""More data are worth a retraining where a learner that has them saves so much of the change."""


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
    """A feature that is broken: what happened to it, and what the same costs on the reference's rows."""

    feature: str
    kind: str
    what: str
    cost: Effect


@dataclass(frozen=True)
class Diagnosis:
    """What is to be done, why in words, and the change of the mean loss in its parts.

    `broken`, `split.inputs` and `split.relation` add up to the change. `dead` is a feature that tells nothing any more.
    """

    recommendation: Recommendation
    summary: str
    loss: str
    rows_before: int
    rows_now: int
    seed: int
    mean_before: float | None = None
    broken: Effect | None = None
    faults: tuple[Fault, ...] = ()
    split: Split | None = None
    dead: str = ""

    def evidence(self) -> dict[str, Any]:
        """All of it but recommendation and summary, as plain values."""
        return {name: value for name, value in asdict(self).items() if name not in ("recommendation", "summary")}


def diagnose_rows(
    contract: Contract, reference: pa.Table, current: pa.Table, score: Score, *, length: timedelta, seed: int
) -> Diagnosis:
    """The diagnosis of labelled rows of the reference and of now (stored names, with `predicted_at`).

    What is broken is done to the reference too: what it costs there is the faults' share, and the rest of the change
    is split between rows that have the same faults.
    """
    sides = make_sides(contract, reference, current, length=length, seed=seed)
    replay = Replay(sides, score)
    found = confirmed(replay, suspects(sides))
    broken = replay.broken(found) if found else sides
    split = split_change(broken)
    means = sides.losses[~sides.is_now].mean()
    change, cost = split.change, replay.cost(found)
    faults = tuple(Fault(e.column.name, e.kind, e.what, replay.cost([e])) for e in found)
    base = Diagnosis(Recommendation.NONE, "", loss_name(contract), reference.num_rows, current.num_rows, seed, float(means), cost, faults, split)
    total = change.value + cost.value
    related = split.relation.is_sure and split.relation.value > MATERIAL * total
    if cost.is_sure and cost.value > MATERIAL * total:
        return replace(base, recommendation=Recommendation.REPAIR)
    if split.gain_before.is_sure and split.gain_before.value > STRUCTURE * means and split.gain_before.value > max(split.relation.value, 0.5 * change.value):
        return replace(base, recommendation=Recommendation.ARCHITECTURE)
    if related:
        dead = dead_feature(Replay(broken, score), split.relation.value)
        return replace(base, recommendation=Recommendation.REPLACE if dead else Recommendation.RECENT, dead=dead)
    if change.is_sure and split.gain_now.is_sure and split.gain_now.value > WORTH * change.value:
        return replace(base, recommendation=Recommendation.MORE)
    return base
