"""Method D for losses that are numbers: has a loss such as Brier's grown? (`docs/decisions.md`.)

Null: the losses of reference and stream are exchangeable, so the rank of each among all so far is uniform. Losses
are put into fixed fine bins of the reference and ties within a bin are broken at random: breaking them by arrival
would cry wolf on few-valued losses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from feedback_loop.decisions.mixture import BOLDNESS, HORIZON, Wealth, uniforms
from feedback_loop.monitoring import Floats

FINENESS = 200
"""Bins of the losses, and steps of the betting function."""

FIRST_SHARE = 0.2
"""The first part of the reference: it makes bins and bets. The rest is what the stream is ranked among."""


@dataclass(frozen=True)
class RankMonitor:
    """The state after some labels; `update` gives the next one. A few kB as JSON."""

    alpha: float
    seed: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]  # of all losses so far, by bin
    payoffs: tuple[float, ...]  # H: what a rank pays, from the highest losses to the lowest
    wealth: Wealth
    peak: float = 1.0
    seen: int = 0
    alarmed_at: int | None = None
    kind: str = "rank"

    null = "losses of reference and stream are exchangeable, label by label"

    @property
    def once_in(self) -> float:
        """A model that had not changed would ever show so much only once in so many times."""
        return self.peak

    def update(self, losses: Floats, place: int = 0, *, ends: bool = True) -> RankMonitor:
        """Takes the next losses in, in their order; how they are grouped into calls makes no difference."""
        payoffs, counts = np.asarray(self.payoffs), np.asarray(self.counts).copy()
        mean, deviation = float(payoffs.mean()), float(payoffs.std())
        stakes = np.minimum(BOLDNESS / (deviation * (1 + BOLDNESS**2)), 0.95 / mean)
        bins = np.searchsorted(np.asarray(self.edges), losses, side="left")
        wealth, peak, seen, alarmed_at = self.wealth, self.peak, self.seen, self.alarmed_at
        for place, uniform in zip(bins, uniforms(self.seed, seen, len(losses)), strict=True):
            counts[place] += 1
            above = counts[place + 1 :].sum()
            p = (above + uniform * counts[place]) / counts.sum()
            payoff = payoffs[min(int(p * len(payoffs)), len(payoffs) - 1)]
            seen += 1
            wealth = wealth.moved(1 / (HORIZON + seen)).grown(1 + stakes * (payoff - mean))
            peak = max(peak, wealth.total)
            if alarmed_at is None and wealth.total >= 1 / self.alpha:
                alarmed_at = seen
        counted = tuple(int(count) for count in counts)
        return replace(self, counts=counted, wealth=wealth, peak=peak, seen=seen, alarmed_at=alarmed_at)


def start_rank_monitor(reference: Floats, *, alpha: float, seed: int) -> RankMonitor:
    """A monitor from the losses of reference rows, in their order (at least 1,000)."""
    first, rest = np.split(reference, [int(len(reference) * FIRST_SHARE)])
    levels = (np.arange(FINENESS) + 0.5) / FINENESS
    edges = np.unique(np.quantile(first, levels))
    payoffs = np.quantile(first, 1 - levels)
    payoffs = np.clip(payoffs / max(float(np.quantile(first, 0.99)), 1e-12), 0, 1)
    if payoffs.std() == 0:  # a reference of one value only: any rank can pay, so let the upper half do
        payoffs = (levels < 0.5).astype(float)
    counts = np.bincount(np.searchsorted(edges, rest, side="left"), minlength=len(edges) + 1)
    return RankMonitor(
        alpha=alpha,
        seed=seed,
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
        payoffs=tuple(float(payoff) for payoff in payoffs),
        wealth=Wealth.begin(),
    )
