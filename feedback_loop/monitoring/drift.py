"""Drift: how far the distribution of a column is from its reference's, in size, direction and beyond chance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from feedback_loop.monitoring.arrays import BEYOND_DOUBLES, Floats
from feedback_loop.monitoring.distances import (
    chi_squared_p_value,
    hellinger,
    jensen_shannon,
    ks_distance,
    ks_p_value,
    mean_shift,
    normed_wasserstein,
    one_sample_chi_squared,
    psi,
    z_p_value,
)
from feedback_loop.monitoring.finite import finite
from feedback_loop.monitoring.profiles.columns import NumberColumn, WordColumn
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.store.evaluations import INSUFFICIENT, DriftValue

THRESHOLD = 0.1
"""A distance of this size counts as drift: Evidently's default for all of them."""

P_VALUE = 0.05
"""Evidently's default threshold of tests."""

ALPHA = 0.01
"""A column has drifted only if a test rejects too, at this level divided by the number of columns."""

LEAST_WINDOWS = 5
"""A reference with fewer windows does not show how far a column varies from one to the next."""

LEAST_ROWS = 100
"""Fewer rows say nothing about a distribution."""

GROUPS = 20
"""Bins of a column of numbers for PSI, Jensen-Shannon and Hellinger: so many quantiles of the reference."""

SMALL_REFERENCE = 1000
FEW_VALUES = 5
"""Evidently's rule: tests up to so many rows of the reference, distances above; numbers of few values are words."""


@BEYOND_DOUBLES
def drift_values(reference: Profile, current: Profile) -> tuple[DriftValue, ...]:
    """The drift of each column by several methods; one with too few rows says how many are missing.

    Numbers: the Wasserstein distance in standard deviations of the reference, the Kolmogorov-Smirnov test, the
    shift of the mean (signed, in the same unit). Words: the chi-squared or z test, and the greatest change of a
    share. Both: PSI, Jensen-Shannon (natural logarithm) and Hellinger distance over the bins that `binning` names.
    Each method's `drifted` is by Evidently's threshold for it, and `is_default` marks the one that Evidently would
    choose. The one that `decides` (Wasserstein, Jensen-Shannon) has drifted only if a test rejects too, at a level
    divided by the number of columns: with many categories and few rows a distance alone is far from 0 without any
    change. Where the reference spans several windows, its threshold is at least the farthest that any of them is
    from it: how its own windows differ is no drift.
    """
    columns = {name: _number_bins(reference, current, name) for name in reference.numbers}
    columns |= {name: _word_bins(reference, current, name) for name in reference.words}
    tested = sum(not bins.missing_rows for bins in columns.values())
    values: list[DriftValue] = []
    for name, bins in columns.items():
        if bins.missing_rows:
            values.append(
                DriftValue(name, INSUFFICIENT, bins.missing_rows, LEAST_ROWS, None, drifted=False, rows=bins.rows)
            )
            continue
        swings = reference.swings[name].distances if name in reference.swings else ()
        threshold = max(THRESHOLD, *swings) if len(swings) >= LEAST_WINDOWS else THRESHOLD
        if name in reference.numbers:
            of_column = [*_number_values(bins, reference.numbers[name], current.numbers[name])]
            method, p_value = "wasserstein_normed", next(value.p_value for value in of_column if value.method == "ks")
        else:
            of_column = [*_word_values(bins, reference.words[name].judged)]
            method, p_value = "jensen_shannon", chi_squared_p_value(*bins.as_rows)
        is_rare = p_value is not None and p_value < ALPHA / tested
        values += [
            replace(
                value, threshold=threshold, p_value=p_value, drifted=value.value > threshold and is_rare, decides=True
            )
            if value.method == method
            else value
            for value in of_column
        ]
    return finite(values)


@dataclass(frozen=True)
class _Bins:
    """A column's weights in the same bins of the reference and of the current rows, and how many rows each side has.

    Where the column has `few` values, each has a bin of its own.
    """

    column: str
    reference: Floats
    current: Floats
    reference_rows: float
    current_rows: float
    binning: str
    few: bool

    @property
    def rows(self) -> int:
        """The current rows."""
        return round(self.current_rows)

    @property
    def missing_rows(self) -> int:
        """How many rows the smaller side lacks."""
        return max(LEAST_ROWS - int(min(self.reference_rows, self.current_rows)), 0)

    @property
    def as_rows(self) -> tuple[Floats, Floats]:
        """Both sides as counts of rows of equal weight."""
        return (
            self.reference * (self.reference_rows / self.reference.sum()),
            self.current * (self.current_rows / self.current.sum()),
        )

    @cached_property
    def default(self) -> str:
        """The method that Evidently would choose."""
        if self.reference_rows > SMALL_REFERENCE:
            return "jensen_shannon" if self.few else "wasserstein_normed"
        if not self.few:
            return "ks"
        return "z" if np.count_nonzero(self.reference + self.current) <= 2 else "chi_squared"

    def value(self, method: str, value: float, p_value: float | None = None) -> DriftValue:
        """A distance, or with a p-value a test, judged by Evidently's threshold."""
        threshold = THRESHOLD if p_value is None else P_VALUE
        drifted = abs(value) >= threshold if p_value is None else p_value < threshold
        if method == "ks":
            drifted = p_value is not None and p_value <= threshold
        is_default = method == self.default
        return DriftValue(
            self.column, method, value, threshold, p_value, drifted, self.rows, self.binning, is_default=is_default
        )

    def values(self) -> Iterator[DriftValue]:
        """What is measured of columns of both kinds."""
        for method, measure in (("psi", psi), ("jensen_shannon", jensen_shannon), ("hellinger", hellinger)):
            yield self.value(method, measure(self.reference, self.current))
        if self.few:
            yield self.value("chi_squared", *one_sample_chi_squared(*self.as_rows))
            if self.default == "z":
                yield self.value("z", *z_p_value(*self.as_rows))


def _number_bins(reference: Profile, current: Profile, name: str) -> _Bins:
    before, now = reference.numbers[name], current.numbers[name]
    counts, binning = [before.counts, now.counts], "values"
    if len(before.edges) > GROUPS and before.rows:
        starts = before.group_starts(GROUPS)
        counts = [np.add.reduceat(count, starts) for count in counts]
        binning = f"{len(starts)} quantiles of the reference"
    rows = reference.effective(before.rows), current.effective(now.rows)
    return _Bins(name, counts[0], counts[1], *rows, binning, few=len(before.edges) <= FEW_VALUES)


def _word_bins(reference: Profile, current: Profile, name: str) -> _Bins:
    before, now = (profile.words[name].judged.frequent for profile in (reference, current))
    rows = reference.effective(float(before.sum())), current.effective(float(now.sum()))
    return _Bins(name, before, now, *rows, "words", few=True)


def _number_values(bins: _Bins, reference: NumberColumn, current: NumberColumn) -> Iterator[DriftValue]:
    p_value = ks_p_value(reference, current, bins.reference_rows, bins.current_rows)
    yield bins.value("wasserstein_normed", normed_wasserstein(reference, current))
    yield bins.value("ks", ks_distance(reference, current), p_value)
    yield bins.value("mean_shift", mean_shift(reference, current))
    yield from bins.values()


def _word_values(bins: _Bins, reference: WordColumn) -> Iterator[DriftValue]:
    yield from bins.values()
    change = bins.current / bins.current.sum() - bins.reference / bins.reference.sum()
    place = int(np.abs(change).argmax())
    layout = reference.layout
    names = (*layout.words[: layout.frequent], "(rare)", "(new)")
    yield bins.value(f"share_change[{names[place]}]", float(change[place]))
