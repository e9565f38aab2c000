"""What a reference says of how it is to be watched."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from feedback_loop.decisions.units import Units, differ, split_units
from feedback_loop.monitoring import Floats


def suggest_units(losses: Floats, windows: npt.NDArray[np.int64]) -> Units:
    """In what to count."""
    return Units("unit" if differ(losses, windows) else "label")


def suggest_tolerance(losses: Floats, windows: npt.NDArray[np.int64]) -> float:
    """How far windows of the reference swing beyond chance."""
    means = np.array([part.mean() for part in split_units(losses, windows)])
    chance = losses.var() * len(means) / max(len(losses), 1)
    return float(np.sqrt(max(means.var() - chance, 0.0))) if len(means) > 1 else 0.0
