"""Layouts: what a version's profiles count, and in which bins. One is made from its reference and then stays."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.monitoring.arrays import MOST, Floats, Ints, Mask, column_of, floats, frequencies, mapped, texts
from feedback_loop.monitoring.profiles.blocks import MISSING, NEW, NON_FINITE, RARE
from feedback_loop.monitoring.profiles.custom_sums import OwnSums, sums_of
from feedback_loop.monitoring.profiles.loss_tree import LossTree, grow
from feedback_loop.monitoring.sampling import weights_of
from feedback_loop.schema import OTHER, Column, ColumnType, Contract, Task, most_frequent, segment_name

BINS = 100
TAILS = (0.0005, 0.001, 0.002, 0.005)
"""Quantiles at each end besides the hundredths: wide bins in the tails hold few rows then."""

LEVELS = np.unique([*np.linspace(0, 1, BINS + 1), *TAILS, *(1 - level for level in TAILS)])
WORDS = 1000
"""The size of a column's vocabulary: these most frequent words of the reference are counted one by one."""

SINGLE = 4
"""A vocabulary of at most so many words needs no choice: all of them are compared one by one."""

OFTEN = 5
"""A column each of whose words came so often has a closed vocabulary: no new words are expected."""

FREQUENT = 20
"""In an open vocabulary, distances compare the words that came so often: those of rarer words are mostly noise, and
grow with the number of words."""

KNOWN_WORDS = 100_000
"""So many further words of the reference are counted as rare; all others are new."""

SCORED_CLASSES = 20
"""A task of more classes has no score bins, which would take too much space."""


FINEST, COARSE = 2.0**-50, 2.0**-22
"""Numbers whose relative distance is smaller are equal: of doubles, and of values that fit single precision."""

SUMMED = 4
"""The tolerance of answers is so many times as large: they are sums of many parts."""


@dataclass(frozen=True)
class NumberLayout:
    """Bins of numbers. Bin i holds the values that are above `cuts[i]` and not above `cuts[i + 1]`.

    The first bin has no lower end, and one more after the last cut holds those above all. `edges[i]` is the greatest
    value of the reference below `cuts[i + 1]`: of all its values (`are_values`) where it has no more than 100, else
    of its quantiles. The cuts are in the middle between two values of the reference: an answer that another engine,
    or another batch, rounds otherwise stays in its bin. What is below the first or above the last is out of range.
    Sums are of distances from `centre`, so that they stay exact far from 0.
    """

    column: str
    edges: tuple[float, ...]
    centre: float
    are_values: bool = False
    cuts: tuple[float, ...] = ()

    def slots(self, values: Floats) -> Ints:
        """The bin of each finite number; `MISSING` or `NON_FINITE` for the others."""
        bins = np.searchsorted(np.asarray(self.cuts[1:]), values, side="left")
        return np.where(np.isfinite(values), bins, np.where(np.isnan(values), MISSING, NON_FINITE))


@dataclass(frozen=True)
class WordLayout:
    """Words that are counted each by itself, most frequent first; `rare` are others that the reference has.

    Words chosen for being frequent will be less so later, and of many words some will be new. By how much is measured
    on rows that had no part in the choice: half of the reference, drawn at random, chooses the words and their
    order, and the other half is counted (`Block.HELD_OUT`), as all later rows are. A vocabulary that `is_open` is of
    the first half alone; else it holds every word, and each came often.
    """

    column: str
    words: tuple[str, ...]
    rare: tuple[str, ...] = ()
    is_open: bool = False
    frequent: int = WORDS  # so many of the words are told apart by distances

    @property
    def is_halved(self) -> bool:
        """Whether the words were chosen by one half of the reference."""
        return self.is_open or len(self.words) > SINGLE

    def slots(self, column: pa.ChunkedArray) -> Ints:
        """The place of each word in the vocabulary; `RARE`, `NEW` or `MISSING` for the others."""
        words = texts(column)
        places = pc.index_in(words, pa.array([*self.words, *self.rare], pa.string())).fill_null(-1).to_numpy()
        strange = np.where(pc.is_null(words).to_numpy(), MISSING, NEW)
        return np.where(places < 0, strange, np.where(places < len(self.words), places, RARE)).astype(np.int64)


@dataclass(frozen=True)
class SegmentLayout:
    """The values of a column of segments that are counted each by itself; all others are counted together."""

    column: str
    values: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The segments, by the slots of their values."""
        return [segment_name(self.column, value) for value in (*self.values, OTHER)]

    def slots(self, values: Sequence[str]) -> Ints:
        """The place of each value's segment in `names`."""
        places = {value: place for place, value in enumerate(self.values)}
        return np.array([places.get(value, len(places)) for value in values], dtype=np.int64)


@dataclass(frozen=True)
class Repeats:
    """The share of pairs of the reference's rows that have the same features, and the variance of that estimate."""

    share: float = 0.0
    variance: float = 0.0


@dataclass(frozen=True)
class Layout:
    """What is counted of the rows of a contract. `target` is the label's layout where that is a number.

    `tree` tells rows of a regression apart by the loss that is to be expected of them (see `estimates`). `own` are
    the sums of a user's own metrics, `more_targets` the layouts of further labels. The contract's classes are those
    that the model says, or were seen among outcomes (`are_learned`). Of a column that is not among `segments` every
    value is a segment.
    """

    contract: Contract
    numbers: tuple[NumberLayout, ...] = ()
    words: tuple[WordLayout, ...] = ()
    target: NumberLayout | None = None
    tree: LossTree | None = None
    own: tuple[OwnSums, ...] = ()
    more_targets: tuple[NumberLayout, ...] = ()
    repeats: Repeats = Repeats()
    are_learned: bool = False
    segments: tuple[SegmentLayout, ...] = ()

    @classmethod
    def bare(cls, contract: Contract) -> Layout:
        """The layout that a contract has before there is a reference."""
        return cls(contract, own=sums_of(contract))

    @property
    def targets(self) -> tuple[Layout, ...]:
        """What is counted of each label with its outcomes."""
        if not self.contract.more_labels:
            return (self,)
        numbers = (self.target, *self.more_targets) if self.target is not None else ()
        pairs = zip_longest(self.contract.targets, numbers)
        return tuple(Layout(contract, target=number) for contract, number in pairs)

    def with_segments(self, values: Mapping[str, Sequence[str]]) -> Layout:
        """The layout with those values of columns of segments too, as far as there is room beside its own."""
        own = {segment.column: segment.values for segment in self.segments}
        named = {name: dict.fromkeys([*own.get(name, ()), *values.get(name, ())]) for name in self.contract.segments}
        limit = self.contract.segment_values
        return replace(
            self, segments=tuple(SegmentLayout(name, tuple(words)[:limit]) for name, words in named.items())
        )

    def with_segments_of(self, rows: pa.Table) -> Layout:
        """The same with the values that these rows have most often."""
        values = {}
        for name in self.contract.segments:
            counts = frequencies(column_of(rows, self.contract.column(name).stored))
            named = {str(value): count for value, count in counts.items()}
            values[name] = most_frequent(named, self.contract.segment_values)
        return self.with_segments(values)

    def slots(self, rows: pa.Table, place: int) -> Ints:
        """The slots of one column of rows (missing where they lack it), by its place: numbers first, then words."""
        if place < len(self.numbers):
            number = self.numbers[place]
            return number.slots(floats(column_of(rows, number.column)))
        word = self.words[place - len(self.numbers)]
        return word.slots(column_of(rows, word.column))

    @property
    def scored_classes(self) -> int:
        """For how many classes there are score bins: 1 stands for the positive one of a binary task."""
        count = len(self.contract.probabilities)
        return count if count <= SCORED_CLASSES else 0

    def is_of(self, contract: Contract) -> bool:
        """Whether it was made for that contract, however outcomes are joined and rows are ranked.

        But whether outcomes need an action must be as it was: other rows are counted.
        What is kept of its own metrics must be what their code makes now.
        """
        own = self.contract
        learns = self.are_learned and not contract.classes
        same = replace(
            contract,
            classes=own.classes if learns else contract.classes,
            positive=own.positive if learns and contract.positive is None else contract.positive,
            more_classes=own.more_classes,
            join=replace(own.join, needs_action=contract.join.needs_action),
            query=own.query,
        )
        return own == same and self.own == sums_of(contract)

    def to_bytes(self) -> bytes:
        """A compact form."""
        return zlib.compress(msgspec.msgpack.encode(self))

    @classmethod
    def from_bytes(cls, packed: bytes) -> Layout:
        """The inverse of `to_bytes`."""
        return msgspec.msgpack.decode(zlib.decompress(packed), type=cls)


def profiled_columns(contract: Contract) -> tuple[Column, ...]:
    """The columns whose distributions are watched: outputs and features, but for points in time."""
    return tuple(
        column for column in (*contract.outputs, *contract.features) if column.type is not ColumnType.DATETIME
    )


def make_layout(contract: Contract, reference: pa.Table) -> Layout:
    """The layout that these rows (stored names) give: bins by their quantiles, vocabularies of their words."""
    columns = [column for column in profiled_columns(contract) if column.stored in reference.column_names]
    label = contract.label.stored
    declared, contract = contract, with_classes(contract, reference)
    has_target = contract.task is Task.REGRESSION and label in reference.column_names
    targets = [number_layout(label.stored, reference) for label in contract.labels] if has_target else [None]
    layout = Layout(
        contract,
        numbers=tuple(_number(contract, column, reference) for column in columns if column.type.is_numeric),
        words=tuple(word_layout(column.stored, reference) for column in columns if not column.type.is_numeric),
        target=targets[0],
        own=sums_of(contract),
        more_targets=tuple(target for target in targets[1:] if target is not None),
        repeats=_repeats(contract, reference),
        are_learned=contract != declared,
    ).with_segments_of(reference)
    if not has_target or contract.more_labels or contract.outputs[0].stored not in reference.column_names:
        return layout
    codes = [layout.slots(reference, place) for place in range(len(layout.numbers) + len(layout.words))]
    with np.errstate(over="ignore", invalid="ignore"):
        errors = floats(reference.column(contract.outputs[0].stored)) - floats(reference.column(label))
    return replace(layout, tree=grow(np.column_stack(codes), errors, weights_of(reference)))


def with_classes(contract: Contract, reference: pa.Table) -> Contract:
    """The contract with the classes of its outcomes where the model doesn't name any; of two the last is positive."""
    label = contract.label.stored
    if not contract.task.is_classification or contract.classes or label not in reference.column_names:
        return contract
    classes = tuple(sorted(reference.column(label).unique().drop_null().to_pylist()))
    if contract.task is Task.MULTICLASS:
        return replace(contract, classes=classes)
    if len(classes) != 2 or contract.positive not in (None, *classes):
        return contract
    return replace(
        contract, classes=classes, positive=classes[-1] if contract.positive is None else contract.positive
    )


def _number(contract: Contract, column: Column, reference: pa.Table) -> NumberLayout:
    """The layout of a column. Engines round answers relative to their usual size, which is 1 for probabilities."""
    if column not in contract.outputs:
        return number_layout(column.stored, reference)
    values = floats(reference.column(column.stored))
    sizes = np.abs(values[np.isfinite(values)])
    scale = 1.0 if column in contract.probabilities else float(np.median(sizes)) if len(sizes) else 0.0
    return number_layout(column.stored, reference, noise=SUMMED * FINEST, scale=scale)


def number_layout(column: str, rows: pa.Table, *, noise: float = FINEST, scale: float = 0.0) -> NumberLayout:
    """The bins of a column of numbers.

    Numbers are equal that differ by less than `noise` times their size, or times `scale` where that is greater.
    """
    values = floats(rows.column(column))
    finite = values[np.isfinite(values)]
    if not len(finite):
        return NumberLayout(column, (), 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        centre = float(finite.mean())
        edges, cuts, are_values = _bins(finite, noise, scale)
    centre = centre if np.isfinite(centre) else 0.0
    return NumberLayout(column, tuple(edges.tolist()), centre, are_values, tuple(cuts.tolist()))


def _bins(finite: Floats, noise: float, scale: float) -> tuple[Floats, Floats, bool]:
    """Edges, cuts, and whether the edges are all values."""
    distinct = np.unique(finite)
    same = noise * np.maximum(np.abs(distinct), scale)
    if (distinct == distinct.astype(np.float32)).all():
        same = same * (COARSE / FINEST)
    if (distinct == np.floor(distinct)).all():  # whole numbers are not rounded
        same = np.zeros(len(distinct))
    gaps = np.append(np.diff(distinct), np.inf)
    ends = np.flatnonzero(gaps > same)
    starts = np.append(0, ends[:-1] + 1)
    are_values = len(ends) <= BINS and bool((distinct[ends] - distinct[starts] <= same[ends]).all())
    if not are_values:
        levels = np.unique(np.quantile(finite, LEVELS, method="inverted_cdf"))
        first = np.searchsorted(distinct, levels)
        last = np.searchsorted(distinct, levels + same[first], side="right")
        ends = np.unique([start + gaps[start:end].argmax() for start, end in zip(first, last, strict=True)])
    edges = distinct[ends]
    between = edges[:-1] / 2 + distinct[ends[:-1] + 1] / 2  # not half the sum, which may be beyond all doubles
    cuts = np.array([distinct[0] - same[0], *np.maximum(between, edges[:-1]), edges[-1] + same[-1]])
    return edges, np.clip(cuts, -MOST, MOST), are_values


def word_layout(
    column: str, rows: pa.Table, *, like: WordLayout | None = None, choosing: Mask | None = None
) -> WordLayout:
    """The vocabulary of a column of words, by the rows that are `choosing` (default: `choosing_half`).

    `like` is the layout of all rows where these are a part of them: their vocabulary is as open.
    """
    words = texts(rows.column(column))
    choosing = choosing_half(len(words)) if choosing is None else choosing
    if like is None:
        counts = pc.value_counts(words.drop_null()).field("counts")
        is_open = len(counts) > WORDS or (pc.min(counts).as_py() or OFTEN) < OFTEN
    else:
        is_open = like.is_open
    chosen = {} if is_open else dict.fromkeys(words.drop_null().unique().to_pylist(), 0)
    chosen |= frequencies(words.filter(pa.array(choosing)))
    ordered = sorted(chosen, key=lambda word: (-chosen[word], word))
    frequent = sum(chosen[word] >= FREQUENT for word in ordered[:WORDS]) if is_open else WORDS
    return WordLayout(column, tuple(ordered[:WORDS]), tuple(ordered[WORDS : WORDS + KNOWN_WORDS]), is_open, frequent)


def choosing_half(rows: int) -> Mask:
    """Which of the reference's rows choose words; always the same ones."""
    return np.asarray(np.random.default_rng(rows).random(rows) < 0.5)


def _repeats(contract: Contract, reference: pa.Table) -> Repeats:
    """How often rows of a reference have the same features, by means over pairs of rows (Hoeffding 1948)."""
    rows = reference.num_rows
    if rows < 2:
        return Repeats()
    counts = np.unique(row_hashes(contract, reference), return_counts=True)[1].astype(np.float64)
    share, shares = float((counts * (counts - 1)).sum() / (rows * (rows - 1))), counts / rows
    spread = max(float((shares**3).sum() - (shares**2).sum() ** 2), 0.0)
    pair = 2 / (rows * (rows - 1))
    return Repeats(share, 4 * spread / rows + pair * max(share, pair))


def row_hashes(contract: Contract, rows: pa.Table) -> npt.NDArray[np.uint64]:
    """A hash of each row's features, the same in every process."""
    mixed = np.full(rows.num_rows, _MIX, np.uint64)
    for feature in contract.features:
        column = column_of(rows, feature.stored)
        if feature.type.is_numeric:
            values = floats(column) + 0.0  # -0 is 0
            part = np.where(np.isnan(values), 0.0, values).view(np.uint64)
        else:
            part = mapped(texts(column), lambda text: zlib.crc32(text.encode())).view(np.uint64)
        mixed = (mixed ^ part) * _MIX
        mixed ^= mixed >> np.uint64(29)
    return mixed


_MIX = np.uint64(0x9E3779B97F4A7C15)
"""An odd number whose bits look random: 2⁶⁴ over the golden ratio (Knuth, TAOCP 3, section 6.4)."""
