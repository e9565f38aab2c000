"""The part of the rows in which a feature is off: some windows, or the rows of one of several feeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.decisions.diagnosis.comparison import Comparison, Mask
from feedback_loop.monitoring import Floats
from feedback_loop.monitoring.arrays import frequencies

SHIFTED = 0.15
"""The Kolmogorov distance from which on values are tested for other units."""

LEAST_SHARE = 0.05
"""The least share of rows in a part, and outside it."""

MOST_WORDS = 20
"""How many words of another column are tried, the most frequent first."""

LEAST_OF_PART = 50
"""The least rows of a part whose distribution is compared."""


@dataclass(frozen=True, eq=False)
class Part:
    """Which current rows are off, the matching rows of the reference (None: unknown), and both in words."""

    now: Mask
    before: Mask | None = None
    what: str = ""
    is_beyond: bool = False  # the rows whose values are beyond the reference's range


def parts_off(before: Floats, now: Floats, compared: Comparison) -> Iterator[Part]:
    """Where a feature's values are not the reference's: in some windows, with some words of another column, else in
    all rows; and beyond the reference's range.
    """
    finite, usual = np.isfinite(now), before[np.isfinite(before)]
    if not len(usual) or not finite.any():
        return
    windows = compared.numbers[compared.before :]
    off = _windows_off(usual, now[finite], windows[finite])
    if len(off):
        yield Part(np.isin(windows, off))
    else:
        is_shifted = distance(usual, now[finite]) >= LEAST_SHARE / 2
        by_words = next(_words_off(before, now, compared), None) if is_shifted else None
        yield by_words or Part(np.ones(len(now), dtype=np.bool_))
    low, high = usual.min(), usual.max()
    yield Part((now < low) | (now > high), what=", all beyond the reference's range", is_beyond=True)


def _windows_off(before: Floats, now: Floats, windows: np.ndarray) -> list[int]:
    """The windows whose values differ from the reference, where those of the other windows do not."""
    off = [
        int(window)
        for window, count in zip(*np.unique(windows, return_counts=True), strict=True)
        if distance(before, now[windows == window]) > SHIFTED + 1 / np.sqrt(count)
    ]
    is_off = np.isin(windows, off)
    return off if _is_part(is_off) and distance(before, now[~is_off]) <= SHIFTED / 2 else []


def _words_off(before: Floats, now: Floats, compared: Comparison) -> Iterator[Part]:
    """Words of another column whose rows differ from the reference's with the same word, while other rows do not."""
    finite, finite_now = np.isfinite(before), np.isfinite(now)
    for column in (column for column in compared.features if not column.type.is_numeric):
        words = compared.rows.column(column.stored).cast(pa.string())
        reference, current = words.slice(0, compared.before), words.slice(compared.before)
        off: list[str] = []
        for word in list(frequencies(current.filter(pa.array(finite_now))))[:MOST_WORDS]:
            old, new = before[_has(reference, [word]) & finite], now[_has(current, [word]) & finite_now]
            if min(len(old), len(new)) >= LEAST_OF_PART and distance(old, new) > SHIFTED + 1 / np.sqrt(len(new)):
                off.append(word)
        was_off, is_off = _has(reference, off), _has(current, off)
        others, others_now = before[~was_off & finite], now[~is_off & finite_now]
        if off and _is_part(is_off[finite_now]) and len(others) and distance(others, others_now) <= SHIFTED / 2:
            named = " or ".join(off[:3]) + (" or …" if len(off) > 3 else "")
            yield Part(is_off, was_off, f" where {column.stored} is {named}")


def _has(column: pa.ChunkedArray, words: list[str]) -> Mask:
    return np.asarray(pc.is_in(column, pa.array(words, pa.string())).to_numpy(), dtype=np.bool_)


def _is_part(is_off: Mask) -> bool:
    return bool(LEAST_SHARE < is_off.mean() < 1 - LEAST_SHARE)


def distance(before: Floats, now: Floats) -> float:
    """The Kolmogorov-Smirnov distance of two samples."""
    from scipy import stats

    return float(stats.ks_2samp(before, now, method="asymp").statistic)
