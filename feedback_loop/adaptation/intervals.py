"""Intervals around a regression's adapted answers: quantiles of the newest residuals, at a level that adapts itself.

Gibbs and Candès 2021, "Adaptive conformal inference under distribution shift": the level of misses that is aimed at
moves by a step with the share of misses that came.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from feedback_loop.inference.adapter_encoding import Floats

MISSES = 0.1
"""Wanted: intervals of 90%."""

STEP = 0.05

KEPT = 1000
"""Residuals."""

ENOUGH = 100
"""Before so many residuals there are no intervals."""

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, eq=False)
class Residuals:
    """The newest signed residuals (served, in the reference's standard deviations), and the level of misses."""

    values: Floats = field(default_factory=lambda: np.empty(0))
    level: float = MISSES

    def interval(self, scale: float) -> tuple[float, float] | None:
        """What is to be added to an answer for both ends of its interval; None while too little is known."""
        if len(self.values) < ENOUGH:
            return None
        level = min(max(self.level, 0.0), 1.0)
        low, high = np.quantile(self.values, [level / 2.0, 1.0 - level / 2.0])
        return float(low) * scale, float(high) * scale

    def coverage(self, residuals: Floats) -> float | None:
        """The share of these residuals that lie within the interval; None where there is none yet."""
        ends = self.interval(1.0)
        return None if ends is None else float(((residuals >= ends[0]) & (residuals <= ends[1])).mean())

    def after(self, residuals: Floats) -> Residuals:
        """With those of a look, in whatever order they come."""
        level, coverage = self.level, self.coverage(residuals)
        if coverage is not None:
            level += STEP * (MISSES - (1.0 - coverage))
        return Residuals(np.concatenate([self.values, _spread_out(residuals)])[-KEPT:], level)


def _spread_out(residuals: Floats) -> Floats:
    """The same in an order in which each part of them is like the whole: none of them is favoured where some go."""
    order = np.argsort(np.arange(len(residuals)) * _GOLDEN % 1.0, kind="stable")
    return np.asarray(np.sort(residuals)[order])
