"""Data quality: what is wrong with the rows as such, whatever their distributions. From profiles alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from feedback_loop.monitoring.arrays import BEYOND_DOUBLES
from feedback_loop.monitoring.drift import LEAST_ROWS, LEAST_WINDOWS
from feedback_loop.monitoring.finite import finite
from feedback_loop.monitoring.hypergeometric import upper_tail
from feedback_loop.monitoring.profiles.blocks import HASHES, Block, Rows
from feedback_loop.monitoring.profiles.columns import NumberColumn, WordColumn
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.store.evaluations import QualityValue

MORE = 0.01
"""A share fails if it is above the reference's by more than this, and a test rejects chance."""

ALPHA, WINDOWS = 0.05, 10_000
"""A version that does not change fails a check within so many windows with probability at most `ALPHA`."""

APART = 0.25
"""Where a window of the reference is so many standard deviations from the others, its rows share their values."""

STUCK = 0.2
"""A column is stuck where one of the reference's hundred bins holds so much more of all values."""

REPEATED = 0.1
"""Rows are duplicates above this share, beyond the reference's. `_repeated` may err by a fifteenth."""


@BEYOND_DOUBLES
def quality_values(reference: Profile | None, current: Profile) -> tuple[QualityValue, ...]:
    """What was checked of the current rows, column by column.

    `probabilities`, of no column: the share of rows with invalid probabilities. The other checks compare with the
    reference, from 100 rows on:
    `schema` (a column that is not there at all), `missing`, `non_finite`, `out_of_range` (of the reference's least
    and greatest value), `new_categories`: the share of such values, against what the reference lets expect.
    Where the reference's own windows are apart, values out of range must be far from it.
    `constant`: 1 for a column that has only one value now. `stuck`: by how much the share of a bin is greater than
    the reference's, at most. `duplicates`, of no column: about how many rows, per row, have the same features.

    All checks of `WINDOWS` windows together fail by chance with probability at most `ALPHA`; the reference's own
    sampling error is allowed for. Nor does a check fail for what a window of the reference shows, where it has five:
    a column that is constant in one may be so later. Where one failure implies another, only the first is reported:
    `schema` before `missing`, `constant` before `stuck`, any of them before `duplicates`.
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
    return finite((*checks, replace(repeated, failed=repeated.failed and not any(check.failed for check in checks))))


def _chances(current: Profile) -> Iterator[QualityValue]:
    if current.layout.contract.probabilities and current.rows():
        share = current.weight(Rows.INVALID_PROBABILITIES) / current.weight()
        yield QualityValue("", "probabilities", share, 0.0, share > 0, current.rows())


def usual_name(column: str, check: str) -> str:
    """The key among a reference's swings for a check's values in the reference's own windows."""
    return f"{column}: {check}"


@dataclass(frozen=True)
class _Both:
    """The reference, the current rows, and the significance level of one check."""

    reference: Profile
    current: Profile
    level: float

    def usual(self, column: str, check: str, expected: float) -> float:
        """The check's greatest value in a window of the reference, if that is more than expected."""
        swings = self.reference.swings.get(usual_name(column, check))
        return max(expected, *swings.distances) if swings and len(swings.distances) >= LEAST_WINDOWS else expected

    def chance(self, share: float, rows: float, expected: float, reference_rows: float) -> float:
        """The p-value of a share at least as great, where the reference's rows have the expected one.

        Fisher's exact test, one-sided.
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
    # Of exchangeable rows the next is beyond all n before it with probability 2 / (n + 1). That k are is as likely as
    # that among the k + 1 least of all rows at most one is of the n.
    drawn_beyond = int(outside * drawn + 1e-6)
    beyond = upper_tail(drawn_beyond, drawn + others, drawn, drawn_beyond + 1)
    expected = 2 / (was.rows + 1)
    failed = outside - expected > MORE and beyond < both.level and _is_far(both, column, now)
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


def _is_far(both: _Both, column: str, now: NumberColumn) -> bool:
    """Whether values out of range are far from it, where rows of a window share them (one weather, one rate a day).

    There a new extreme is one event, however many rows have it, and nothing by chance: it has to be beyond the range
    by as much as the range is wide, in the mean.
    """
    swings, cuts = both.reference.swings.get(column), now.layout.cuts
    if swings is None or max(swings.distances) <= APART:
        return True
    return bool(now.below + now.above > (now.rows_below + now.rows_above) * (cuts[-1] - cuts[0]))


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
    """About how many rows, per row, have the features of another one, beyond the reference's.

    Rows are compared by hashes in 1,024 slots: different rows collide in one of 1,024 pairs. Equal pairs are expected
    as often as in the reference, up to the sampling error of both.
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
