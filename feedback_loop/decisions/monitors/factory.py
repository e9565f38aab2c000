"""Which monitor watches which loss, and how whole windows are taken in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import numpy as np
import numpy.typing as npt

from feedback_loop.decisions.monitors.betting import BOLDNESS, HORIZON, SHARES
from feedback_loop.decisions.monitors.error_rate import ErrorMonitor, start_error_monitor
from feedback_loop.decisions.monitors.harm import HarmMonitor, start_harm_monitor
from feedback_loop.decisions.monitors.numeric_loss import RankMonitor, start_rank_monitor
from feedback_loop.decisions.monitors.rules import WindowRule
from feedback_loop.decisions.monitors.window_means import POWER, UnitMonitor, Units, start_unit_monitor
from feedback_loop.monitoring import Floats

Monitor = ErrorMonitor | RankMonitor | UnitMonitor | HarmMonitor

Method = Literal["change", "harm"]
"""Method D asks whether losses have grown at all, B whether by more than a tolerance."""

MADE_OF = f"{BOLDNESS.tolist()} {SHARES} {HORIZON} {POWER}"
"""Who keeps a state keeps this beside it: one that was made by other bets is not gone on with, it begins anew."""

LEAST_REFERENCE = 1000
"""With fewer reference labels the guarantee has not been measured."""


def start_monitor(
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
    """A fresh monitor from reference losses in [0, 1], in the order of time, each with its window's number."""
    if method == "harm":
        return start_harm_monitor(reference, alpha=alpha, tolerance=tolerance)
    if units.kind == "unit":
        return start_unit_monitor(reference, windows, units.windows, alpha=alpha)
    start = start_error_monitor if loss == "error" else start_rank_monitor
    return start(reference, windows, units.strata, alpha=alpha, seed=seed)


def alpha_of_monitor(alpha: float, ordinal: int) -> float:
    """What the `ordinal`-th monitor of a model (from 1) may spend: the sum over all there will ever be is `alpha`."""
    return alpha / (ordinal * (ordinal + 1))


def follow_windows(
    monitor: Monitor | WindowRule, places: Sequence[int], losses: Sequence[Floats]
) -> Monitor | WindowRule:
    """The monitor after whole windows (at least one, oldest first), each with its number and its losses.

    Windows that are the same to it are taken in together: nothing but time depends on that.
    """
    strata = [monitor.stratum(place) for place in places]
    for _, same in groupby(range(len(places)), lambda number: strata[number]):
        told = list(same)
        monitor = monitor.update(np.concatenate([losses[number] for number in told]), places[told[-1]])
    return monitor
