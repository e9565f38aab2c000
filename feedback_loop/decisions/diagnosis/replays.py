"""Replays on the log: the champion is asked again about rows of which a feature was mended, broken, or mixed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.decisions.diagnosis.comparison import Comparison, Effect, Ints, mean_effect
from feedback_loop.decisions.diagnosis.faults import Suspect, with_column
from feedback_loop.decisions.diagnosis.learners import frequent_words
from feedback_loop.decisions.diagnosis.split import fresh_worth
from feedback_loop.inference.engines import Engine
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
        named = pa.table({column.name: rows.column(column.stored) for column in contract.features})
        return engine.score(named).outputs

    return score


@dataclass(frozen=True)
class Replay:
    """Rows of before and now, and the champion, who is asked again."""

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
        """The reference's rows broken as current ones are, scored anew, beside the same current ones."""
        rows = self.compared.reference
        for fault in faults:
            rows = self.scored(rows, fault.column, fault.broken)
        return self.compared.with_reference(rows)

    def cost(self, faults: Sequence[Suspect]) -> Effect:
        """What faults cost on the reference's rows."""
        compared, before = self.compared, self.compared.before
        if not faults:
            return Effect(0.0, 0.0)
        costs = (self.broken(faults).losses - compared.losses)[:before]
        return mean_effect(costs, compared.windows[:before] if compared.windows is not None else None)

    def use(self, column: Column, *, now: bool) -> Effect:
        """By how much the champion's loss rises once a column is mixed up among the rows of one side."""
        compared = self.compared
        rows, losses = (compared.current if now else compared.reference), compared.losses[compared.is_now == now]
        order = np.random.default_rng([compared.seed, 3]).permutation(rows.num_rows)
        mixed = self.scored(rows, column, rows.column(column.stored).take(pa.array(order)))
        return mean_effect(compared.losses_of(mixed) - losses)


def confirmed(replay: Replay, looked: Sequence[Suspect]) -> list[Suspect]:
    """The suspects that outcomes speak against too.

    What is missing, frozen or has other words in most rows is certain by itself; in fewer, it must cost on the
    reference's rows a good part of what was lost. What can be undone must be shown by undoing it.
    """
    losses, now = replay.compared.losses, replay.compared.is_now
    change = float(losses[now].mean() - losses[~now].mean())
    kept = []
    for suspect in (suspect for suspect in looked if suspect.mended is None):
        cost = replay.cost([suspect])
        if suspect.is_certain or (cost.is_sure and cost.value > MATERIAL * change):
            kept.append(suspect)
    undoable = [suspect for suspect in looked if suspect.mended is not None]
    healing = _healing(replay, undoable, change)
    return [*kept, *healing, *(each for each in undoable if each.is_certain and each not in healing)]


def _healing(replay: Replay, looked: Sequence[Suspect], change: float) -> list[Suspect]:
    """The faults whose undoing makes current rows what the reference's are: in loss, and in all parts of the feature.

    A real change of inputs can be mapped back onto the reference's values as well. But then the champion is asked
    about other rows than those whose outcomes came: it errs on them, in total or in parts.
    """
    compared = replay.compared
    rows, losses, kept = compared.current, compared.losses[compared.is_now], []
    for suspect in looked:
        mended = replay.scored(rows, suspect.column, suspect.mended)
        losses_then = compared.losses_of(mended)
        if mean_effect(losses - losses_then).is_sure:
            kept.append(suspect)
            rows, losses = mended, losses_then
    before, left = mean_effect(compared.losses[~compared.is_now]), mean_effect(losses)
    if left.value - before.value > max(LEFT * change, 3 * float(np.hypot(left.error, before.error))):
        return []
    return kept if all(_fits(compared, suspect.column, rows) for suspect in kept) else []


def _fits(compared: Comparison, column: Column, mended: pa.Table) -> bool:
    """Whether the champion errs on mended rows as on the reference's, in each fifth of the feature."""
    both = compared.reference, mended
    residuals, residuals_now = (compared.residuals_of(rows) for rows in both)
    cells, cells_now = _cells(column, *(rows.column(column.stored) for rows in both))
    gaps = []
    for cell in range(CELLS):
        was, own = residuals[cells == cell], residuals_now[cells_now == cell]
        if min(len(was), len(own)) >= 20:
            error = np.hypot(was.std() / np.sqrt(len(was)), own.std() / np.sqrt(len(own)))
            gaps.append((was.mean() - own.mean()) / max(error, 1e-12))
    # χ² of so many cells, up to six standard deviations above its mean: rounding on the way leaves its mark too.
    return bool(np.square(gaps).sum() <= len(gaps) + 6 * np.sqrt(2 * len(gaps)))


def _cells(column: Column, before: pa.ChunkedArray, now: pa.ChunkedArray) -> list[Ints]:
    """The cell of each value: fifths of the reference's numbers, or its five most frequent words; -1 in none."""
    if column.type.is_numeric:
        ends = np.nanquantile(floats(before), np.arange(1, CELLS) / CELLS)
        numbers = floats(before), floats(now)
        return [np.where(np.isnan(values), -1, np.searchsorted(ends, values)) for values in numbers]
    words = before.cast(pa.string()), now.cast(pa.string())
    frequent = pa.array(frequent_words(words[0], CELLS), pa.string())
    return [pc.index_in(values, frequent).fill_null(-1).to_numpy() for values in words]


def dead_feature(replay: Replay, relation: float) -> str:
    """The feature whose loss of all signal explains the change of `relation`; empty where none does.

    Mixed up among the reference's rows it costs about what has been lost; among current rows it costs next to
    nothing; and one who learns from current rows alone makes nothing of it either. A feature whose relation has
    turned around fails the last: it can be learned anew. Where no other feature tells anything, outcomes are
    noise.
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
