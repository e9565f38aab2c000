"""Method D for losses that are numbers: has a loss such as Brier's grown? (`docs/decisions.md`.)

Null: the losses of reference and stream are exchangeable within each stratum, so the rank of each among all so far
of its stratum is uniform. Losses are put into fixed fine bins of the reference and ties within a bin are broken at
random: breaking them by arrival causes false alarms on losses of few values.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from feedback_loop.decisions.monitors.betting import (
    BOLDNESS,
    CEILING,
    HORIZON,
    SHARES,
    Numbers,
    Wealth,
    exchangeable,
    grains,
    uniforms,
)
from feedback_loop.monitoring import Floats

FINENESS = 200
"""Bins of the losses, and steps of the betting function."""

COARSE = 25
"""The fewest bins: with many strata there are fewer, so that the counts stay small."""

FIRST = 5
"""One in so many labels of the reference makes bins and bets; the stream is ranked among the rest."""

AT_ONCE = 128
"""Labels compared with each other at a time: the work grows with the square."""

_EARLIER = np.tri(AT_ONCE, dtype=bool)
"""Row i marks the labels up to and including the i-th."""


class RankMonitor(Struct, frozen=True, tag_field="kind", tag="rank"):
    """The state after some labels; `update` gives the next one. A few kB as JSON."""

    alpha: float
    seed: int
    edges: tuple[int, ...]  # of the bins, in billionths
    counts: tuple[tuple[int, ...], ...]  # of all losses so far, by stratum and bin
    payoffs: tuple[float, ...]  # H: what a rank pays, from the highest losses to the lowest
    wealth: Wealth
    peak: float = 1.0
    seen: int = 0  # labels of the stream
    alarmed_at: int | None = None  # after how many of them

    @property
    def null(self) -> str:
        """The null hypothesis, in words."""
        return exchangeable("losses", len(self.counts))

    @property
    def e_value(self) -> float:
        """The wealth now. Under the null it is expected to be at most 1."""
        return self.wealth.total

    @property
    def once_in(self) -> float:
        """The peak of the wealth: an unchanged model ever reaches y with probability at most 1/y."""
        return self.peak

    def stratum(self, place: int) -> int:
        """The stratum of a window; consecutive windows of one stratum can update the monitor together."""
        return place % len(self.counts)

    def update(self, losses: Floats, place: int = 0, *, ends: bool = True) -> RankMonitor:
        """The monitor after more losses of the window `place`; their grouping into calls makes no difference."""
        del ends
        if not len(losses):
            return self
        stratum = self.stratum(place)
        bins = np.searchsorted(np.asarray(self.edges), grains(losses), side="left")
        counts = np.asarray(self.counts[stratum])
        chances = uniforms(self.seed, self.seen, len(bins))
        ranks = np.empty(len(bins))
        for start in range(0, len(bins), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            ranks[part] = _ranks(bins[part], counts, chances[part])
            counts = counts + np.bincount(bins[part], minlength=len(counts))
        wealth, totals = self._bet((ranks * len(self.payoffs)).astype(np.int64))
        crossed = np.flatnonzero(totals >= 1 / self.alpha)
        first = self.seen + int(crossed[0]) + 1 if len(crossed) else None
        after = tuple(counts.tolist())
        return replace(
            self,
            counts=(*self.counts[:stratum], after, *self.counts[stratum + 1 :]),
            wealth=wealth,
            peak=max(self.peak, float(totals.max())),
            seen=self.seen + len(bins),
            alarmed_at=first if self.alarmed_at is None else self.alarmed_at,
        )

    def _bet(self, steps: Numbers) -> tuple[Wealth, Floats]:
        """The wealth after ranks in these steps of the payoffs, and its totals after each."""
        growth = _growth(self.payoffs)[:, np.minimum(steps, len(self.payoffs) - 1)]
        shares = 1 / (HORIZON + self.seen + 1 + np.arange(len(steps)))
        cash = np.cumprod([self.wealth.cash, *(1 - shares)])
        moved = cash[:-1] * shares
        totals, bets = cash[1:], []
        for bet, part, factors in zip(self.wealth.bets, SHARES, growth, strict=True):
            path = _path(bet, (part * moved).tolist(), factors.tolist())
            bets.append(path[-1])
            totals = totals + np.asarray(path)
        return Wealth(float(cash[-1]), tuple(bets)), totals


@lru_cache(maxsize=64)
def _growth(payoffs: tuple[float, ...]) -> Floats:
    """The factor of each bet at each step of the payoffs."""
    paid = np.asarray(payoffs)
    mean, deviation = float(paid.mean()), float(paid.std())
    stakes = np.minimum(BOLDNESS / (deviation * (1 + BOLDNESS**2)), 0.95 / mean)
    return np.asarray(1 + np.outer(stakes, paid - mean))


def _path(bet: float, moved: Iterable[float], factors: Iterable[float]) -> list[float]:
    """The value of a bet after each label: cash is added, then it grows, up to the ceiling."""
    path = []
    for more, factor in zip(moved, factors, strict=True):
        bet = (bet + more) * factor
        if bet > CEILING:  # noqa: PLR1730 (three times as fast as min)
            bet = CEILING
        path.append(bet)
    return path


def _ranks(bins: Numbers, counts: Numbers, chances: Floats) -> Floats:
    """The share of all so far, each label included, that lies above it; ties within a bin broken at random."""
    earlier, small = (
        _EARLIER[: len(bins), : len(bins)],
        bins.astype(np.int16),
    )  # earlier ones include the label itself
    total = counts.sum()
    above = (total - np.cumsum(counts))[bins] + _trues((small > small[:, None]) & earlier)
    same = counts[bins] + _trues((small == small[:, None]) & earlier)
    return np.asarray((above + chances * same) / (total + np.arange(1, len(bins) + 1)))


def _trues(table: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """How many of each row, fewer than 256 of them."""
    return np.asarray(table.view(np.uint8).sum(axis=1, dtype=np.uint8))


def start_rank_monitor(
    reference: Floats, windows: Numbers | None = None, strata: int = 1, *, alpha: float, seed: int
) -> RankMonitor:
    """A monitor from the losses of reference rows, in their order (at least 1,000).

    A stratum with few labels in the reference, or none, is compared with its own first labels in the stream.
    """
    whole = grains(reference)
    is_first = np.arange(len(whole)) % FIRST == 0
    first, rest = whole[is_first], whole[~is_first]
    places = (np.zeros(len(whole), dtype=np.int64) if windows is None else windows % strata)[~is_first]
    fineness = min(FINENESS, max(COARSE, 2 * FINENESS // strata))
    edges = np.unique(np.quantile(first, (np.arange(fineness) + 0.5) / fineness, method="inverted_cdf"))
    levels = (np.arange(FINENESS) + 0.5) / FINENESS
    payoffs = np.quantile(first, 1 - levels) / max(float(np.quantile(first, 0.99)), 1.0)
    payoffs = np.round(np.clip(payoffs, 0, 1), 4)
    if payoffs.std() == 0:  # a reference of one value only: any rank can pay, so let the upper half do
        payoffs = (levels < 0.5).astype(float)
    bins = np.searchsorted(edges, rest, side="left")
    counts = np.zeros((strata, len(edges) + 1), dtype=np.int64)
    np.add.at(counts, (places, bins), 1)
    return RankMonitor(
        alpha=alpha,
        seed=seed,
        edges=tuple(edges.tolist()),
        counts=tuple(map(tuple, counts.tolist())),
        payoffs=tuple(payoffs.tolist()),
        wealth=Wealth.begin(),
    )
