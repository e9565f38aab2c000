"""Data quality: what is wrong with the rows as such, whatever their distributions. From profiles alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from feedback_loop.monitoring.arrays import BEYOND_DOUBLES
from feedback_loop.monitoring.drift import LEAST_ROWS, LEAST_WINDOWS
from feedback_loop.monitoring.hypergeometric import upper_tail
from feedback_loop.monitoring.profiles.blocks import HASHES, Block, Rows
from feedback_loop.monitoring.profiles.columns import NumberColumn, WordColumn
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.store.evaluations import QualityValue, finite

MORE = 0.01
"""So much more of a share than the reference has is told, if chance does not explain it."""

ALPHA, WINDOWS = 0.05, 10_000
"""Of versions that do not change, at most so many ever fail a check, in so many windows."""

STUCK = 0.2
"""So much more of all values in one of a hundred bins of the reference: a value that comes again and again."""

REPEATED = 0.1
"""Rows that repeat others, beyond what the reference has. A fifteenth could be an error of `_repeated`."""


@BEYOND_DOUBLES
def quality_values(reference: Profile | None, current: Profile) -> tuple[QualityValue, ...]:
    """What was checked of the current rows, column by column.

    `probabilities`, of no column: the share of rows whose probabilities are none. The rest is by the reference, of
    100 rows or more:
    `schema` (a column that is not there at all), `missing`, `non_finite`, `out_of_range` (of the reference's least
    and greatest value), `new_categories`: the share of such values, against what the reference lets expect.
    `constant`: 1 for a column that has only one value now. `stuck`: by how much the share of a bin is greater than
    the reference's, at most. `duplicates`, of no column: about how many rows, per row, have the same features.

    None fails for what chance does to rows that come like the reference's, which errs as well: all checks of a window
    share `ALPHA` of `WINDOWS` windows. Nor for what a window of the reference was like, where it has five: a column
    that is constant in each of them may be so in those that come. What implies another check fails in its place;
    and of a column that is broken rows are alike.
    """
    checks = list(_chances(current))
    if reference is None or current.effective(current.weight()) < LEAST_ROWS or not reference.rows():
        return finite(checks)
    layout = reference.layout
    both = _Both(reference, current, ALPHA / WINDOWS / (5 * len(layout.numbers) + 3 * len(layout.words) + 1))
    for name, numbers in reference.numbers.items():
        checks += _absent(both, name, numbers, current.numbers[name])
        checks += _of_numbers(both, name, numbers, current.numbers[name])
    for name, words in reference.words.items():
        checks += _absent(both, name, words, current.words[name])
        checks += _of_words(both, name, words.judged, current.words[name].judged)
    repeated = _repeated(both)
    return finite((*checks, replace(repeated, failed=repeated.failed and not any(each.failed for each in checks))))


def _chances(current: Profile) -> Iterator[QualityValue]:
    if current.layout.contract.probabilities and current.rows():
        share = current.weight(Rows.INVALID_PROBABILITIES) / current.weight()
        yield QualityValue("", "probabilities", share, 0.0, share > 0, current.rows())


def usual_name(column: str, check: str) -> str:
    """By what name a reference has what a check found of its own windows, among its swings."""
    return f"{column}: {check}"


@dataclass(frozen=True)
class _Both:
    """Reference and current rows, and how seldom a check may fail by chance."""

    reference: Profile
    current: Profile
    level: float

    def usual(self, column: str, check: str, expected: float) -> float:
        """The most that was found in a window of the reference, if that is more than expected."""
        swings = self.reference.swings.get(usual_name(column, check))
        return max(expected, *swings.distances) if swings and len(swings.distances) >= LEAST_WINDOWS else expected

    def chance(self, share: float, rows: float, expected: float, reference_rows: float) -> float:
        """How often so great a share of rows comes by chance, where so many rows of a reference had another.

        Fisher's exact test: the rows of both are one urn.
        """
        drawn, others = int(self.current.effective(rows)), int(self.reference.effective(reference_rows))
        hits, before = int(share * drawn + 1e-6), int(np.ceil(min(expected, 1.0) * others - 1e-6))
        return upper_tail(hits, drawn + others, hits + before, drawn)

    def share(
        self, column: str, check: str, value: float, expected: float, rows: float, reference_rows: float
    ) -> QualityValue:
        """A check of a share: of so many rows, against that of so many of the reference."""
        expected = self.usual(column, check, expected)
        failed = value - expected > MORE and self.chance(value, rows, expected, reference_rows) < self.level
        return QualityValue(column, check, value, expected, failed, self.current.rows())


def _absent(
    both: _Both, column: str, before: NumberColumn | WordColumn, now: NumberColumn | WordColumn
) -> Iterator[QualityValue]:
    whole, rows = both.current.weight(), both.reference.weight()
    share = both.share(column, "missing", now.missing / whole, before.missing / rows, whole, rows)
    is_gone = now.missing >= whole and both.chance(1.0, whole, share.expected, rows) < both.level
    yield QualityValue(column, "schema", now.missing / whole, 0.0, is_gone, both.current.rows())
    yield replace(share, failed=share.failed and not is_gone)
    if isinstance(now, NumberColumn) and isinstance(before, NumberColumn):
        yield both.share(column, "non_finite", now.non_finite / whole, before.non_finite / rows, whole, rows)


def _of_numbers(both: _Both, column: str, was: NumberColumn, now: NumberColumn) -> Iterator[QualityValue]:
    if not was.rows or not now.rows:
        return
    outside = (now.rows_below + now.rows_above) / now.rows
    drawn, others = int(both.current.effective(now.rows)), max(int(both.reference.effective(was.rows)), 1)
    # Of rows in any order the next one is beyond all n before it twice in n + 1 times. So many are beyond all of them
    # as often as of the so many and one least ones of all at most one is one of the n.
    drawn_beyond = int(outside * drawn + 1e-6)
    beyond = upper_tail(drawn_beyond, drawn + others, drawn, drawn_beyond + 1)
    expected = 2 / (was.rows + 1)
    failed = outside - expected > MORE and beyond < both.level
    yield QualityValue(column, "out_of_range", outside, expected, failed, both.current.rows())
    excess = now.counts / now.rows - was.counts / was.rows
    place = int(excess.argmax())
    seldom = both.chance(
        now.counts[place] / now.rows, now.rows, was.counts[place] / was.rows, was.rows
    ) < both.level / len(excess)
    constant = _constant(both, column, is_one=_is_constant(now), is_seldom=seldom)
    yield constant
    if not was.layout.are_values:
        inner = excess[1:-1]
        most = float(inner.max(initial=0.0))
        expected = both.usual(column, "stuck", 0.0)
        failed = most - expected >= STUCK and seldom and not constant.failed
        yield QualityValue(column, "stuck", most, expected, failed, both.current.rows())


def _of_words(both: _Both, column: str, was: WordColumn, now: WordColumn) -> Iterator[QualityValue]:
    if not was.rows or not now.rows:
        return
    yield both.share(column, "new_categories", now.new / now.rows, was.new / was.rows, now.rows, was.rows)
    words = len(now.layout.words)
    most = int(now.counts[:words].argmax()) if words else 0
    is_one = most < words and bool(now.counts[most] == now.rows)
    chance = both.chance(1.0, now.rows, float(was.counts[most]) / was.rows, was.rows) if is_one else 1.0
    yield _constant(both, column, is_one=is_one, is_seldom=chance < both.level / len(now.counts))


def _constant(both: _Both, column: str, *, is_one: bool, is_seldom: bool) -> QualityValue:
    expected = both.usual(column, "constant", 0.0)
    return QualityValue(
        column, "constant", float(is_one), expected, is_one and is_seldom and expected < 1, both.current.rows()
    )


def _is_constant(shape: NumberColumn) -> bool:
    if not np.isfinite(shape.second):
        return False
    distance = shape.first / shape.rows
    return bool(shape.second / shape.rows - distance**2 <= 1e-12 * max(distance**2, np.finfo(np.float64).tiny))


def _repeated(both: _Both) -> QualityValue:
    """By how much more often two rows have the same features than two of the reference have.

    By their hashes, counted in 1,024 slots, so that rows that differ meet too, once in so many times. Where only few
    rows are possible, they meet anyhow: as often as the reference's did, give or take the error of both.
    """
    from scipy import stats

    counts, rows = both.current.counts(Block.HASHES, HASHES), both.current.weight()
    shares, size = counts / rows, max(both.current.effective(rows), 2.0)
    repeated = float((counts * (counts - 1)).sum() / max(rows * (rows - 1), 1.0))
    repeats = both.reference.layout.repeats
    likely = repeats.share + (1 - repeats.share) / HASHES
    spread = max(float((shares**3).sum() - (shares**2).sum() ** 2), 0.0)
    variance = repeats.variance + 4 * spread / size + 2 * likely / (size * (size - 1))
    share = float(np.clip((repeated - likely) * (rows - 1) / 2, 0.0, 1.0))
    sure = float(stats.norm.isf(both.level) * np.sqrt(variance) * (rows - 1) / 2)
    expected = both.usual("", "duplicates", 0.0)
    failed = share - expected > max(REPEATED, sure)
    return QualityValue("", "duplicates", share, expected, failed, both.current.rows())
