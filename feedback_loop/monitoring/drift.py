"""Drift: how far the distribution of a column is from its reference's, in size and beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from feedback_loop.monitoring.losses import Floats
from feedback_loop.monitoring.profiles import BINS, ColumnProfile, NumberProfile, Profile, WordProfile
from feedback_loop.store.evaluations import DriftValue

THRESHOLD = 0.1
"""From this size on a shift counts, for both measures: Evidently's default."""

ALPHA = 0.01
"""And only if chance alone would show it less often than this, over all columns together."""

LEAST_WINDOWS = 5
"""A reference with fewer windows tells nothing about how far a column strays from one to the next."""

LEAST_ROWS = 100
"""Fewer rows say nothing about a distribution."""


def drift_values(reference: Profile, current: Profile) -> tuple[DriftValue, ...]:
    """The drift of each column that has enough rows in both profiles.

    Numbers: the Wasserstein distance in standard deviations of the reference, with a Kolmogorov-Smirnov test.
    Words: the Jensen-Shannon distance (natural logarithm), with a chi-squared test. A column has drifted if the
    distance reaches the threshold *and* the test rejects (at a level divided by the number of columns): with many
    categories and few rows the distance alone is far from 0 without any change. Where the reference spans several
    windows, the threshold is at least the farthest that any of them is from it: a day's weather is not a drift.
    """
    columns = [
        name
        for name, each in reference.columns.items()
        if name in current.columns and min(each.rows, current.columns[name].rows) >= LEAST_ROWS
    ]
    values = []
    for name in columns:
        method, distance, p_value = _compared(reference.columns[name], current.columns[name])
        swings = reference.swings.get(name, ())
        threshold = max(THRESHOLD, *swings) if len(swings) >= LEAST_WINDOWS else THRESHOLD
        drifted = distance > threshold and p_value < ALPHA / len(columns)
        values.append(DriftValue(name, method, distance, threshold, p_value, drifted, current.columns[name].rows))
    return tuple(values)


def with_swings(reference: Profile, windows: Sequence[Profile]) -> Profile:
    """The reference with how far each of its own windows (profiled by it) is from the whole."""
    swings: dict[str, list[float]] = {}
    for window in windows:
        for value in drift_values(reference, window):
            swings.setdefault(value.column, []).append(value.value)
    return replace(reference, swings={name: tuple(each) for name, each in swings.items()})


def _compared(reference: ColumnProfile, current: ColumnProfile) -> tuple[str, float, float]:
    if isinstance(reference, NumberProfile) and isinstance(current, NumberProfile):
        return "wasserstein_normed", normed_wasserstein(reference, current), ks_p_value(reference, current)
    assert isinstance(reference, WordProfile) and isinstance(current, WordProfile)  # by the same reference
    one, other = _aligned(reference, current)
    return "jensen_shannon", jensen_shannon(one, other), chi_squared_p_value(one, other)


def normed_wasserstein(reference: NumberProfile, current: NumberProfile) -> float:
    """The first Wasserstein distance by the two distribution functions at the bins' edges, over the reference's
    standard deviation (at least 0.001, as in Evidently).

    Exact for numbers of few values; else within 0.01 of the distance of the values themselves up to half a standard
    deviation, and within 6% beyond (what lies outside the reference's range is taken as spread evenly).
    """
    least = min(v for v in (reference.least, current.least) if v is not None)
    most = max(v for v in (reference.most, current.most) if v is not None)
    points = np.concatenate([[least], reference.edges, [most]])
    gaps = np.concatenate([[0.0], np.abs(_cumulated(reference) - _cumulated(current)), [0.0]])
    # Fewer edges than quantiles: values repeat, and between them the distribution functions are flat.
    heights = gaps[:-1] if len(reference.edges) <= BINS else (gaps[1:] + gaps[:-1]) / 2
    distance = float((heights * np.diff(points)).sum())
    return distance / max(reference.deviation, 0.001)


def ks_p_value(reference: NumberProfile, current: NumberProfile) -> float:
    """Two-sample Kolmogorov-Smirnov on the binned values: never smaller than on the values themselves."""
    from scipy import stats

    gap = float(np.abs(_cumulated(reference) - _cumulated(current)).max(initial=0.0))
    effective = reference.rows * current.rows / (reference.rows + current.rows)
    return float(stats.kstwobign.sf(gap * np.sqrt(effective)))


def jensen_shannon(one: Floats, other: Floats) -> float:
    """The Jensen-Shannon distance of two vectors of counts, natural logarithm."""
    from scipy.spatial import distance

    return float(distance.jensenshannon(one, other))


def chi_squared_p_value(one: Floats, other: Floats) -> float:
    """Pearson's test of one distribution behind two vectors of counts; rare words are pooled (expected below 5)."""
    from scipy import stats

    counts = np.vstack([one, other])
    expected = counts.sum(axis=0) * min(one.sum(), other.sum()) / counts.sum()
    rare = expected < 5
    pooled = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)]) if rare.any() else counts
    pooled = pooled[:, pooled.sum(axis=0) > 0]
    return float(stats.chi2_contingency(pooled).pvalue) if pooled.shape[1] > 1 else 1.0


def _cumulated(profile: NumberProfile) -> Floats:
    """The distribution function at the edges."""
    return np.cumsum(profile.counts[:-1]) / max(profile.rows, 1)


def _aligned(one: WordProfile, other: WordProfile) -> tuple[Floats, Floats]:
    words = sorted({**one.counts, **other.counts})
    first = np.array([one.counts.get(word, 0) for word in words], dtype=np.float64)
    return first, np.array([other.counts.get(word, 0) for word in words], dtype=np.float64)
