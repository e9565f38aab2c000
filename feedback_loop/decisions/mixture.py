"""What all forms of method D share: cash, bets of growing boldness, a boost, and seeded randomness.

A monitor starts with wealth 1. Under its null the expected wealth never exceeds 1, so by Ville's inequality it ever
reaches 1/alpha with probability at most alpha, however often it is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from feedback_loop.monitoring import Floats

HORIZON = 35_000
"""Labels over which the cash is brought into the bets: half of it by then, the rest ever more slowly."""

BOLDNESS = np.array([0.03 * 2**j for j in range(6)])
"""The sizes of change (in standard deviations of one label) that the six bets are made for."""

SHARES = np.array([0.10, 0.15, 0.25, 0.25, 0.18, 0.07])
"""How the cash is divided among them."""

CEILING = 1e30
"""No bet grows beyond this: numbers stay finite, and finite in JSON."""


@dataclass(frozen=True)
class Wealth:
    """Cash, and what each bet has grown to."""

    cash: float
    bets: tuple[float, ...]

    @classmethod
    def begin(cls) -> Wealth:
        """All in cash."""
        return cls(1.0, (0.0,) * len(BOLDNESS))

    @property
    def total(self) -> float:
        """All of it."""
        return self.cash + sum(self.bets)

    def moved(self, share: float) -> Wealth:
        """A share of the cash moved into the bets: the total stays."""
        moved = self.cash * share
        return Wealth(self.cash - moved, tuple((np.asarray(self.bets) + SHARES * moved).tolist()))

    def grown(self, factors: Floats) -> Wealth:
        """Each bet multiplied by its factor (whose expectation under the null is 1), up to a ceiling.

        What is above it is given away, which costs nothing: no alarm waits for so much.
        """
        return Wealth(self.cash, tuple(np.minimum(np.asarray(self.bets) * factors, CEILING).tolist()))


@dataclass(frozen=True)
class NormalBets:
    """Bets that a stream of standard normal scores has begun to drift upwards.

    `boosted` means something only up to the ceiling 1/alpha: it is what raises the alarm. `plain` is the wealth
    without the boost: "an unchanged model would ever show as much once in so many times".
    """

    boosted: Wealth
    plain: Wealth
    peak: float  # the most that `plain` has been: Ville's inequality is about that

    @classmethod
    def begin(cls) -> NormalBets:
        """Nothing won yet."""
        return cls(Wealth.begin(), Wealth.begin(), 1.0)

    def after(self, z: float, drifts: Floats, share: float, ceiling: float) -> NormalBets:
        """The next score taken in: `drifts` are the six upward drifts that are bet on, likelihood ratio each."""
        growth = np.exp(drifts * z - drifts**2 / 2)
        boosted = self.boosted.moved(share)
        boost = _boost(boosted, drifts, ceiling)
        plain = self.plain.moved(share).grown(growth)
        grown = Wealth(boosted.cash * boost, boosted.grown(boost * growth).bets)
        return NormalBets(grown, plain, max(self.peak, plain.total))


def normal_score(p: float) -> float:
    """-Φ⁻¹(p): the score of a p-value, high for small ones."""
    return float(-special.ndtri(np.clip(p, 1e-290, 1 - 1e-16)))


def uniforms(seed: int, first: int, count: int) -> Floats:
    """The numbers `first … first + count - 1` of a seeded stream on (0, 1): the same however they are asked for.

    Philox is a counter: any place of its stream can be gone to at once (Salmon et al. 2011).
    """
    stream = np.random.Philox(key=seed)
    stream.advance(first // 4)  # one step of the counter gives four numbers
    return np.random.Generator(stream).random(first % 4 + count)[first % 4 :]


def _boost(wealth: Wealth, drifts: Floats, ceiling: float) -> float:
    """The factor β by which the wealth may be raised because what exceeds the ceiling is never needed.

    It keeps E min(β M, A) ≤ M: two Newton steps from β = 1, each of which stays below the largest such β. Any y
    would be valid; the solution of β M(y) = A gives the most.
    """
    bets, cash = np.asarray(wealth.bets), wealth.cash
    boost = 1.0
    for _ in range(2):
        level = ceiling / boost
        if level <= cash or not bets.any():
            break
        y = _crossing(bets, cash, drifts, level)
        if y > 7.5 + drifts.max():
            break
        gain = cash * special.ndtr(y) + float((bets * special.ndtr(y - drifts)).sum())
        value = boost * gain + ceiling * special.ndtr(-y)
        if value >= wealth.total or gain <= 0:
            break
        boost += (wealth.total - value) / gain
    return float(boost)


def _crossing(bets: Floats, cash: float, drifts: Floats, level: float) -> float:
    """The z at which the wealth would reach the level: four Newton steps on its logarithm."""
    active = bets > 0
    bets, drifts = bets[active], drifts[active]
    y = float(((np.log((level - cash) / bets) + drifts**2 / 2) / drifts).min())
    for _ in range(4):
        terms = bets * np.exp(drifts * y - drifts**2 / 2)
        total = float(terms.sum()) + cash
        y -= total * float(np.log(total / level)) / float((terms * drifts).sum())
    return y
