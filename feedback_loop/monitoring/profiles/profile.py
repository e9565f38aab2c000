"""Profiles: tallies of the same rows as counts, sums and means of what the rows stand for."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import msgspec
import numpy as np

from feedback_loop.monitoring.arrays import MOST, Floats, Ints
from feedback_loop.monitoring.profiles.blocks import (
    ABOVE,
    BELOW,
    MISSING,
    NEW,
    NON_FINITE,
    RARE,
    Block,
    Moment,
    Rows,
)
from feedback_loop.monitoring.profiles.columns import NumberColumn, WordColumn
from feedback_loop.monitoring.profiles.exact_sums import LIMBS, summed
from feedback_loop.monitoring.profiles.fold import Cell
from feedback_loop.monitoring.profiles.layout import Layout, NumberLayout, WordLayout
from feedback_loop.monitoring.profiles.tally import TARGET, Tally, total
from feedback_loop.store.evaluations import ALL_ROWS
from feedback_loop.store.profiles import LAYOUT


@dataclass(frozen=True)
class Mean:
    """A mean of so many rows, with its standard error (of at least two)."""

    value: float
    rows: int
    standard_error: float | None


@dataclass(frozen=True)
class Swings:
    """How far a column of each window of the reference is from the rest of it, and the most rows of such a window."""

    distances: tuple[float, ...]
    rows: int


@dataclass(frozen=True)
class Profile:
    """Tallies by the weight of their rows. Weights count relative to the greatest: equal ones are all 1.

    `swings` (of a reference) are the distances of its own windows from all others: how far a column strays when
    nothing has changed. `until` (of one that was made of the log) is when its last row was predicted, in microseconds
    since 1970: windows before that are not judged by it.
    """

    layout: Layout
    parts: tuple[tuple[float, Tally], ...]
    swings: dict[str, Swings] = field(default_factory=dict)
    until: int | None = None

    @classmethod
    def of(cls, layout: Layout, cells: Mapping[Cell, Tally], segment: str = ALL_ROWS) -> Profile:
        """The profile of one segment, of all hours."""
        return cls.joined(layout, ((cell.weight, tally) for cell, tally in cells.items() if cell.segment == segment))

    @classmethod
    def joined(cls, layout: Layout, weighted: Iterable[tuple[float, Tally]]) -> Profile:
        """The profile of any number of tallies, each with the weight of its rows."""
        by_weight: dict[float, list[Tally]] = {}
        for weight, tally in weighted:
            by_weight.setdefault(weight, []).append(tally)
        most = max(by_weight, default=1.0)
        return cls(layout, tuple((weight / most, total(by_weight[weight])) for weight in sorted(by_weight)))

    def target(self, place: int) -> Profile:
        """The profile of one of several labels, with its outcomes."""
        parts = tuple((weight, _of_target(tally, place)) for weight, tally in self.parts)
        return Profile(self.layout.targets[place], parts)

    @cached_property
    def numbers(self) -> dict[str, NumberColumn]:
        """What is counted of each column of numbers, by its stored name."""
        return {
            layout.column: _number_column(self, Block.NUMBERS.of(place), layout)
            for place, layout in enumerate(self.layout.numbers)
        }

    @cached_property
    def words(self) -> dict[str, WordColumn]:
        """What is counted of each column of words, by its stored name."""
        return {
            layout.column: _word_column(self, Block.WORDS.of(place), Block.HELD_OUT.of(place), layout)
            for place, layout in enumerate(self.layout.words)
        }

    @property
    def columns(self) -> dict[str, NumberColumn | WordColumn]:
        """Both: columns of numbers first."""
        return {**self.numbers, **self.words}

    @cached_property
    def outcomes(self) -> NumberColumn:
        """The outcomes of a regression."""
        target = self.layout.target or NumberLayout(self.layout.contract.label.stored, (), 0.0)
        return _number_column(self, Block.TARGET, target)

    def rows(self, kind: int = Rows.PREDICTED) -> int:
        """How many rows were logged."""
        return sum(tally.at(Block.ROWS, kind) for _, tally in self.parts)

    def weight(self, kind: int = Rows.PREDICTED) -> float:
        """How many predictions (in the greatest weight) they stand for."""
        return self.at(Block.ROWS, kind)

    def rows_by_weight(self, block: int, slot: int | None = None) -> Floats:
        """How many rows of each weight a block counts, or one of its slots."""
        return np.array(
            [tally.block(block)[1].sum() if slot is None else tally.at(block, slot) for _, tally in self.parts],
            np.float64,
        )

    def effective(self, share: float) -> float:
        """The effective sample size of rows with this total weight (Kish 1965, section 11.7)."""
        squares = sum(weight**2 * tally.at(Block.ROWS, Rows.PREDICTED) for weight, tally in self.parts)
        return share * self.weight() / squares if squares else share

    def at(self, block: int, slot: int) -> float:
        """What a slot holds."""
        return float(sum(weight * tally.at(block, slot) for weight, tally in self.parts))

    def slots(self, block: int) -> tuple[Ints, Floats]:
        """The slots of a block that hold something, ascending, and what they hold."""
        parts = [(weight, *tally.block(block)) for weight, tally in self.parts]
        if len(parts) == 1:
            return parts[0][1], np.asarray(parts[0][0] * parts[0][2], np.float64)
        slots = np.unique(np.concatenate([np.empty(0, np.int64), *(part[1] for part in parts)]))
        values = np.zeros(len(slots))
        for weight, part_slots, counts in parts:
            values[np.searchsorted(slots, part_slots)] += weight * counts
        return slots, values

    def counts(self, block: int, size: int) -> Floats:
        """The first slots of a block as an array of that size."""
        slots, values = self.slots(block)
        counts = np.zeros(size)
        inside = slots < size
        counts[slots[inside]] = values[inside]
        return counts

    def sum(self, block: int, ordinal: int) -> float:
        """One of the sums of a block, weighted by what the rows stand for; infinite where it overflows.

        A NumPy double, as means are: a product that overflows is infinite and raises nothing.
        """
        sums = zip(self._weights, self._sums(block, ordinal), strict=True)
        return np.float64(sum(weight * value for weight, value in sums))

    def mean(self, block: int, ordinal: int, squared: int, kind: int) -> Mean:
        """The mean of one of a block's sums, which has its squares in another, over rows of that kind."""
        return self.mean_of(self._sums(block, ordinal), self._sums(block, squared), kind)

    def share(self, part: Rows, kind: int) -> Mean:
        """How large a part of the rows of a kind are of another kind."""
        counts = [float(tally.at(Block.ROWS, part)) for _, tally in self.parts]
        return self.mean_of(counts, counts, kind)

    def mean_of(self, sums: list[float], squares: list[float], kind: int) -> Mean:
        """A mean by the sums and sums of squares of each weight.

        With its error as the ratio of two totals, by linearization (Särndal, Swensson and Wretman 1992, section 5.7).
        """
        counts = [tally.at(Block.ROWS, kind) for _, tally in self.parts]
        rows, whole = sum(counts), sum(w * n for w, n in zip(self._weights, counts, strict=True))
        value = np.float64(sum(w * s for w, s in zip(self._weights, sums, strict=True))) / whole
        if rows < 2:
            return Mean(value, rows, None)
        residuals = sum(
            w**2 * np.maximum(q - 2 * value * s + value**2 * n, 0.0)
            for w, n, s, q in zip(self._weights, counts, sums, squares, strict=True)
        )
        return Mean(value, rows, float(np.sqrt(residuals * rows / (rows - 1)) / whole))

    @cached_property
    def digest(self) -> str:
        """A hash of the content, not of its compressed bytes, which depend on the version of zlib."""
        parts = [
            (weight, *(array.astype("<i8").tobytes() for array in (t.keys, t.values))) for weight, t in self.parts
        ]
        content = msgspec.msgpack.encode((LAYOUT, self.layout, parts, self.swings, self.until))
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def to_bytes(self) -> bytes:
        """A compact form, with the layout."""
        parts = [(weight, tally.to_bytes()) for weight, tally in self.parts]
        return zlib.compress(msgspec.msgpack.encode((self.layout.to_bytes(), parts, self.swings, self.until)))

    @classmethod
    def from_bytes(cls, packed: bytes) -> Profile:
        """The inverse of `to_bytes`."""
        kind = tuple[bytes, list[tuple[float, bytes]], dict[str, Swings], int | None]
        layout, parts, swings, until = msgspec.msgpack.decode(zlib.decompress(packed), type=kind)
        tallies = tuple((weight, Tally.from_bytes(tally)) for weight, tally in parts)
        return cls(Layout.from_bytes(layout), tallies, swings, until)

    @property
    def _weights(self) -> list[float]:
        return [weight for weight, _ in self.parts]

    def _sums(self, block: int, ordinal: int) -> list[float]:
        return [_sum(tally, block, ordinal) for _, tally in self.parts]


def _of_target(tally: Tally, place: int) -> Tally:
    first = (place + 1) << TARGET
    start, end = np.searchsorted(tally.keys, (first, first + (1 << TARGET)))
    predicted = Tally.of(np.array([Rows.PREDICTED]), np.array([tally.at(Block.ROWS, Rows.PREDICTED)]))
    return predicted + Tally(tally.keys[start:end] - first, tally.values[start:end])


def _sum(tally: Tally, block: int, ordinal: int) -> float:
    slots, values = tally.block(block)
    first, end = np.searchsorted(slots, (ordinal * LIMBS, (ordinal + 1) * LIMBS))
    value = np.float64(summed(slots[first:end] - ordinal * LIMBS, values[first:end]))
    return value if abs(value) < MOST else value * np.inf  # what a row adds is clipped to that


def _number_column(profile: Profile, block: int, layout: NumberLayout) -> NumberColumn:
    """The column that is counted in a block, and summed in the next one."""
    counts = profile.counts(block, len(layout.edges) + 1)
    sums = [profile.sum(block + 1, moment) for moment in Moment]
    others = [profile.at(block, slot) for slot in (BELOW, ABOVE, MISSING, NON_FINITE)]
    return NumberColumn(layout, counts, *sums, *others)


def _word_column(profile: Profile, block: int, fresh: int, layout: WordLayout) -> WordColumn:
    """The column that is counted in a block, and its fresh rows, if there are any, in another one."""
    column = WordColumn(layout, *_counts_of_words(profile, block, layout))
    if not len(profile.slots(fresh)[0]):
        return column
    return replace(column, fresh=WordColumn(layout, *_counts_of_words(profile, fresh, layout)))


def _counts_of_words(profile: Profile, block: int, layout: WordLayout) -> tuple[Floats, float]:
    vocabulary = profile.counts(block, len(layout.words))
    return np.append(vocabulary, [profile.at(block, RARE), profile.at(block, NEW)]), profile.at(block, MISSING)
