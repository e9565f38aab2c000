"""Distances and tests between two distributions that are known by their bins. Pure arithmetic on arrays."""

from __future__ import annotations

import numpy as np

from feedback_loop.monitoring.arrays import MOST, Floats
from feedback_loop.monitoring.profiles.columns import NumberColumn


def normed_wasserstein(reference: NumberColumn, current: NumberColumn) -> float:
    """The first Wasserstein distance over the reference's standard deviation.

    Exact outside the reference's range and for numbers of at most 100 values. Else the distribution functions are
    taken as straight between the edges; where one is above the other everywhere, the distance is that of the means,
    which is exact. Numbers whose squares are beyond all doubles have no distance in standard deviations: the greatest
    double stands for it.
    """
    if not np.isfinite([reference.second, current.second]).all():
        return MOST if ks_distance(reference, current) else 0.0
    gaps = reference.cumulated - current.cumulated
    widths = np.diff(reference.edges)
    left, right = gaps[:-1], gaps[1:]
    beyond = current.below / current.rows + current.above / current.rows
    if reference.layout.are_values:  # no value lies between them
        inside = np.abs(left)
    else:
        crossing = left * right < 0
        safe = np.where(crossing, np.abs(left) + np.abs(right), 1.0)
        inside = np.where(crossing, (left**2 + right**2) / (2 * safe), np.abs(left + right) / 2)
    distance = float((inside * widths).sum()) + beyond
    shift = abs(current.mean - reference.mean)
    one_way = bool(((gaps >= 0).all() and not current.below) or ((gaps <= 0).all() and not current.above))
    return (shift if one_way else max(distance, shift)) / reference.norm


def mean_shift(reference: NumberColumn, current: NumberColumn) -> float:
    """By how many standard deviations of the reference the mean is higher."""
    if not np.isfinite([reference.second, current.second]).all():
        return 0.0
    return (current.mean - reference.mean) / reference.norm


def ks_distance(reference: NumberColumn, current: NumberColumn) -> float:
    """The greatest difference of the distribution functions at the edges."""
    return float(np.abs(reference.cumulated - current.cumulated).max(initial=0.0))


def ks_p_value(reference: NumberColumn, current: NumberColumn, rows: float, others: float) -> float:
    """The two-sample Kolmogorov-Smirnov test by that difference: never smaller than on the values themselves."""
    from scipy import stats

    effective = max(round(rows * others / (rows + others)), 1)
    return float(np.clip(stats.kstwo.sf(ks_distance(reference, current), effective), 0.0, 1.0))


def psi(reference: Floats, current: Floats) -> float:
    """The population stability index; empty bins are filled as Evidently fills them."""
    one, other = _filled(reference), _filled(current)
    return float(((one - other) * np.log(one / other)).sum())


def jensen_shannon(reference: Floats, current: Floats) -> float:
    """The Jensen-Shannon distance of two vectors of counts, natural logarithm."""
    from scipy.spatial import distance

    return float(np.nan_to_num(distance.jensenshannon(reference, current)))


def hellinger(reference: Floats, current: Floats) -> float:
    """The Hellinger distance of two vectors of counts."""
    overlap = np.sqrt(reference / reference.sum() * current / current.sum()).sum()
    return float(np.sqrt(1 - min(overlap, 1.0)))


def one_sample_chi_squared(reference: Floats, current: Floats) -> tuple[float, float]:
    """Pearson's statistic of the current counts against the reference's shares, and its p-value, as in Evidently."""
    from scipy import stats

    used = reference + current > 0
    expected, counts = reference[used] * current.sum() / reference.sum(), current[used]
    if (expected == 0).any():  # what the reference never had
        return MOST, 0.0
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return statistic, float(stats.chi2.sf(statistic, used.sum() - 1)) if used.sum() > 1 else 1.0


def chi_squared_p_value(one: Floats, other: Floats) -> float:
    """Pearson's test of one distribution behind two vectors of counts; rare words are pooled (expected below 5)."""
    from scipy import stats

    counts = np.vstack([one, other])
    expected = counts.sum(axis=0) * min(one.sum(), other.sum()) / counts.sum()
    rare = expected < 5
    pooled = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)]) if rare.any() else counts
    pooled = pooled[:, pooled.sum(axis=0) > 0]
    return float(stats.chi2_contingency(pooled).pvalue) if pooled.shape[1] > 1 else 1.0


def z_p_value(reference: Floats, current: Floats) -> tuple[float, float]:
    """The z test of one share in two vectors of two counts, as in Evidently."""
    from scipy import stats

    used = np.flatnonzero(reference + current)
    if len(used) < 2:
        return 0.0, 1.0
    rows, others = reference.sum(), current.sum()
    one, other = reference[used[0]] / rows, current[used[0]] / others
    both = (reference[used[0]] + current[used[0]]) / (rows + others)
    statistic = float((one - other) / np.sqrt(both * (1 - both) * (1 / rows + 1 / others)))
    return statistic, float(2 * stats.norm.sf(abs(statistic)))


def _filled(counts: Floats) -> Floats:
    shares = counts / counts.sum()
    least = shares[shares > 0].min()
    return np.where(shares == 0, least / 1e6 if least <= 0.0001 else 0.0001, shares)
