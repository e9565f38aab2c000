"""Data quality: what is wrong with the rows as such, whatever their distributions. From profiles alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from feedback_loop.monitoring.distances import NumberShape
from feedback_loop.monitoring.drift import LEAST_ROWS, absent, number_shape, word_counts
from feedback_loop.monitoring.losses import BEYOND_DOUBLES, Floats
from feedback_loop.monitoring.profiles import ABOVE, BELOW, HASHES, Block, NumberLayout, Profile, WordLayout
from feedback_loop.store.evaluations import QualityValue, finite

MORE = 0.01
"""So much more of a share than the reference has is told, if chance does not explain it."""

SURE = 4.0
"""Standard errors beyond which it doesn't: one look in 30,000 is wrong."""

STUCK = 0.2
"""So much more of all values in one of a hundred bins of the reference: a value that comes again and again."""

REPEATED = 0.1
"""Rows that repeat others, beyond what the reference has. A fifteenth could be an error of `_repeated`."""


@BEYOND_DOUBLES
def quality_values(reference: Profile, current: Profile) -> tuple[QualityValue, ...]:
    """What was checked of the current rows, column by column; nothing for fewer than 100, or by no reference.

    `schema` (a column that is not there at all), `missing`, `non_finite`, `out_of_range` (of the reference's least
    and greatest value), `new_categories`: the share of such values, against what the reference lets expect.
    `constant`: 1 for a column that has only one value now. `stuck`: by how much the share of a bin is greater than
    the reference's, at most. `duplicates`, of no column: about how many rows, per row, have the same features.
    """
    if current.effective(current.weight()) < LEAST_ROWS or not reference.rows():
        return ()
    layout = reference.layout
    found: list[QualityValue] = []
    for place, number in enumerate(layout.numbers):
        block = Block.NUMBERS + 2 * place
        found += _absent(reference, current, block, number)
        found += _of_numbers(reference, current, block, number)
    for place, word in enumerate(layout.words):
        found += _absent(reference, current, Block.WORDS + place, word)
        found += _of_words(reference, current, Block.WORDS + place, word)
    return finite((*found, _repeated(reference, current)))


def _absent(
    reference: Profile, current: Profile, block: int, layout: NumberLayout | WordLayout
) -> Iterator[QualityValue]:
    whole, rows = current.weight(), reference.weight()
    (missing, odd), (before, odd_before) = absent(current, block), absent(reference, block)
    yield QualityValue(
        layout.column, "schema", missing / whole, 0.0, missing >= whole and before < rows, current.rows()
    )
    yield _share(layout.column, "missing", missing / whole, before / rows, current)
    if isinstance(layout, NumberLayout):
        yield _share(layout.column, "non_finite", odd / whole, odd_before / rows, current)


def _of_numbers(reference: Profile, current: Profile, block: int, layout: NumberLayout) -> Iterator[QualityValue]:
    shapes = [number_shape(each, block, layout) for each in (reference, current)]
    was, now = shapes
    if not was.rows or not now.rows:
        return
    outside = (current.at(block, BELOW) + current.at(block, ABOVE)) / now.rows
    # Of rows in any order the next one is beyond all n before it twice in n + 1 times.
    yield _share(layout.column, "out_of_range", outside, 2 / (was.rows + 1), current)
    yield _constant(layout.column, _is_constant(was), _is_constant(now), current)
    if not layout.are_values:
        excess = (now.counts / now.rows - was.counts / was.rows)[1:-1]
        most = float(excess.max(initial=0.0))
        yield QualityValue(layout.column, "stuck", most, 0.0, most >= STUCK, current.rows())


def _of_words(reference: Profile, current: Profile, block: int, layout: WordLayout) -> Iterator[QualityValue]:
    was, now = (word_counts(each, block, layout) for each in (reference, current))
    if not was.sum() or not now.sum():
        return
    # Good (1953): new words come as often as those that came once, which all rare ones may have done.
    expected = (float((was[:-2] == 1).sum()) + was[-2]) / was.sum()
    yield _share(layout.column, "new_categories", float(now[-1] / now.sum()), float(expected), current)
    yield _constant(layout.column, _is_single(was), _is_single(now), current)


def _share(column: str, check: str, value: float, expected: float, current: Profile) -> QualityValue:
    likely = min(max(expected, 1 / current.effective(current.weight())), 1.0)
    error = float(np.sqrt(likely * (1 - likely) / current.effective(current.weight())))
    failed = value - expected > max(MORE, SURE * error)
    return QualityValue(column, check, value, expected, failed, current.rows())


def _constant(column: str, was: bool, now: bool, current: Profile) -> QualityValue:
    return QualityValue(column, "constant", float(now), float(was), now and not was, current.rows())


def _is_constant(shape: NumberShape) -> bool:
    if not np.isfinite(shape.second):
        return False
    distance = shape.first / shape.rows
    return bool(shape.second / shape.rows - distance**2 <= 1e-12 * max(distance**2, np.finfo(np.float64).tiny))


def _is_single(counts: Floats) -> bool:
    return bool(np.count_nonzero(counts) == 1)


def _repeated(reference: Profile, current: Profile) -> QualityValue:
    """By how much more often two rows have the same hash of their features than two of the reference have.

    Hashes are counted in 1,024 slots, so that rows that differ meet too, about as often in both; the share of pairs
    that do errs by sqrt(1/2048) of a row: duplicates from a tenth of the rows on are told.
    """
    pairs = []
    for profile in (reference, current):
        counts, rows = profile.counts(Block.HASHES, HASHES), profile.weight()
        pairs.append(float((counts * (counts - 1)).sum() / max(rows * (rows - 1), 1.0)))
    rows = current.weight()
    share = max((pairs[1] - max(pairs[0], 1 / HASHES)) * (rows - 1) / 2, 0.0)
    return QualityValue("", "duplicates", share, 0.0, share > REPEATED, current.rows())
