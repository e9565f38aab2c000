"""Method B: is the model worse than its reference by more than a tolerance? (`docs/decisions.md`.)

Bets of eight sizes that the next labels lose more than allowed begin again and again, so that a late change meets
fresh ones. The range of the reference's mean is cut into 64 cells, and bets on reference and past are made against
each; the evidence is that of the weakest cell.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from feedback_loop.decisions.monitors.betting import CEILING, GRAIN, Numbers, grains
from feedback_loop.monitoring import Floats

BATCH = 100
"""Labels of one update."""

SIZES = np.array([0.05 * 2.0**i for i in range(8)])
"""κ: the stake on a loss. A larger one is tuned for larger harm."""

TRUST = np.array([0.0, *(0.01 * 2.0**i for i in range(6))])
"""κ': the stake against a mean as high as a cell's, label by label of reference and past."""

CELLS = 64
"""The number of cells of the range [0, 1] of the reference's mean."""

NARROW = 0.35
"""The width of the cells around the mean, in its standard errors."""

WIDENING = 1.08
"""The growth of the width from cell to cell: the last begins 140 standard errors above the mean."""

NOTHING = -1000.0
"""The logarithm of no wealth."""

FINE = 1e5
"""Logarithms of wealth are rounded down to 1 / FINE, which keeps them short and loses little."""


class HarmMonitor(Struct, frozen=True, tag_field="kind", tag="harm"):
    """The state after some labels; `update` gives the next one. As JSON 7 kB.

    Wealth is kept as its natural logarithm.
    """

    alpha: float
    tolerance: float
    paces: tuple[int, ...]  # a new bet of each size begins every so many batches
    edges: tuple[float, ...]  # of the cells
    harm: tuple[tuple[float, ...], ...]  # what the bets have grown to, by size and cell
    trust: tuple[float, ...]  # of reference and past: Σ log(1 + κ'(1 - loss)), by κ'
    trusted: int  # labels that it is the sum of
    batches: int = 0
    waiting: tuple[int, ...] = ()  # losses of a batch that is not full yet, in billionths
    peak: float = 1.0
    alarmed_at: int | None = None  # after how many labels of the stream

    shares: ClassVar[Floats] = np.array([0.4, *[0.1] * 6])[:, None]
    """The share of each size of `TRUST` in a cell's wealth, as a column."""

    @property
    def null(self) -> str:
        """The null hypothesis, in words."""
        beyond = f" + {self.tolerance:g}" if self.tolerance else ""
        return f"the expected losses of all labels, the reference's too, lie between some m and m{beyond}"

    @property
    def e_value(self) -> float:
        """The wealth now. Under the null it is expected to be at most 1."""
        costs = np.log1p(np.outer(TRUST, 1 - np.asarray(self.edges[:-1])))
        trust_wealth = _log_sum(np.asarray(self.trust)[:, None] - self.trusted * costs, self.shares)
        return min(math.exp(min(self._wealth(np.asarray(self.harm), trust_wealth, self.batches), 700)), CEILING)

    @property
    def once_in(self) -> float:
        """The peak of the wealth: a model within the tolerance ever reaches y with probability at most 1/y."""
        return max(self.peak, 1.0)

    def stratum(self, place: int) -> int:
        """One stratum for all windows: they can update the monitor together."""
        del place
        return 0

    def update(self, losses: Floats, place: int = 0, *, ends: bool = True) -> HarmMonitor:
        """The monitor after more losses, in their order; their grouping into calls makes no difference."""
        del place, ends
        waiting = np.array([*self.waiting, *grains(losses).tolist()], dtype=np.int64)
        full = len(waiting) // BATCH
        state = self._fold(waiting[: full * BATCH].reshape(full, BATCH)) if full else self
        return replace(state, waiting=tuple(waiting[full * BATCH :].tolist()))

    def _fold(self, batches: Numbers) -> HarmMonitor:
        lasting = np.maximum(1, 1000 / np.asarray(self.paces))  # J, in bets
        expected = BATCH * np.log1p(np.outer(SIZES, np.asarray(self.edges[1:]) + self.tolerance))
        costs = np.log1p(np.outer(TRUST, 1 - np.asarray(self.edges[:-1])))
        shares, threshold = self.shares, math.log(1 / self.alpha)
        harm, trust, trusted, count = np.asarray(self.harm), np.asarray(self.trust), self.trusted, self.batches
        peak, alarmed_at = math.log(self.peak), self.alarmed_at
        trust_wealth = _log_sum(trust[:, None] - trusted * costs, shares)
        for losses in batches / GRAIN:
            begun = count // np.asarray(self.paces) + 1  # bets of each size, this batch's included
            begins = np.log(lasting / ((lasting + begun - 1) * (lasting + begun)))
            begins = np.where(count % np.asarray(self.paces) == 0, begins, NOTHING)
            harm = np.logaddexp(harm, begins[:, None] + trust_wealth) - expected
            harm = np.floor((harm + _log_growth(SIZES, losses)[:, None]) * FINE) / FINE
            trust = trust + _log_growth(TRUST, 1 - losses)
            trusted, count = trusted + BATCH, count + 1
            trust_wealth = _log_sum(trust[:, None] - trusted * costs, shares)
            wealth = self._wealth(harm, trust_wealth, count)
            peak = max(peak, wealth)
            if alarmed_at is None and wealth >= threshold:
                alarmed_at = count * BATCH
        return replace(
            self,
            harm=tuple(map(tuple, harm.tolist())),
            trust=tuple(trust.tolist()),
            trusted=trusted,
            batches=count,
            peak=min(math.exp(min(peak, 700)), CEILING),
            alarmed_at=alarmed_at,
        )

    def _wealth(self, harm: Floats, trust_wealth: Floats, batches: int) -> float:
        """The logarithm of the wealth after so many batches: in bets that have begun, and reserved for later ones."""
        paces = np.asarray(self.paces)
        lasting = np.maximum(1, 1000 / paces)
        reserved = np.log(lasting / (lasting + (batches - 1) // paces + 1))[:, None]
        return float(_log_sum(np.logaddexp(harm, reserved + trust_wealth), 1 / len(SIZES)).min())


def start_harm_monitor(reference: Floats, *, alpha: float, tolerance: float) -> HarmMonitor:
    """A monitor of harm beyond the tolerance, from losses of reference rows in any order (at least 1,000)."""
    losses = np.sort(grains(reference)) / GRAIN
    mean = float(losses.mean())
    variance = float(losses.var()) if losses[0] < losses[-1] else 1 / len(losses)
    edges = _cell_edges(mean, math.sqrt(variance / len(losses)))
    paces = np.ceil(2.5 * (1 + SIZES * mean) ** 2 / (SIZES**2 * variance * BATCH))
    return HarmMonitor(
        alpha=alpha,
        tolerance=tolerance,
        paces=tuple(np.clip(paces, 1, 64).astype(int).tolist()),
        edges=tuple(edges.tolist()),
        harm=((NOTHING,) * (len(edges) - 1),) * len(SIZES),
        trust=tuple(np.log1p(np.outer(TRUST, 1 - losses)).sum(axis=1).tolist()),
        trusted=len(losses),
    )


def _cell_edges(mean: float, error: float) -> Floats:
    """The ends of the cells: around the mean .35 standard errors wide, ever wider above it, and all of [0, 1]."""
    inner = NARROW * np.arange(-6, 12)
    outer = inner[-1] + NARROW * np.cumsum(WIDENING ** np.arange(1, CELLS - len(inner)))
    return np.unique(np.round(np.clip([0.0, *(mean + error * np.array([*inner, *outer])), 1.0], 0, 1), 9))


def _log_growth(sizes: Floats, gains: Floats) -> Floats:
    """Σ log(1 + size · gain) over the labels, by size."""
    return np.asarray(np.log1p(np.outer(sizes, gains)).sum(axis=1))


def _log_sum(logarithms: Floats, shares: Floats | float) -> Floats:
    """The log of Σ share · exp(…) down each column."""
    most = logarithms.max(axis=0)
    return np.asarray(most + np.log((shares * np.exp(logarithms - most)).sum(axis=0)))
