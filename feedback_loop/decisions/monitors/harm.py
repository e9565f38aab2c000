"""Methods A and B: is the model worse than its reference by more than a tolerance? (`docs/decisions.md`.)

Bets of eight sizes that the next labels lose more than allowed are begun again and again, so that a late change is
met by fresh ones. A takes for allowed an upper confidence bound of the reference's mean. B holds 64 cells of what
that mean may be, and bets on reference and past against each; it has as much evidence as its weakest cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import special

from feedback_loop.decisions.monitors.mixture import CEILING, GRAIN, Numbers, grains
from feedback_loop.monitoring import Floats

BATCH = 100
"""Labels that are taken in at a time."""

SIZES = np.array([0.05 * 2.0**i for i in range(8)])
"""κ: what is bet on a loss. The larger, the larger the harm that it is made for."""

TRUST = np.array([0.0, *(0.01 * 2.0**i for i in range(6))])
"""κ': what is bet against a mean as high as a cell's, label by label of reference and past."""

TRUST_SHARES = np.array([0.4, *[0.1] * 6])
"""How a cell's wealth is divided among them."""

BOUND_SIZES = np.array([0.01 * 2.0**i for i in range(10)])
"""The same for the confidence bound of A, in equal shares; the largest are for losses that hardly vary."""

CELLS = 64
"""Into so many cells the range [0, 1] of the reference's mean is cut."""

NARROW = 0.35
"""The width of those around the mean, in its standard errors."""

WIDENING = 1.08
"""How much wider each further one is: the last begins 140 standard errors above the mean."""

NOTHING = -1000.0
"""The logarithm of no wealth."""

FINE = 1e5
"""Logarithms of wealth are rounded down by so fine a step: what is stored is short, and what is given away little."""


@dataclass(frozen=True)
class HarmMonitor:
    """The state after some labels; `update` gives the next one. As JSON 1 kB (A), 7 kB (B).

    A has one cell, [0, its bound]. Wealth is kept as its natural logarithm.
    """

    alpha: float
    kind: Literal["harm_a", "harm_b"]
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

    @property
    def null(self) -> str:
        """What the monitor holds to be true until it alarms, in words."""
        beyond = f" + {self.tolerance:g}" if self.tolerance else ""
        if self.kind == "harm_a":
            return f"the expected loss of every label is at most the reference's mean{beyond}"
        return f"the expected losses of all labels, the reference's too, lie between some m and m{beyond}"

    @property
    def e_value(self) -> float:
        """E now. Under the null it is expected to be at most 1; for A, where its bound of the mean holds."""
        costs = np.log1p(np.outer(TRUST, 1 - np.asarray(self.edges[:-1])))
        kept = _log_sum(np.asarray(self.trust)[:, None] - self.trusted * costs, self._shares)
        return min(math.exp(min(self._wealth(np.asarray(self.harm), kept, self.batches), 700)), CEILING)

    @property
    def once_in(self) -> float:
        """A model that was not worse than tolerated would ever show so much only once in so many times.

        The bound of A is itself wrong in half of alpha.
        """
        wrong = self.alpha / 2 if self.kind == "harm_a" else 0.0
        return max(1 / (1 / self.peak + wrong), 1.0)

    def update(self, losses: Floats, place: int = 0, *, ends: bool = True) -> HarmMonitor:
        """Takes the next losses in, in their order; how they are grouped into calls makes no difference."""
        del place, ends
        waiting = np.array([*self.waiting, *grains(losses).tolist()], dtype=np.int64)
        full = len(waiting) // BATCH
        state = self._fold(waiting[: full * BATCH].reshape(full, BATCH)) if full else self
        return replace(state, waiting=tuple(waiting[full * BATCH :].tolist()))

    def _fold(self, batches: Numbers) -> HarmMonitor:
        lasting = np.maximum(1, 1000 / np.asarray(self.paces))  # J, in bets
        expected = BATCH * np.log1p(np.outer(SIZES, np.asarray(self.edges[1:]) + self.tolerance))
        costs = np.log1p(np.outer(TRUST, 1 - np.asarray(self.edges[:-1])))
        shares, threshold = self._shares, math.log((2 if self.kind == "harm_a" else 1) / self.alpha)
        harm, trust, trusted, count = np.asarray(self.harm), np.asarray(self.trust), self.trusted, self.batches
        peak, alarmed_at = math.log(self.peak), self.alarmed_at
        kept = _log_sum(trust[:, None] - trusted * costs, shares)
        for losses in batches / GRAIN:
            begun = count // np.asarray(self.paces) + 1  # bets of each size, this batch's included
            begins = np.log(lasting / ((lasting + begun - 1) * (lasting + begun)))
            begins = np.where(count % np.asarray(self.paces) == 0, begins, NOTHING)
            harm = np.logaddexp(harm, begins[:, None] + kept) - expected
            harm = np.floor((harm + _log_growth(SIZES, losses)[:, None]) * FINE) / FINE
            trust = trust + _log_growth(TRUST, 1 - losses)
            trusted, count = trusted + BATCH, count + 1
            kept = _log_sum(trust[:, None] - trusted * costs, shares)
            wealth = self._wealth(harm, kept, count)
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

    @property
    def _shares(self) -> Floats:
        """π, a column: A has no bets against a mean."""
        return (np.eye(len(TRUST))[0] if self.kind == "harm_a" else TRUST_SHARES)[:, None]

    def _wealth(self, harm: Floats, kept: Floats, batches: int) -> float:
        """The logarithm of E after so many batches: of the bets that have begun, and of what waits for the others."""
        paces = np.asarray(self.paces)
        lasting = np.maximum(1, 1000 / paces)
        left = np.log(lasting / (lasting + (batches - 1) // paces + 1))[:, None]
        return float(_log_sum(np.logaddexp(harm, left + kept), 1 / len(SIZES)).min())


def start_harm_monitor(
    method: Literal["harm_a", "harm_b"], loss: str, reference: Floats, *, alpha: float, tolerance: float
) -> HarmMonitor:
    """A monitor of harm beyond the tolerance, from losses of reference rows in any order (at least 1,000)."""
    losses = np.sort(grains(reference)) / GRAIN
    mean = float(losses.mean())
    variance = float(losses.var()) if losses[0] < losses[-1] else 1 / len(losses)
    if method == "harm_a":
        edges = np.array([0.0, _upper_bound(loss, losses, alpha / 2)])
    else:
        edges = _cell_edges(mean, math.sqrt(variance / len(losses)))
    paces = np.ceil(2.5 * (1 + SIZES * mean) ** 2 / (SIZES**2 * variance * BATCH))
    return HarmMonitor(
        alpha=alpha,
        kind=method,
        tolerance=tolerance,
        paces=tuple(np.clip(paces, 1, 64).astype(int).tolist()),
        edges=tuple(edges.tolist()),
        harm=((NOTHING,) * (len(edges) - 1),) * len(SIZES),
        trust=tuple(np.log1p(np.outer(TRUST, 1 - losses)).sum(axis=1).tolist()),
        trusted=len(losses),
    )


def _upper_bound(loss: str, losses: Floats, alpha: float) -> float:
    """An upper confidence bound of the mean: exact for errors (Clopper and Pearson 1934), else by betting.

    The second is the largest mean that bets against it have not made 1/alpha of (Waudby-Smith and Ramdas 2024,
    section 4).
    """
    if loss == "error":
        errors = int(losses.sum())
        return float(special.betaincinv(errors + 1, len(losses) - errors, 1 - alpha)) if errors < len(losses) else 1.0
    from scipy import optimize

    growth = _log_growth(BOUND_SIZES, 1 - losses)

    def wealth(mean: float) -> float:
        made = growth - len(losses) * np.log1p(BOUND_SIZES * (1 - mean))
        return float(special.logsumexp(made) - math.log(len(made) / alpha))

    return float(optimize.brentq(wealth, float(losses.mean()), 1.0)) if wealth(1.0) > 0 else 1.0


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
