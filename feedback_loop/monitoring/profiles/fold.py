"""Folding: rows of the log into tallies, by hour, weight and segment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.monitoring.arrays import MOST, Floats, Ints, Mask, column_of, floats
from feedback_loop.monitoring.judging import judged
from feedback_loop.monitoring.losses import (
    class_places,
    class_probabilities,
    invalid_probabilities,
    is_positive,
    row_losses,
    with_raw_answers,
)
from feedback_loop.monitoring.profiles import blocks
from feedback_loop.monitoring.profiles.blocks import Block, Loss, Moment, Rows
from feedback_loop.monitoring.profiles.custom_sums import own_numbers
from feedback_loop.monitoring.profiles.exact_sums import LIMBS, limbs
from feedback_loop.monitoring.profiles.layout import Layout, NumberLayout, SegmentLayout, choosing_half, row_hashes
from feedback_loop.monitoring.profiles.tally import SLOTS, TARGET, Tally
from feedback_loop.monitoring.sampling import weights_of
from feedback_loop.schema import OTHER, Contract, Task
from feedback_loop.store.evaluations import ALL_ROWS

TIME = "predicted_at"
"""The column of rows of the log that says when they were predicted."""

HOUR_US = 3_600_000_000

JUDGED = "(judged) "
"""Begins the segments of tallies of rows that can be judged, where outcomes need an action."""


@dataclass(frozen=True, order=True)
class Cell:
    """What a tally counts: the rows of a segment, of an hour (counted from 1970), that stand for `weight` each."""

    segment: str
    hour: int
    weight: float


def fold_predictions(layout: Layout, rows: pa.Table) -> dict[Cell, Tally]:
    """Tallies of predictions alone: how many, distributions of features and outputs, answers by segment."""
    tallies: dict[Cell, Tally] = {}
    for cells, groups, part in _cells(layout, rows):
        counter = _predicted(layout, cells, groups, part)
        if cells[0].segment == ALL_ROWS:
            counter.count_rows(Rows.INVALID_PROBABILITIES, invalid_probabilities(layout.contract, part))
            counter.count(Block.HASHES, _hashes(layout.contract, part))
            watched = with_raw_answers(layout.contract, part)
            for place, number in enumerate(layout.numbers):
                _numbers(counter, Block.NUMBERS.of(place), number, floats(column_of(watched, number.column)))
            for place, word in enumerate(layout.words):
                counter.count(Block.WORDS.of(place), word.slots(column_of(watched, word.column)))
            if layout.tree is not None and not layout.contract.more_labels:
                _leaves(counter, layout, part)
        tallies |= dict(zip(cells, counter.tallies(), strict=True))
    return tallies


def fold_outcomes(layout: Layout, rows: pa.Table) -> dict[Cell, Tally]:
    """Tallies of predictions with their outcomes; rows without an outcome are left out.

    Where outcomes need an action: of the rows that can be judged, apart from those of all predictions (see
    `judged_cells`), with how many they are and what was answered, as they are weighted by propensity.
    """
    if not layout.contract.join.needs_action:
        return fold_labelled(layout, rows)
    rows, counted = judged(layout.contract, rows), dict[Cell, Tally]()
    for cells, groups, part in _cells(layout, rows):
        counted |= dict(zip(cells, _predicted(layout, cells, groups, part).tallies(), strict=True))
    cells_of_judged = merge([counted, fold_labelled(layout, rows)])
    return {replace(cell, segment=JUDGED + cell.segment): tally for cell, tally in cells_of_judged.items()}


def outcome_segment(contract: Contract) -> str:
    """The segment of the tallies of all rows with their outcomes."""
    return JUDGED + ALL_ROWS if contract.join.needs_action else ALL_ROWS


def judged_cells(layout: Layout, cells: Mapping[Cell, Tally]) -> Mapping[Cell, Tally]:
    """The tallies that metrics are made of: all, or where outcomes need an action those of the rows that count."""
    if not layout.contract.join.needs_action:
        return cells
    own = {cell: tally for cell, tally in cells.items() if cell.segment.startswith(JUDGED)}
    return {replace(cell, segment=cell.segment.removeprefix(JUDGED)): tally for cell, tally in own.items()}


def fold_labelled(layout: Layout, rows: pa.Table) -> dict[Cell, Tally]:
    """Tallies of the rows that have an outcome, as they are weighted."""
    contract = layout.contract
    needed = (*contract.labels, *contract.predictions)
    labelled = rows.filter(reduce(pc.and_, (pc.is_valid(rows.column(column.stored)) for column in needed)))
    tallies: dict[Cell, Tally] = {}
    for cells, groups, part in _cells(layout, labelled):
        counter = _Counter(groups, len(cells), len(layout.contract.more_labels))
        counter.count_rows(Rows.LABELLED)
        for counter.target, target in _targets(layout):
            if counter.target:
                counter.count_rows(Rows.LABELLED)
            (_regression if contract.task is Task.REGRESSION else _classes)(counter, target, part)
        counter.target = 0
        if contract.more_labels and contract.task is Task.BINARY:
            wrong = [row_losses(target, part)["error"] for target in contract.targets]
            counter.count_rows(Rows.RIGHT, np.sum(wrong, axis=0) == 0)
        if cells[0].segment == ALL_ROWS:
            _own(counter, layout, part)
        tallies |= dict(zip(cells, counter.tallies(), strict=True))
    return tallies


def fold_words(layout: Layout, rows: pa.Table) -> dict[Cell, Tally]:
    """The words of predictions, and how many there are: less than `fold_predictions` counts, and sooner."""
    if not rows.num_rows:
        return {}
    [(cells, groups, part)] = _cells(replace(layout, contract=replace(layout.contract, segments=())), rows)
    counter = _Counter(groups, len(cells))
    counter.count_rows(Rows.PREDICTED)
    watched = with_raw_answers(layout.contract, part)
    for place, word in enumerate(layout.words):
        counter.count(Block.WORDS.of(place), word.slots(column_of(watched, word.column)))
    return dict(zip(cells, counter.tallies(), strict=True))


def fold_held_out(layout: Layout, reference: pa.Table, choosing: Mask | None = None) -> dict[Cell, Tally]:
    """The words of those rows of a reference that had no part in choosing them (see `word_layout`)."""
    choosing = choosing_half(reference.num_rows) if choosing is None else choosing
    halved = {place: word for place, word in enumerate(layout.words) if word.is_halved}
    fresh = reference.filter(pa.array(~choosing))
    if not halved or not fresh.num_rows:
        return {}
    [(cells, groups, part)] = _cells(replace(layout, contract=replace(layout.contract, segments=())), fresh)
    counter = _Counter(groups, len(cells))
    for place, word in halved.items():
        counter.count(Block.HELD_OUT.of(place), word.slots(column_of(part, word.column)))
    return dict(zip(cells, counter.tallies(), strict=True))


def fold(layout: Layout, rows: pa.Table) -> dict[Cell, Tally]:
    """The tallies of rows, predictions and outcomes together."""
    return merge([fold_predictions(layout, rows), fold_outcomes(layout, rows)])


def merge(parts: Iterable[Mapping[Cell, Tally]]) -> dict[Cell, Tally]:
    """The sums of tallies by cell."""
    merged: dict[Cell, Tally] = {}
    for part in parts:
        for cell, tally in part.items():
            merged[cell] = merged[cell] + tally if cell in merged else tally
    return merged


@dataclass
class _Counter:
    """Collects what rows add to the blocks of their groups' tallies."""

    groups: Ints
    size: int
    labels: int = 0  # beside the first
    target: int = 0  # of several labels, the number (from 1 on) of the one that is counted
    _parts: list[tuple[Ints, Ints]] = field(default_factory=list)

    def count(self, block: int, slots: Ints, mask: Mask | None = None) -> None:
        """Counts one for each row (of the mask) in its slot."""
        groups = self.groups if mask is None else self.groups[mask]
        slots = slots if mask is None else slots[mask]
        if not len(slots):
            return
        width = int(slots.max()) + 1
        if self.size * width <= 4 * len(slots) + 65536:
            counts = np.bincount(groups * width + slots)
            places = np.flatnonzero(counts)
            counts = counts[places]
        else:
            places, counts = np.unique(groups * width + slots, return_counts=True)
        self._add(places // width, block, places % width, counts)

    def count_rows(self, kind: int, mask: Mask | None = None) -> None:
        """Counts each row (of the mask) as one of that kind."""
        self.count(Block.ROWS, np.full(len(self.groups), kind), mask)

    def add(self, block: int, ordinal: int, values: Floats, mask: Mask | None = None) -> None:
        """Adds the values (of the mask), made finite, to that sum of the block."""
        groups = self.groups if mask is None else self.groups[mask]
        chosen = np.clip(values if mask is None else values[mask], -MOST, MOST)
        for group, slots, sums in limbs(chosen, groups, self.size):
            self._add(group, block, slots + ordinal * LIMBS, sums)

    def tallies(self) -> list[Tally]:
        """One for each group."""
        keys, values = (np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))
        whole = Tally.of(keys, values)
        bounds = np.searchsorted(whole.keys, np.arange(self.size + 1) << self._group)
        return [
            Tally(whole.keys[first:end] - (number << self._group), whole.values[first:end])
            for number, (first, end) in enumerate(pairwise(bounds.tolist()))
        ]

    def _add(self, groups: Ints, block: int, slots: Ints, values: Ints) -> None:
        keys = (groups << self._group) + (self.target << TARGET) + (block << SLOTS) + slots
        self._parts.append((keys, np.asarray(values, np.int64)))

    @property
    def _group(self) -> int:
        """The lowest bit of a key that holds the number of its group."""
        return TARGET + (self.labels + 1).bit_length() if self.labels else TARGET


def _cells(layout: Layout, rows: pa.Table) -> Iterable[tuple[list[Cell], Ints, pa.Table]]:
    """For all rows and for each column of segments: the cells, which of them each row is in, and the rows."""
    if not rows.num_rows:
        return
    hours = _hours(rows)
    weights, which = np.unique(weights_of(rows), return_inverse=True)
    keys, groups = np.unique(hours * len(weights) + which, return_inverse=True)
    keys = [(int(key // len(weights)), float(weights[key % len(weights)])) for key in keys.tolist()]
    yield [Cell(ALL_ROWS, hour, weight) for hour, weight in keys], groups, rows
    named = {segment.column: segment for segment in layout.segments}
    for name in layout.contract.segments:
        stored = layout.contract.column(name).stored
        is_present = pc.is_valid(column_of(rows, stored))
        if not pc.any(is_present).as_py():
            continue
        values = pa.concat_arrays(rows.column(stored).filter(is_present).chunks).dictionary_encode()
        texts = [str(value) for value in values.dictionary.to_pylist()]
        segment = (
            named[name]
            if name in named
            else SegmentLayout(name, tuple(dict.fromkeys(text for text in texts if text != OTHER)))
        )
        slots = segment.slots(texts)[values.indices.to_numpy(zero_copy_only=False)]
        names = segment.names
        used, inner = np.unique(groups[is_present.to_numpy()] * len(names) + slots, return_inverse=True)
        cells = [Cell(names[place % len(names)], *keys[place // len(names)]) for place in used.tolist()]
        yield cells, inner, rows.filter(is_present)


def _hours(rows: pa.Table) -> Ints:
    if TIME not in rows.column_names:
        return np.zeros(rows.num_rows, np.int64)
    times = rows.column(TIME).cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    return np.asarray(times // HOUR_US, np.int64)


def _numbers(counter: _Counter, block: int, layout: NumberLayout, values: Floats) -> None:
    finite, slots = np.isfinite(values), layout.slots(values)
    counter.count(block, slots, ~finite)
    counter.count(block, slots, finite)
    with np.errstate(over="ignore", invalid="ignore"):
        distance = values - layout.centre
        counter.add(block + 1, Moment.FIRST, distance, finite)
        counter.add(block + 1, Moment.SECOND, distance**2, finite)
        if layout.edges:
            for slot, moment, beyond, outside in (
                (blocks.BELOW, Moment.BELOW, layout.edges[0] - values, finite & (values < layout.cuts[0])),
                (blocks.ABOVE, Moment.ABOVE, values - layout.edges[-1], finite & (values > layout.cuts[-1])),
            ):
                counter.count(block, np.full(len(values), slot), outside)
                counter.add(block + 1, moment, beyond, outside)


def _hashes(contract: Contract, rows: pa.Table) -> Ints:
    """A hash of each row's features, the same in every process."""
    return (row_hashes(contract, rows) >> np.uint64(32)).astype(np.int64) % blocks.HASHES


def _predicted(layout: Layout, cells: Sequence[Cell], groups: Ints, rows: pa.Table) -> _Counter:
    """A counter that has counted the rows of these cells, and what was answered."""
    counter = _Counter(groups, len(cells), len(layout.contract.more_labels))
    counter.count_rows(Rows.PREDICTED)
    for counter.target, target in _targets(layout):
        _answers(counter, target, rows)
    counter.target = 0
    if cells[0].segment == ALL_ROWS and layout.contract.task.is_classification and not layout.contract.more_labels:
        _answered(counter, layout, rows)
    return counter


def _answers(counter: _Counter, layout: Layout, rows: pa.Table) -> None:
    contract = layout.contract
    answer = rows.column(contract.outputs[0].stored)
    if contract.task is Task.REGRESSION:
        counter.count(Block.ANSWERS, np.zeros(len(counter.groups), np.int64), np.isfinite(floats(answer)))
        return
    counter.count(Block.ANSWERS, _places(contract, answer), pc.is_valid(answer).to_numpy())
    for place in range(layout.scored_classes):
        scores = floats(column_of(rows, contract.probabilities[place].stored))
        counter.count(Block.SCORES.of(place), blocks.score_bins(scores), np.isfinite(scores))


def _answered(counter: _Counter, layout: Layout, rows: pa.Table) -> None:
    """What estimates need: the scores of the answered class."""
    contract = layout.contract
    places = _places(contract, rows.column(contract.outputs[0].stored))
    for place in range(layout.scored_classes):
        scores = floats(column_of(rows, contract.probabilities[place].stored))
        hit = places == (1 if contract.task is Task.BINARY else place)
        counter.count(Block.ANSWERED.of(place), blocks.score_bins(scores), np.isfinite(scores) & hit)


def _leaves(counter: _Counter, layout: Layout, rows: pa.Table) -> None:
    """What estimates of a regression need: the leaves of the tree of losses. It takes the features."""
    assert layout.tree is not None  # the caller knows
    leaves = layout.tree.leaves(lambda place: layout.slots(rows, place), rows.num_rows)
    counter.count(Block.LEAVES, leaves, np.isfinite(floats(rows.column(layout.contract.outputs[0].stored))))


def _classes(counter: _Counter, layout: Layout, rows: pa.Table) -> None:
    contract = layout.contract
    label = rows.column(contract.label.stored)
    truth = _places(contract, label)
    answers = _places(contract, rows.column(contract.outputs[0].stored))
    losses = row_losses(contract, rows)
    counter.count(Block.CONFUSION, truth * blocks.SIDE + answers)
    counter.count_rows(Rows.RIGHT, losses["error"] == 0)
    if not contract.probabilities:
        return
    chances = class_probabilities(contract, rows)
    scored: Mask = np.asarray(np.isfinite(chances).all(axis=1), dtype=np.bool_)
    counter.count_rows(Rows.SCORED, scored)
    for loss, ordinal in (("log_loss", Loss.LOG_LOSS), ("brier", Loss.BRIER)):
        counter.add(Block.LOSSES, ordinal, losses[loss], scored)
        counter.add(Block.LOSSES, ordinal + 1, losses[loss] ** 2, scored)
    for place in range(layout.scored_classes):
        column = contract.probabilities[place]
        bins = blocks.score_bins(floats(rows.column(column.stored)))
        hit = truth == (1 if contract.task is Task.BINARY else place)
        counter.count(Block.HITS.of(place), bins, scored & hit)
        counter.count(Block.MISSES.of(place), bins, scored & ~hit)


def _regression(counter: _Counter, layout: Layout, rows: pa.Table) -> None:
    contract = layout.contract
    truth = floats(rows.column(contract.label.stored))
    answer = floats(rows.column(contract.outputs[0].stored))
    finite: Mask = np.isfinite(truth) & np.isfinite(answer)
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.clip(answer - truth, -MOST, MOST)
    counter.count_rows(Rows.SCORED, finite)
    counter.count(Block.ERRORS, blocks.float_bins(np.where(finite, error, 0.0)), finite)
    size = np.abs(error)
    with np.errstate(over="ignore", invalid="ignore"):
        share = size / np.maximum(np.abs(truth), np.finfo(np.float64).eps)
        sums = {
            Loss.ERROR: error,
            Loss.ABSOLUTE: size,
            Loss.SQUARED: size**2,
            Loss.FOURTH: size**4,
            Loss.SIGNED_SQUARE: error * size,
            Loss.PERCENTAGE: share,
            Loss.PERCENTAGE_SQUARED: share**2,
        }
    for ordinal, values in sums.items():
        counter.add(Block.LOSSES, ordinal, values, finite)
    target = layout.target or NumberLayout(contract.label.stored, (), 0.0)
    _numbers(counter, Block.TARGET, target, np.where(finite, truth, np.nan))


def _targets(layout: Layout) -> Iterable[tuple[int, Layout]]:
    """The number of each label (0: it is the only one), and its layout."""
    return enumerate(layout.targets, start=1 if layout.contract.more_labels else 0)


def _own(counter: _Counter, layout: Layout, rows: pa.Table) -> None:
    for place, (numbers, counting, failed) in enumerate(own_numbers(layout.contract, layout.own, rows)):
        for slot, mask in ((blocks.OWN_ROWS + place, counting), (blocks.OWN_FAILED + place, failed)):
            counter.count_rows(slot, mask)
        for ordinal, values in enumerate(numbers):
            counter.add(Block.OWN.of(place), ordinal, values, counting)


def _places(contract: Contract, values: pa.ChunkedArray) -> Ints:
    if contract.task is Task.BINARY:
        return is_positive(contract, values).astype(np.int64)
    places = class_places(contract.classes[: blocks.MOST_CLASSES], values)
    return np.where(places < 0, blocks.OTHER_CLASS, places)
