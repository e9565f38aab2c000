"""In which rows a feature is broken, where it is not broken in all: one window of many, one upstream of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.decisions.diagnosis.sides import Ints, Mask, most_frequent
from feedback_loop.monitoring import Floats
from feedback_loop.schema import Column

SHIFTED = 0.15
"""Values are looked at for other units from this distance (Kolmogorov's) from the reference's on."""

LEAST_SHARE = 0.05
"""Of the rows: a smaller part, or all but a smaller part, is not told apart."""

MOST_WORDS = 20
"""So many words of another column are looked at apart, the most frequent."""

LEAST_ROWS = 50
"""Fewer rows of a part say nothing about how their values are distributed."""


@dataclass(frozen=True)
class Part:
    """Rows of certain windows, rows with certain words in another column, or rows with values outside of a range.

    Without any of them it is all rows.
    """

    windows: tuple[int, ...] = ()
    beside: str = ""  # the other column's stored name
    words: tuple[str, ...] = ()
    within: tuple[float, float] | None = None

    @property
    def is_all(self) -> bool:
        """Whether no row is left out."""
        return self == Part()

    @property
    def what(self) -> str:
        """Which rows they are, in words."""
        if self.words:
            return f" where {self.beside} is {' or '.join(self.words[:3])}{' or …' if len(self.words) > 3 else ''}"
        return ", all beyond the reference's range" if self.within is not None else ""

    def of(self, rows: pa.Table, values: Floats, windows: Ints) -> Mask:
        """Which rows belong to it, by their values of the feature and the numbers of their windows."""
        if self.windows:
            return np.isin(windows, self.windows)
        if self.words:
            return has_words(rows, self.beside, self.words)
        if self.within is not None:
            low, high = self.within
            return (values < low) | (values > high)
        return np.ones(rows.num_rows, dtype=np.bool_)


def has_words(rows: pa.Table, column: str, words: Sequence[str]) -> Mask:
    """The rows with one of these words in a column."""
    found = pc.is_in(rows.column(column).cast(pa.string()), pa.array(words, pa.string()))
    return np.asarray(found.to_numpy(), dtype=np.bool_)


def parts_off(
    before: Floats, now: Floats, windows: Ints, tables: tuple[pa.Table, pa.Table], words: Sequence[Column]
) -> Iterator[Part]:
    """Where values are not the reference's: in some windows, with some words, else in all rows; and beyond its range.

    `tables` are the rows of both sides, `words` the columns by which they may be told apart.
    """
    usual = before[np.isfinite(before)]
    finite = np.isfinite(now)
    if len(usual) and finite.any():
        shift = apart(usual, now[finite])
        off = _windows_off(usual, now[finite], windows[finite])
        by_words = () if off or shift < LEAST_SHARE / 2 else tuple(_words_off(before, now, tables, words))
        yield Part(windows=off) if off else by_words[0] if by_words else Part()
        yield Part(within=(float(usual.min()), float(usual.max())))


def _windows_off(before: Floats, now: Floats, windows: Ints) -> tuple[int, ...]:
    """The windows whose values are not the reference's, where those of others are; none where all are alike."""
    known, counts = np.unique(windows, return_counts=True)
    off = [
        int(each)
        for each, count in zip(known, counts, strict=True)
        if apart(before, now[windows == each]) > SHIFTED + 1 / np.sqrt(count)
    ]
    return tuple(off) if _is_part(before, now, np.isin(windows, off)) else ()


def _words_off(
    before: Floats, now: Floats, tables: tuple[pa.Table, pa.Table], words: Sequence[Column]
) -> Iterator[Part]:
    """Words of a column with whose rows the values are not the reference's with the same word; others' are."""
    reference, current = tables
    for column in words:
        named = current.column(column.stored).cast(pa.string())
        off: list[str] = []
        for word in most_frequent(named, MOST_WORDS):
            was = before[has_words(reference, column.stored, [word])]
            own = now[has_words(current, column.stored, [word])]
            was, own = was[np.isfinite(was)], own[np.isfinite(own)]
            if min(len(was), len(own)) >= LEAST_ROWS and apart(was, own) > SHIFTED + 1 / np.sqrt(len(own)):
                off.append(word)
        if off and _is_part_of_rows(before, now, tables, column.stored, off):
            yield Part(beside=column.stored, words=tuple(off))


def _is_part_of_rows(
    before: Floats, now: Floats, tables: tuple[pa.Table, pa.Table], column: str, words: Sequence[str]
) -> bool:
    others = [
        values[np.isfinite(values) & ~has_words(rows, column, words)]
        for values, rows in zip((before, now), tables, strict=True)
    ]
    share = 1 - len(others[1]) / max(int(np.isfinite(now).sum()), 1)
    return LEAST_SHARE < share < 1 - LEAST_SHARE and bool(len(others[0])) and apart(*others) <= SHIFTED / 2


def _is_part(before: Floats, now: Floats, is_off: Mask) -> bool:
    return bool(LEAST_SHARE < is_off.mean() < 1 - LEAST_SHARE) and apart(before, now[~is_off]) <= SHIFTED / 2


def apart(before: Floats, now: Floats) -> float:
    """Kolmogorov's distance of two samples."""
    from scipy import stats

    return float(stats.ks_2samp(before, now, method="asymp").statistic)
