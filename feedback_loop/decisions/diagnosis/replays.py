"""Replays on the log: the champion is asked again about rows of which a feature was repaired, broken, or mixed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.decisions.diagnosis.faults import Suspect, with_column
from feedback_loop.decisions.diagnosis.reweighting import fresh_worth
from feedback_loop.decisions.diagnosis.sides import (
    Effect,
    Ints,
    Sides,
    losses_of,
    mean_effect,
    most_frequent,
    residuals_of,
)
from feedback_loop.inference.engines import Engine
from feedback_loop.monitoring import Floats
from feedback_loop.monitoring.arrays import floats
from feedback_loop.schema import Column, Contract

MATERIAL = 0.25
"""A cause is worth acting on from this share of the change on."""

LEFT = 0.4
"""Undoing all faults leaves at most this share of the change, or they were none."""

CELLS = 5

DEAD = 0.2
"""A feature whose use has fallen below this share of what it was tells nothing any more."""

ALIVE = 0.1
"""Another feature still tells something from this share on: one that misleads can spoil most of what others tell."""

EXPLAINED = 0.5
"""If that is the cause, doing the same to the reference costs at least this share of the change."""

Score = Callable[[pa.Table], pa.Table]
"""The champion's outputs for rows of features, both by stored name."""


def score_with(engine: Engine, contract: Contract) -> Score:
    """The outputs of an engine for rows of the log."""

    def score(rows: pa.Table) -> pa.Table:
        named = pa.table({each.name: rows.column(each.stored) for each in contract.features})
        return engine.score(named).outputs

    return score


@dataclass(frozen=True)
class Replay:
    """The sides of a diagnosis, and the champion, who is asked again."""

    sides: Sides
    score: Score

    def rescored(self, rows: pa.Table) -> pa.Table:
        """The rows with the champion's outputs of today's features."""
        outputs = self.score(rows)
        for name in outputs.column_names:
            place = rows.column_names.index(name)
            field = rows.schema.field(place)
            rows = rows.set_column(place, field, outputs.column(name).cast(field.type))
        return rows

    def losses(self, rows: pa.Table) -> Floats:
        """The loss of each row as its outputs are."""
        return losses_of(self.sides.contract, rows, self.sides.scale)

    def broken(self, faults: Sequence[Suspect]) -> Sides:
        """The sides with the reference's rows broken as current ones are, scored anew."""
        rows = self.sides.reference
        for each in faults:
            rows = each.done(rows, self.sides.seed)
        return replace(self.sides, rows=pa.concat_tables([self.rescored(rows), self.sides.current]))

    def cost(self, faults: Sequence[Suspect]) -> Effect:
        """What faults cost on the reference's rows."""
        sides, before = self.sides, self.sides.before
        if not faults:
            return Effect(0.0, 0.0)
        costs = (self.broken(faults).losses - sides.losses)[:before]
        return mean_effect(costs, sides.windows[:before] if sides.windows is not None else None)


def confirmed(replay: Replay, looked: Sequence[Suspect]) -> list[Suspect]:
    """The suspects that outcomes speak against too.

    What is missing, frozen or has other words in most rows is certain by itself; in fewer, it must cost on the
    reference's rows a good part of what was lost. What can be undone must be shown by undoing it.
    """
    sides = replay.sides
    change = float(sides.losses[sides.is_now].mean() - sides.losses[~sides.is_now].mean())
    kept, undoable = [], [each for each in looked if each.kind in ("units", "vocabulary")]
    for each in looked:
        if each not in undoable:
            cost = replay.cost([each])
            if each.is_certain or (cost.is_sure and cost.value > MATERIAL * change):
                kept.append(each)
    healing = _healing(replay, undoable, change)
    return [*kept, *healing, *(each for each in undoable if each.is_certain and each not in healing)]


def _healing(replay: Replay, looked: Sequence[Suspect], change: float) -> list[Suspect]:
    """The faults whose undoing makes current rows what the reference's are: in loss, and in all parts of the feature.

    A real change of inputs can be mapped back onto the reference's values as well. But then the champion is asked
    about other rows than those whose outcomes came: it errs on them, in total or in parts.
    """
    sides = replay.sides
    rows, losses, kept = sides.current, sides.losses[sides.is_now], []
    for each in looked:
        tried = replay.rescored(each.undone(rows, sides.numbers(rows)))
        if mean_effect(losses - replay.losses(tried)).is_sure:
            kept.append(each)
            rows, losses = tried, replay.losses(tried)
    before = mean_effect(sides.losses[~sides.is_now])
    left = mean_effect(losses)
    if left.value - before.value > max(LEFT * change, 3 * float(np.hypot(left.error, before.error))):
        return []
    return kept if all(_fits(sides, each.column, rows) for each in kept) else []


def _fits(sides: Sides, column: Column, undone: pa.Table) -> bool:
    """Whether the champion errs on undone rows as on the reference's, in each fifth of the feature."""
    both = sides.reference, undone
    one, other = (residuals_of(sides.contract, rows, sides.scale) for rows in both)
    cells, others = _cells(column, *(rows.column(column.stored) for rows in both))
    gaps = []
    for cell in range(CELLS):
        mine, theirs = one[cells == cell], other[others == cell]
        if min(len(mine), len(theirs)) >= 20:
            error = np.hypot(mine.std() / np.sqrt(len(mine)), theirs.std() / np.sqrt(len(theirs)))
            gaps.append((mine.mean() - theirs.mean()) / max(error, 1e-12))
    # χ² of so many cells, up to six standard deviations above its mean: rounding on the way leaves its mark too.
    return bool(np.square(gaps).sum() <= len(gaps) + 6 * np.sqrt(2 * len(gaps)))


def _cells(column: Column, before: pa.ChunkedArray, now: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """The cell of each value: fifths of the reference's numbers, or its five most frequent words; -1 in none."""
    if column.type.is_numeric:
        ends = np.nanquantile(floats(before), np.arange(1, CELLS) / CELLS)
        one, other = (
            np.where(np.isnan(each), -1, np.searchsorted(ends, each)) for each in map(floats, (before, now))
        )
        return one, other
    known = pa.array(most_frequent(before.cast(pa.string()), CELLS), pa.string())
    one, other = (pc.index_in(each.cast(pa.string()), known).fill_null(-1).to_numpy() for each in (before, now))
    return one, other


def dead_feature(replay: Replay, relation: float) -> str:
    """The feature whose loss of all signal explains the change of `relation`; empty where none does.

    Mixed up among the reference's rows it costs about what has been lost; among current rows it costs next to
    nothing; and one who learns from current rows alone makes nothing of it either. A feature whose relation has
    turned around fails the last: it can be learned anew. Where no other feature tells anything, outcomes are
    noise.
    """
    sides = replay.sides
    uses = [(column, _use(replay, column, now=False), _use(replay, column, now=True)) for column in sides.features]
    alive = {column.name for column, before, now in uses if now.is_sure and now.value > ALIVE * before.value}
    for column, before, now in uses:
        is_telling = before.is_sure and before.value > EXPLAINED * relation
        is_idle = abs(now.value) < max(DEAD * before.value, 3 * now.error)
        others = alive - {column.name}
        if is_telling and is_idle and others and not fresh_worth(sides, column.name).is_sure:
            return column.name
    return ""


def _use(replay: Replay, column: Column, *, now: bool) -> Effect:
    """What the champion's loss rises by once a column is mixed up among the rows of one side."""
    sides = replay.sides
    rows, own = (sides.current if now else sides.reference), sides.losses[sides.is_now == now]
    order = np.random.default_rng([sides.seed, 3]).permutation(rows.num_rows)
    mixed = with_column(rows, column, rows.column(column.stored).take(pa.array(order)))
    return mean_effect(replay.losses(replay.rescored(mixed)) - own)
