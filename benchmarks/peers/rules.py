"""Rules of others that our monitors are measured beside: a z-test, NannyML's chunks, ADWIN; and method A, of ours.

None of them may act in the product: each loses to methods D and B in every table of docs/decisions.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from feedback_loop.decisions.monitors import Monitor, Units, start_monitor
from feedback_loop.decisions.monitors.harm import TRUST, HarmMonitor, start_harm_monitor
from feedback_loop.decisions.monitors.rules import LEAST_WINDOW
from feedback_loop.decisions.monitors.window_means import LEAST_UNITS, split_units
from feedback_loop.monitoring import Floats

LEVEL = 0.05
"""Of the z-test, for each window."""

DEVIATIONS, CHUNKS = 3.0, 10
"""NannyML's: so many standard deviations of the chunks above their mean; chunks where there are too few windows."""

DELTA = 0.002
"""ADWIN's confidence, river's default."""

BOUND_SIZES = np.array([0.01 * 2.0**i for i in range(10)])
"""What is bet against the mean for the bound of method A; the largest are for losses that hardly vary."""


@dataclass(frozen=True)
class Limit:
    """Cries where a window's mean loss is above `level + margin √(1/n + 1/N)`: of n labels, N of the reference."""

    level: float
    margin: float
    reference: int

    def crossed(self, means: npt.ArrayLike, labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether windows with such mean losses and so many labels make it cry."""
        counts = np.maximum(labels, 1)
        limit = self.level + self.margin * np.sqrt(1 / counts + 1 / self.reference)
        return np.asarray((counts >= LEAST_WINDOW) & (np.asarray(means) > limit))


def z_test(reference: Floats) -> Limit:
    """One-sided, of each window's mean against the reference's."""
    return Limit(float(reference.mean()), float(-special.ndtri(LEVEL) * reference.std(ddof=1)), len(reference))


def chunks(reference: Floats, windows: npt.NDArray[np.int64]) -> Limit:
    """NannyML's rule, of the reference's windows."""
    parts = split_units(reference, windows)
    parts = parts if len(parts) >= LEAST_UNITS else np.array_split(reference, CHUNKS)
    means = np.array([part.mean() for part in parts])
    return Limit(float(means.mean() + DEVIATIONS * means.std()), 0.0, len(reference))


def adwin_alarm(known: Floats, after: Floats, delta: float = DELTA) -> int | None:
    """After how many labels river's ADWIN (Bifet and Gavaldà 2007) sees a rise, warmed by the reference."""
    from river import drift

    detector = drift.ADWIN(delta=delta)
    for loss in known.tolist():
        detector.update(loss)
    for number, loss in enumerate(after.tolist(), 1):
        mean = detector.estimation
        detector.update(loss)
        if detector.drift_detected and detector.estimation > mean:
            return number
    return None


Method = Literal["change", "harm", "harm_a"]


class BoundedHarm(HarmMonitor, frozen=True):
    """Method A: B with one cell, an upper confidence bound of the reference's mean, and no bets against a mean.

    Its `alpha` is half of what it may spend; the bound spends the other half.
    """

    shares: ClassVar[Floats] = np.eye(len(TRUST))[0][:, None]

    @property
    def once_in(self) -> float:
        """The bound may be wrong."""
        return max(1 / (1 / self.peak + self.alpha), 1.0)


def start_method(
    method: Method,
    loss: str,
    reference: Floats,
    windows: npt.NDArray[np.int64],
    units: Units,
    *,
    alpha: float,
    seed: int,
    tolerance: float = 0.0,
) -> Monitor:
    """As `start_monitor`, with method A too."""
    if method != "harm_a":
        return start_monitor(method, loss, reference, windows, units, alpha=alpha, seed=seed, tolerance=tolerance)
    made: dict[str, Any] = msgspec.structs.asdict(start_harm_monitor(reference, alpha=alpha / 2, tolerance=tolerance))
    cells: Mapping[str, Any] = {
        "edges": (0.0, upper_bound(loss, reference, alpha / 2)),
        "harm": tuple(row[:1] for row in made["harm"]),
    }
    return BoundedHarm(**{**made, **cells})


def upper_bound(loss: str, losses: Floats, alpha: float) -> float:
    """An upper confidence bound of the mean: exact for errors (Clopper and Pearson 1934), else by betting.

    The second is the largest mean that bets against it have not made 1/alpha of (Waudby-Smith and Ramdas 2024,
    section 4).
    """
    if loss == "error":
        errors = int(losses.sum())
        return float(special.betaincinv(errors + 1, len(losses) - errors, 1 - alpha)) if errors < len(losses) else 1.0
    growth = np.log1p(np.outer(BOUND_SIZES, 1 - losses)).sum(axis=1)

    def wealth(mean: float) -> float:
        made = growth - len(losses) * np.log1p(BOUND_SIZES * (1 - mean))
        return float(special.logsumexp(made) - math.log(len(made) / alpha))

    return float(optimize.brentq(wealth, float(losses.mean()), 1.0)) if wealth(1.0) > 0 else 1.0
