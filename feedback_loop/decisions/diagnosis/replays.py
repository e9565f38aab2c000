"""Replays: the champion scores rows again with a feature mended, broken or permuted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.decisions.diagnosis.comparison import Comparison, Effect, Ints, mean_effect
from feedback_loop.decisions.diagnosis.faults import Suspect, with_column
from feedback_loop.decisions.diagnosis.split import fresh_worth
from feedback_loop.inference.engines import Engine
from feedback_loop.monitoring.arrays import floats, frequencies
from feedback_loop.schema import Column, Contract

MATERIAL = 0.25
"""The least share of the change that a cause is acted on for."""

RESIDUAL = 0.4
"""The most of the change that may remain once all faults are undone."""

CELLS = 5

DEAD = 0.2
"""A feature is dead when its importance is below this share of what it was."""

ALIVE = 0.1
"""Another feature is alive from this share of its importance on: a misleading one can spoil most of it."""

EXPLAINED = 0.5
"""The least share of the change that permuting a dead feature costs on the reference."""

Score = Callable[[pa.Table], pa.Table]
"""The champion's outputs for rows of features, both by stored name."""


def score_with(engine: Engine, contract: Contract) -> Score:
    """The outputs of an engine for rows of the log."""

    def score(rows: pa.Table) -> pa.Table:
        named = pa.table({column.name: rows.column(column.stored) for column in contract.features})
        return engine.score(named).outputs

    return score


@dataclass(frozen=True)
class Replay:
    """The compared rows, and the champion that scores them again."""

    compared: Comparison
    score: Score

    def scored(self, rows: pa.Table, column: Column, values: Any) -> pa.Table:
        """The rows with other values of a column, and the champion's outputs for them."""
        rows = with_column(rows, column, values)
        outputs = self.score(rows)
        for name in outputs.column_names:
            rows = rows.set_column(rows.column_names.index(name), name, outputs.column(name))
        return rows

    def broken(self, faults: Sequence[Suspect]) -> Comparison:
        """The comparison with the faults repeated on the reference's rows, scored anew."""
        rows = self.compared.reference
        for fault in faults:
            rows = self.scored(rows, fault.column, fault.broken)
        return self.compared.with_reference(rows)

    def cost(self, faults: Sequence[Suspect]) -> Effect:
        """The increase of the reference's mean loss by faults."""
        compared, before = self.compared, self.compared.before
        if not faults:
            return Effect(0.0, 0.0)
        costs = (self.broken(faults).losses - compared.losses)[:before]
        return mean_effect(costs, compared.windows[:before] if compared.windows is not None else None)

    def use(self, column: Column, *, now: bool) -> Effect:
        """The permutation importance of a column on one side: the rise of the champion's mean loss."""
        compared = self.compared
        rows, losses = (compared.current if now else compared.reference), compared.losses[compared.is_now == now]
        order = np.random.default_rng([compared.seed, 3]).permutation(rows.num_rows)
        mixed = self.scored(rows, column, rows.column(column.stored).take(pa.array(order)))
        return mean_effect(compared.losses_of(mixed) - losses)


def confirmed(replay: Replay, suspected: Sequence[Suspect]) -> list[Suspect]:
    """The suspects that outcomes confirm.

    A fault that is certain by itself is confirmed. One that cannot be undone must cost a good part of the change on
    the reference's rows; one that can be undone must be shown by undoing it.
    """
    losses, now = replay.compared.losses, replay.compared.is_now
    change = float(losses[now].mean() - losses[~now].mean())
    costly = []
    for suspect in (suspect for suspect in suspected if suspect.mended is None):
        cost = replay.cost([suspect])
        if suspect.is_certain or (cost.is_sure and cost.value > MATERIAL * change):
            costly.append(suspect)
    undoable = [suspect for suspect in suspected if suspect.mended is not None]
    healing = _healing(replay, undoable, change)
    return [*costly, *healing, *(suspect for suspect in undoable if suspect.is_certain and suspect not in healing)]


def _healing(replay: Replay, suspected: Sequence[Suspect], change: float) -> list[Suspect]:
    """The faults that, undone, bring the loss of current rows back to the reference's, in all parts of the feature.

    A real change of inputs can be mapped back onto the reference's values as well. But the champion errs on such
    rows, in total or in parts: their outcomes belong to other values.
    """
    compared = replay.compared
    rows, losses, healing = compared.current, compared.losses[compared.is_now], []
    for suspect in suspected:
        mended = replay.scored(rows, suspect.column, suspect.mended)
        losses_then = compared.losses_of(mended)
        if mean_effect(losses - losses_then).is_sure:
            healing.append(suspect)
            rows, losses = mended, losses_then
    before, after = mean_effect(compared.losses[~compared.is_now]), mean_effect(losses)
    if after.value - before.value > max(RESIDUAL * change, 3 * float(np.hypot(after.error, before.error))):
        return []
    return healing if all(_fits(compared, suspect.column, rows) for suspect in healing) else []


def _fits(compared: Comparison, column: Column, mended: pa.Table) -> bool:
    """Whether the champion errs on mended rows as on the reference's, in each fifth of the feature."""
    both = compared.reference, mended
    residuals, residuals_now = (compared.residuals_of(rows) for rows in both)
    cells, cells_now = _cells(column, *(rows.column(column.stored) for rows in both))
    gaps = []
    for cell in range(CELLS):
        old, new = residuals[cells == cell], residuals_now[cells_now == cell]
        if min(len(old), len(new)) >= 20:
            error = np.hypot(old.std() / np.sqrt(len(old)), new.std() / np.sqrt(len(new)))
            gaps.append((old.mean() - new.mean()) / max(error, 1e-12))
    # χ² of so many cells, up to six standard deviations above its mean: rounding adds to it too.
    return bool(np.square(gaps).sum() <= len(gaps) + 6 * np.sqrt(2 * len(gaps)))


def _cells(column: Column, before: pa.ChunkedArray, now: pa.ChunkedArray) -> list[Ints]:
    """The cell of each value: fifths of the reference's numbers, or its five most frequent words; -1 in none."""
    if column.type.is_numeric:
        ends = np.nanquantile(floats(before), np.arange(1, CELLS) / CELLS)
        numbers = floats(before), floats(now)
        return [np.where(np.isnan(values), -1, np.searchsorted(ends, values)) for values in numbers]
    words = before.cast(pa.string()), now.cast(pa.string())
    frequent = pa.array(list(frequencies(words[0]))[:CELLS], pa.string())
    return [pc.index_in(values, frequent).fill_null(-1).to_numpy() for values in words]


def dead_feature(replay: Replay, relation: float) -> str:
    """The feature whose loss of all signal explains the change of `relation`; empty where none does.

    Permuted among the reference's rows it costs about the change; among current rows next to nothing; and a learner
    on current rows alone gains nothing by it. A feature whose relation has reversed fails the last: it can be learned
    anew. Where no other feature has signal left, outcomes are noise.
    """
    features = replay.compared.features
    uses = [(column, replay.use(column, now=False), replay.use(column, now=True)) for column in features]
    alive = {column for column, before, now in uses if now.is_sure and now.value > ALIVE * before.value}
    for column, before, now in uses:
        is_telling = before.is_sure and before.value > EXPLAINED * relation
        is_idle = abs(now.value) < max(DEAD * before.value, 3 * now.error)
        if is_telling and is_idle and alive - {column} and not fresh_worth(replay.compared, column.stored).is_sure:
            return column.name
    return ""
