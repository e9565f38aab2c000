"""Has a column's distribution changed? Evidence against chance that may be looked at for ever, column by column.

Each column has a wealth, which is 1 at first and whose expectation never grows while nothing changes. Its maximum
over time reaches y with probability at most 1/y (Ville 1939), whatever the other columns do. `drifted_columns` then
takes as many columns as the false discovery rate allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from feedback_loop.decisions.monitors.betting import BOLDNESS, CEILING, HORIZON, Wealth, normal_score, uniforms
from feedback_loop.monitoring import Floats, upper_tail

STARTS = 32
"""There is a bet on a change in each of so many last windows; the wealth of an older bet returns to cash."""

PATIENCE = 5
"""Half of the cash is in bets after so many windows."""

WIDTHS = np.array([1.0, 2.0])
"""A bet is that the windows since a change are the farthest of all, or among the farthest twice as many."""

RETAINED = 0.1
"""The share of a bet that is not at stake."""

FINENESS = 0.05
"""Distances that differ by less than this share of them are ties, broken at random."""

UNLIKE = 0.05
"""The level of the test of whether one window differs from the reference."""

NEAREST = -200
"""The bin of the least distances: e^-10."""


@dataclass(frozen=True)
class RankedDistances:
    """A column's distances of windows from the reference, each ranked among all before it.

    Null: the distances of the reference's own windows from the rest of it and those of all later windows are
    exchangeable. Then the share of all so far that are farther, ties broken at random, is uniform, and independent
    from one window to the next (Vovk et al. 2005, theorem 8.1). A bet that a change began in window s is that the
    windows since then are the farthest: it wins n/k where the newest is among the k farthest of n. Only counts of
    distances in bins are stored, each a twentieth wider than the one before.

    A window of fewer rows is farther by chance. By the triangle inequality at most by the distance of a sample of its
    size from a window of `rows`, the most so far: its 99.9% quantile, from `noise` over the root of the rows, is
    subtracted.
    """

    seed: int
    noise: float
    rows: int  # of the largest window so far
    counts: dict[int, int]
    cash: float = 1.0
    bets: tuple[tuple[float, ...], ...] = ()  # on a change in each of the last windows, the newest last
    peak: float = 1.0
    windows: int = 0

    @classmethod
    def begin(cls, distances: tuple[float, ...], rows: int, noise: float, seed: int) -> Self:
        """The state before the first window, from the reference's own windows."""
        bins, counts = np.unique([_bin(distance) for distance in distances], return_counts=True)
        return cls(seed, noise, rows, dict(zip(bins.tolist(), counts.tolist(), strict=True)))

    def after(self, distance: float, rows: int) -> RankedDistances:
        """The state after the next window."""
        most = max(self.rows, rows)
        place = _bin(self._corrected(distance, rows))
        counts = {**self.counts, place: self.counts.get(place, 0) + 1}
        size = sum(counts.values())
        farther = sum(count for bin_place, count in counts.items() if bin_place > place)
        p = (farther + uniforms(self.seed, self.windows, 1)[0] * counts[place]) / size
        moved = self.cash / (PATIENCE + self.windows + 1)
        bets = np.array([*self.bets, [moved / len(WIDTHS)] * len(WIDTHS)])
        cash = min(self.cash - moved + float(bets[:-STARTS].sum()), CEILING)
        bets = bets[-STARTS:]
        among = np.minimum(np.outer(np.arange(len(bets), 0, -1), WIDTHS) / size, 0.9)  # 1 window since the newest
        bets = np.minimum(bets * (RETAINED + (1 - RETAINED) * np.where(p <= among, 1 / among, 0.0)), CEILING)
        return replace(
            self,
            rows=most,
            counts=counts,
            cash=cash,
            bets=tuple(map(tuple, bets.tolist())),
            peak=max(self.peak, cash + float(bets.sum())),
            windows=self.windows + 1,
        )

    def is_farther(self, distance: float, rows: int, limit: float) -> bool:
        """Whether a window of so many rows is farther than `limit`, beyond the effect of its size."""
        return _bin(self._corrected(distance, rows)) > _bin(limit)

    def _corrected(self, distance: float, rows: int) -> float:
        return distance - self.noise * float(np.sqrt(1 / rows - 1 / max(self.rows, rows)))


def _bin(distance: float) -> int:
    return max(int(np.floor(np.log(distance) / FINENESS)), NEAREST) if distance > 0 else NEAREST


@dataclass(frozen=True)
class PooledCounts:
    """How often a column's values fell into a few cells, in the reference and all windows so far together.

    Null: rows of reference and windows are exchangeable. Given the pool after a window, its count in each cell is
    hypergeometric among the cells not yet counted; so the scores (randomised probability transform) are independent
    and standard normal. Bets on a drift of each, up and down, are averaged: those of method D (`docs/decisions.md`).
    """

    seed: int
    cells: tuple[int, ...]
    bets: tuple[tuple[Wealth, Wealth], ...]  # of each cell but the last: that its share grew, that it shrank
    rows: int = 0
    peak: float = 1.0
    windows: int = 0

    @classmethod
    def begin(cls, cells: tuple[int, ...], seed: int) -> Self:
        """The state before the first window, from the reference's counts."""
        return cls(seed, cells, ((Wealth.begin(), Wealth.begin()),) * (len(cells) - 1))

    def after(self, counts: tuple[int, ...]) -> PooledCounts:
        """The state after the next window, by its counts of the same cells."""
        pool = tuple(before + now for before, now in zip(self.cells, counts, strict=True))
        size, rows = sum(counts), self.rows + sum(counts)
        share, drifts = size / (HORIZON + rows), BOLDNESS * np.sqrt(size)
        chances = uniforms(self.seed, self.windows * len(counts), len(counts))
        bets = []
        for cell, (up, down) in enumerate(self.bets):
            z = score(counts[cell], sum(pool[cell:]), pool[cell], sum(counts[cell:]), chances[cell])
            bets.append((_grown(up, z, drifts, share), _grown(down, -z, drifts, share)))
        wealth = sum(up.total + down.total for up, down in bets) / max(2 * len(bets), 1)
        return replace(
            self,
            cells=pool,
            bets=tuple(bets),
            rows=rows,
            peak=max(self.peak, wealth),
            windows=self.windows + 1,
        )


def differ(before: tuple[int, ...], now: tuple[int, ...]) -> bool:
    """Whether Pearson's test rejects at 5% that both counts are of one distribution."""
    from scipy import stats

    counts = np.array([before, now])
    counts = counts[:, counts.sum(axis=0) > 0]
    return counts.shape[1] > 1 and float(stats.chi2_contingency(counts).pvalue) < UNLIKE


def _grown(wealth: Wealth, z: float, drifts: Floats, share: float) -> Wealth:
    return wealth.moved(share).grown(np.exp(np.minimum(drifts * z - drifts**2 / 2, np.log(CEILING))))


def score(count: int, pool: int, hits: int, drawn: int, chance: float) -> float:
    """The normal score of `count` hits among `drawn` of a pool: high for many."""
    if not drawn:
        return normal_score(chance)
    above = upper_tail(count, pool, hits, drawn, chance)
    # A tail near 1 is rounded: below the middle it is that of the misses.
    if above <= 0.5:
        return normal_score(above)
    return -normal_score(upper_tail(drawn - count, pool, pool - hits, drawn, 1 - chance))


def drifted_columns(peaks: Mapping[str, float], alpha: float) -> dict[str, float]:
    """The columns that have changed, each with its peak; the false discovery rate is at most alpha.

    e-BH (Wang and Ramdas 2022): the k columns with the highest e-values, for the greatest k at which all of these
    are at least K/(alpha k), whatever their dependence. A peak is no e-value yet; the adjuster (Shafer et al. 2011;
    Choe and Ramdas 2024) is A(y) = K/(alpha j), j = ⌈K H/(alpha y)⌉ up to K, H = 1 + 1/2 + … + 1/K, whose integral
    of A(y)/y² over y ≥ 1 is 1: the admissible adjuster at this alpha. It makes e-BH what Benjamini and Yekutieli
    (2001) do with 1/y. Peaks only grow, so a column that was found stays found.
    """
    size = len(peaks)
    least = size * sum(1 / k for k in range(1, size + 1)) / alpha
    ranked = sorted(peaks.items(), key=lambda peak: -peak[1])
    most = max((k for k, (_, peak) in enumerate(ranked, 1) if k * peak >= least), default=0)
    return dict(ranked[:most])
