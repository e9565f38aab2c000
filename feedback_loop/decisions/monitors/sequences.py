"""A confidence sequence of a mean loss: an interval that holds at every look at once, at any stopping time.

The empirical Bernstein sequence of Howard, Ramdas, McAuliffe and Sekhon (2021, "Time-uniform, nonparametric,
nonasymptotic confidence sequences", Annals of Statistics 49), theorem 4, with their gamma-exponential mixture
(proposition 9). It covers the average of the labels' conditional means so far: losses may depend on each other, and
the mean may change, which the tighter betting sequences (Waudby-Smith and Ramdas 2024) do not allow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from feedback_loop.monitoring import Floats

TUNED_FOR = 100.0
"""The sum of squares at which the interval is tightest: that of 1,000 labels with an error rate of .11."""

_RHO = TUNED_FOR / (2 * np.log(20) + np.log1p(2 * np.log(20)))  # of a bound at .025 on either side


@dataclass(frozen=True)
class ConfidenceSequence:
    """The state after some losses in [0, 1]: three numbers, the same however the losses are grouped into updates.

    `guess` (in [0, 1]) stands for the mean before there is one; the better it is, the tighter the first bounds.
    """

    labels: int = 0
    total: float = 0.0
    squares: float = 0.0  # of each loss's distance from the mean of those before it
    guess: float = 0.5

    @property
    def mean(self) -> float | None:
        """The mean loss; None where there is none yet."""
        return self.total / self.labels if self.labels else None

    def update(self, losses: Floats) -> ConfidenceSequence:
        """The sequence after more losses, in their order."""
        totals = np.add.accumulate(
            np.concatenate([[self.total], losses])
        )  # one by one, so that the grouping does not change the rounding
        expected = (self.guess + totals[:-1]) / (self.labels + 1 + np.arange(len(losses)))
        squares = np.add.accumulate(np.concatenate([[self.squares], (losses - expected) ** 2]))
        return ConfidenceSequence(self.labels + len(losses), float(totals[-1]), float(squares[-1]), self.guess)

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Both ends: with probability 1 - `alpha` the mean lies between them at every look there will ever be."""
        return self.lower(alpha / 2), self.upper(alpha / 2)

    def lower(self, alpha: float) -> float:
        """The lower end alone: the mean is ever below it with probability at most `alpha`."""
        return max(self.total / self.labels - self._margin(alpha), 0.0) if self.labels else 0.0

    def upper(self, alpha: float) -> float:
        """The upper end alone: the mean is ever above it with probability at most `alpha`."""
        return min(self.total / self.labels + self._margin(alpha), 1.0) if self.labels else 1.0

    def _margin(self, alpha: float) -> float:
        """How far the sum may be from what was expected, per label: where the mixture's wealth reaches 1/alpha."""
        from scipy import optimize

        target, most = -np.log(alpha), 1.0
        while log_wealth(most, self.squares) < target:
            most *= 2
        root = optimize.brentq(lambda distance: log_wealth(distance, self.squares) - target, 0.0, most, xtol=1e-9)
        return float(root) / self.labels


def log_wealth(distance: float, squares: float) -> float:
    """The logarithm of the gamma-exponential mixture (Howard et al. 2021, equation 66) for losses of range 1.

    That is `∫ exp(λ·distance + squares·(log(1 - λ) + λ)) f(λ) dλ` over [0, 1), where `1 - λ` has the density of a
    gamma distribution of shape and rate ρ, cut at 1. Its mean is at most 1, whatever the losses are.
    """
    from scipy import special

    shape, rate = squares + _RHO, distance + squares + _RHO
    inner = special.gammaln(shape) + np.log(special.gammainc(shape, rate)) - shape * np.log(rate)
    return float(_leading() + inner + distance + squares)


@lru_cache(1)
def _leading() -> np.float64:
    from scipy import special

    return np.float64(_RHO * np.log(_RHO) - special.gammaln(_RHO) - np.log(special.gammainc(_RHO, _RHO)))
