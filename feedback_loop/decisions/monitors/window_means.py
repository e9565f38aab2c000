"""Method D on t-units: has the mean loss of whole windows grown? For streams whose days differ from each other.

Null: the windows' mean losses, to the power of POWER, are independent draws of one normal distribution. Then the next
one, measured by the mean and the spread of those before it, is Student's t, and its score standard normal. Days that
differ (weather, holidays) are part of the spread of windows; label by label they would look like a change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from feedback_loop.decisions.monitors.betting import (
    BOLDNESS,
    GRAIN,
    HORIZON,
    NormalBets,
    Numbers,
    grains,
    normal_score,
)
from feedback_loop.monitoring import Floats


@dataclass(frozen=True)
class Units:
    """The units of a monitor: labels, exchangeable within each stratum, or t-units of whole windows.

    A window's stratum is its place in the cycle: its number (counted from 1970) modulo `strata`. A t-unit is so many
    `windows` (a whole cycle, where there is one), and more until it has LEAST_LABELS labels, and so many that
    LEAST_LOSS is expected of them.
    """

    kind: Literal["label", "unit"] = "label"
    strata: int = 1
    windows: int = 1


LABELS = 1000
"""The bets and the pace of the cash are those of a unit of so many labels."""

POWER = 2 / 3
"""Means of rare errors are skewed: without a power, t-units of 200 labels at a rate of 2% alarm on 13% of streams.

To this power a count of rare events is hardly skewed (Anscombe 1953; McCullagh and Nelder 1989, section 2.4.2).
"""

LEAST_LABELS = 50
"""A unit with fewer labels is merged with the next: its mean would have another spread."""

LEAST_LOSS = 2.0
"""A unit with a smaller expected loss, by the reference's mean, is merged too: most such units would have none."""

LEAST_MEAN = 1e-4
"""The least reference mean that is assumed, so that units end."""

LEAST_UNITS = 4
"""Fewer units of the reference do not show how units differ."""

NO_SPREAD = 1e-12
"""The least variance of units that is assumed: a standard deviation of a millionth."""


class UnitMonitor(Struct, frozen=True, tag_field="kind", tag="unit"):
    """The state after some units; `update` takes a window's losses. A few hundred bytes as JSON."""

    alpha: float
    windows: int  # of a unit
    units: int  # so far, reference included
    mean: float  # of their mean losses to the power of POWER
    squares: float  # sum of squared distances from it
    bets: NormalBets
    least: int = LEAST_LABELS  # labels of a unit: with fewer it is merged with the next
    taken: int = 0  # units of the stream
    labels: int = 0  # of the stream
    waiting_labels: int = 0  # of a unit that is not full yet
    waiting_grains: int = 0  # their losses, in billionths
    waiting_since: int = 0  # its first window
    waiting_until: int = 0  # its newest window
    alarmed_at: int | None = None  # after how many labels of the stream

    @property
    def null(self) -> str:
        """The null hypothesis, in words."""
        what = f"each {self.windows} windows" if self.windows > 1 else "whole windows"
        return f"mean losses of {what}, to the power of 2/3, are independent and of one normal distribution"

    @property
    def e_value(self) -> float:
        """The wealth now. Under the null it is expected to be at most 1."""
        return self.bets.plain.total

    @property
    def once_in(self) -> float:
        """The peak of the wealth: an unchanged model ever reaches y with probability at most 1/y."""
        return self.bets.peak

    def stratum(self, place: int) -> int:
        """Each window is a stratum of its own: windows update the monitor one by one."""
        return place

    def update(self, losses: Floats, place: int = 0, *, ends: bool = True) -> UnitMonitor:
        """The monitor after more losses of the window `place`; windows left out count as windows without labels."""
        state = self.due(place)
        if len(losses):
            state = replace(
                state,
                labels=state.labels + len(losses),
                waiting_labels=state.waiting_labels + len(losses),
                waiting_grains=state.waiting_grains + int(grains(losses).sum()),
                waiting_since=state.waiting_since if state.waiting_labels else place,
                waiting_until=place,
            )
        return state.due(place + 1) if ends else state

    def due(self, place: int) -> UnitMonitor:
        """The monitor after the waiting unit, if that unit is complete before this place."""
        is_full = is_over(self.waiting_since, self.waiting_until, place, self.windows)
        return self._fold() if is_full and self.waiting_labels >= self.least else self

    def _fold(self) -> UnitMonitor:
        from scipy import special

        mean = float((self.waiting_grains / (self.waiting_labels * GRAIN)) ** POWER)
        bets = self.bets
        if self.units > 1:  # else there is no spread yet
            variance = max(self.squares / (self.units - 1), NO_SPREAD) * (1 + 1 / self.units)
            p = float(special.stdtr(self.units - 1, (self.mean - mean) / math.sqrt(variance)))
            share = 1 / (HORIZON / LABELS + self.taken + 1)
            bets = bets.after(normal_score(p), (BOLDNESS * math.sqrt(LABELS)).tolist(), share, 1 / self.alpha)
        gap = mean - self.mean
        crossed = bets.boosted.total >= 1 / self.alpha
        return replace(
            self,
            units=self.units + 1,
            mean=self.mean + gap / (self.units + 1),
            squares=self.squares + gap**2 * self.units / (self.units + 1),
            bets=bets,
            taken=self.taken + 1,
            waiting_labels=0,
            waiting_grains=0,
            alarmed_at=self.labels if self.alarmed_at is None and crossed else self.alarmed_at,
        )


def start_unit_monitor(reference: Floats, places: Numbers, windows: int = 1, *, alpha: float) -> UnitMonitor:
    """A monitor from reference losses in the order of time and the number of the window that each is of.

    With fewer than two units in the reference, the spread is learned from the stream's own first units.
    """
    expected = float(reference.mean()) if len(reference) else 1.0
    least = max(LEAST_LABELS, math.ceil(LEAST_LOSS / max(expected, LEAST_MEAN)))
    units = split_units(reference, places, windows, least)
    means = np.array([int(grains(unit).sum()) / (len(unit) * GRAIN) for unit in units]) ** POWER
    mean = float(means.mean()) if len(means) else 0.0
    squares = float(((means - mean) ** 2).sum())
    return UnitMonitor(
        alpha=alpha,
        windows=windows,
        units=len(means),
        mean=mean,
        squares=squares,
        bets=NormalBets.begin(),
        least=least,
    )


def is_over(since: int, until: int, place: int, windows: int) -> bool:
    """Whether a unit that began with window `since` and has labels to `until` is over before window `place`.

    It may end with each of its cycles of so many windows that ends after `until`.
    """
    return (place - since) // windows > (until - since) // windows


def split_units(losses: Floats, places: Numbers, windows: int = 1, least: int = LEAST_LABELS) -> list[Floats]:
    """Losses (in the order of time) cut into units of so many whole windows, more where they have too few labels."""
    starts = [0]
    ends = [*(np.flatnonzero(np.diff(places)) + 1).tolist(), len(losses)] if len(losses) else []
    for end in ends:
        start, after = starts[-1], int(places[end]) if end < len(losses) else int(places[-1]) + 1
        if end - start >= least and is_over(int(places[start]), int(places[end - 1]), after, windows):
            starts.append(end)
    return [losses[first:last] for first, last in pairwise(starts)]
