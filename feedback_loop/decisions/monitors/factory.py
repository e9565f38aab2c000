"""Which monitor watches which loss, and its update by whole windows."""

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
"""Stored with each state: a state that was made with other bets is dropped, and the monitor begins anew."""

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
    """The level of the `ordinal`-th monitor of a model (from 1): the levels of all monitors sum to `alpha`."""
    return alpha / (ordinal * (ordinal + 1))


def follow_windows(
    monitor: Monitor | WindowRule, places: Sequence[int], losses: Sequence[Floats]
) -> Monitor | WindowRule:
    """The monitor after whole windows (at least one, oldest first), each with its number and its losses.

    Consecutive windows of one stratum update it together, which saves time and changes no result.
    """
    strata = [monitor.stratum(place) for place in places]
    for _, group in groupby(range(len(places)), lambda number: strata[number]):
        numbers = list(group)
        monitor = monitor.update(np.concatenate([losses[number] for number in numbers]), places[numbers[-1]])
    return monitor
