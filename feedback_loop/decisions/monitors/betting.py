"""Shared by all forms of method D: a wealth of cash and bets, a boost, and seeded random numbers.

A monitor starts with wealth 1. Under its null the expected wealth never exceeds 1, so by Ville's inequality it ever
reaches 1/alpha with probability at most alpha, however often it is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from feedback_loop.errors import BadInput
from feedback_loop.monitoring import Floats

Numbers = npt.NDArray[np.int64]

GRAIN = 1_000_000_000
"""Losses are counted in whole billionths, so that sums are exact in any order."""

HORIZON = 35_000
"""Half of the cash is in bets after so many labels, the rest ever more slowly."""

BOLDNESS = np.array([0.03 * 2.3**j for j in range(4)])
"""The sizes of change (in standard deviations of one label) that the four bets are made for."""

SHARES = (0.12, 0.26, 0.40, 0.22)
"""The shares of the four bets in the cash that is moved."""

CEILING = 1e30
"""The most that a bet may be, so that numbers stay finite in JSON too."""


@dataclass(frozen=True)
class Wealth:
    """Cash, and the value of each bet."""

    cash: float
    bets: tuple[float, ...]

    @classmethod
    def begin(cls) -> Wealth:
        """The initial wealth, all in cash."""
        return cls(1.0, (0.0,) * len(BOLDNESS))

    @property
    def total(self) -> float:
        """Cash and bets together."""
        return self.cash + sum(self.bets)

    def moved(self, share: float) -> Wealth:
        """The wealth with a share of the cash moved into the bets; the total stays."""
        moved = self.cash * share
        return Wealth(
            self.cash - moved, tuple(bet + part * moved for bet, part in zip(self.bets, SHARES, strict=True))
        )

    def grown(self, factors: Iterable[float]) -> Wealth:
        """Each bet multiplied by its factor (whose expectation under the null is 1), up to a ceiling.

        What exceeds it is lost, which delays no alarm: they need far less.
        """
        grown = (min(bet * float(factor), CEILING) for bet, factor in zip(self.bets, factors, strict=True))
        return Wealth(self.cash, tuple(grown))


@dataclass(frozen=True)
class NormalBets:
    """Bets that a stream of standard normal scores has begun to drift upwards.

    `boosted` is valid up to the ceiling 1/alpha, and raises the alarm. `plain` is the wealth without the boost: an
    unchanged model ever reaches y with probability at most 1/y.
    """

    boosted: Wealth
    plain: Wealth
    peak: float  # the maximum of `plain` so far, which Ville's inequality bounds

    @classmethod
    def begin(cls) -> NormalBets:
        """The state before the first score."""
        return cls(Wealth.begin(), Wealth.begin(), 1.0)

    def after(self, z: float, drifts: Sequence[float], share: float, ceiling: float) -> NormalBets:
        """The state after the next score: each of `drifts` is bet on with its likelihood ratio."""
        growth = [math.exp(drift * z - drift * drift / 2) for drift in drifts]
        boosted = self.boosted.moved(share)
        boost = _boost(boosted, drifts, ceiling)
        plain = self.plain.moved(share).grown(growth)
        grown = Wealth(boosted.cash * boost, boosted.grown([boost * factor for factor in growth]).bets)
        return NormalBets(grown, plain, max(self.peak, plain.total))


def normal_score(p: float) -> float:
    """-Φ⁻¹(p): the score of a p-value, high for small ones."""
    return float(normal_scores(np.array([p]))[0])


def normal_scores(p: Floats) -> Floats:
    """-Φ⁻¹(p) of each p-value."""
    from scipy import special

    return np.asarray(-special.ndtri(np.clip(p, 1e-290, 1 - 1e-16)))


def grains(losses: Floats) -> Numbers:
    """Losses in [0, 1] as whole billionths.

    Raises:
        BadInput: one of them is no number in [0, 1] (a billionth beyond is rounded).
    """
    with np.errstate(invalid="ignore"):
        whole = np.rint(np.asarray(losses, dtype=np.float64) * GRAIN)
    wrong = ~((whole >= 0) & (whole <= GRAIN))
    if wrong.any():
        row = int(np.argmax(wrong))
        cause = f"{losses[row]} is no number from 0 to 1"
        raise BadInput.of("loss", cause, row=row, cure="Scale losses by the reference before they are monitored.")
    return whole.astype(np.int64)


def exchangeable(what: str, strata: int) -> str:
    """The null of method D in words."""
    within = f", within each of the {strata} places of a window in the cycle" if strata > 1 else ""
    return f"{what} of reference and stream are exchangeable, label by label{within}"


def uniforms(seed: int, first: int, count: int) -> Floats:
    """The numbers `first … first + count - 1` of a seeded stream on (0, 1), whatever was drawn before.

    Philox is counter-based: any place of its stream is reached at once (Salmon et al. 2011).
    """
    blocks = range(first // _BLOCK, (first + count - 1) // _BLOCK + 1)
    numbers = [_block(seed, place) for place in blocks]
    start = first - blocks.start * _BLOCK
    return (numbers[0] if len(numbers) == 1 else np.concatenate(numbers or [_NONE]))[start : start + count]


@lru_cache(maxsize=64)
def _block(seed: int, place: int) -> Floats:
    """A block of the stream, cached: a look of thousands of small windows shares it."""
    stream = np.random.Philox(key=seed)
    stream.advance(place * (_BLOCK // 4))  # one step of the counter gives four numbers
    numbers = np.random.Generator(stream).random(_BLOCK)
    numbers.setflags(write=False)
    return numbers


_BLOCK = 1024
_NONE = np.empty(0)


def _boost(wealth: Wealth, drifts: Sequence[float], ceiling: float) -> float:
    """The factor β by which the wealth may be raised because what exceeds the ceiling is never needed.

    It keeps E min(β M, A) ≤ M: two Newton steps from β = 1, each of which stays below the largest such β. Any y
    would be valid; the solution of β M(y) = A gives the most.
    """
    cash, total, boost = wealth.cash, wealth.total, 1.0
    bets = [(bet, drift, drift * drift / 2) for bet, drift in zip(wealth.bets, drifts, strict=True) if bet > 0]
    for _ in range(2):
        level = ceiling / boost
        if level <= cash or not bets:
            break
        y = _crossing(bets, cash, level)
        if y > 7.5 + max(drifts):
            break
        gain = cash * _below(y)
        for bet, drift, _ in bets:
            gain += bet * _below(y - drift)
        value = boost * gain + ceiling * _below(-y)
        if value >= total or gain <= 0:
            break
        boost += (total - value) / gain
    return boost


def _crossing(bets: Sequence[tuple[float, float, float]], cash: float, level: float) -> float:
    """The z at which the wealth would reach the level: four Newton steps on its logarithm."""
    y = min([(math.log((level - cash) / bet) + half) / drift for bet, drift, half in bets])
    for _ in range(4):
        total, slope = cash, 0.0
        for bet, drift, half in bets:  # loops, not sums of generators: this is most of what a label costs
            term = bet * math.exp(drift * y - half)
            total += term
            slope += term * drift
        y -= total * math.log(total / level) / slope
    return y


def _below(z: float) -> float:
    """Φ(z)."""
    return 0.5 * math.erfc(z * -0.7071067811865476)
