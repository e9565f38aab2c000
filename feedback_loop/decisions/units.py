"""Method D on t-units: has the mean loss of whole windows grown? For streams whose days differ from each other.

Null: the windows' mean losses are independent draws of one normal distribution. Then the next one, measured by the
mean and the spread of those before it, is Student's t, and its score standard normal. Days that are all bad in their
own way (weather, holidays) are what such a window's spread is made of; label by label they would look like change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from feedback_loop.decisions.mixture import BOLDNESS, HORIZON, NormalBets, normal_score
from feedback_loop.monitoring import Floats


@dataclass(frozen=True)
class Units:
    """In what a monitor counts: label by label, exchangeable within each stratum, or in t-units of whole windows.

    A window's stratum is its place in the cycle: its number (counted from 1970) modulo `strata`. A t-unit is so many
    `windows` (a whole cycle, where there is one), put together further until it has LEAST_LABELS labels.
    """

    kind: Literal["label", "unit"] = "label"
    strata: int = 1
    windows: int = 1


LABELS = 1000
"""What a unit counts for: the six bets are those of a unit of so many labels, the cash moves at that pace."""

LEAST_LABELS = 50
"""Windows are put together until a unit has so many labels: the mean of fewer would have another spread."""

LEAST_UNITS = 4
"""Fewer units of the reference tell nothing about how units differ."""


@dataclass(frozen=True)
class UnitMonitor:
    """The state after some units; `update` takes one window's losses. A few hundred bytes as JSON."""

    alpha: float
    units: int  # so far, reference included
    mean: float  # of their means
    squares: float  # sum of squared distances from it
    bets: NormalBets
    taken: int = 0  # units of the stream
    labels: int = 0  # of the stream
    waiting_labels: int = 0  # of a unit that is too small yet
    waiting_sum: float = 0.0
    alarmed_at: int | None = None  # after how many labels of the stream
    kind: str = "unit"

    null = "mean losses of whole windows are independent and of one normal distribution"

    @property
    def once_in(self) -> float:
        """A model that had not changed would ever show so much only once in so many times."""
        return self.bets.peak

    def update(self, losses: Floats, place: int = 0, *, ends: bool = True) -> UnitMonitor:
        """Takes the losses of the next window in."""
        labels, total = self.waiting_labels + len(losses), self.waiting_sum + float(losses.sum())
        seen = self.labels + len(losses)
        if labels < LEAST_LABELS or not ends:
            return replace(self, labels=seen, waiting_labels=labels, waiting_sum=total)
        return self._fold(total / labels, seen)

    def _fold(self, mean: float, labels: int) -> UnitMonitor:
        spread = np.sqrt(max(self.squares / (self.units - 1), 1e-24) * (1 + 1 / self.units))
        p = float(stats.t.sf((mean - self.mean) / spread, self.units - 1))
        share = 1 / (HORIZON / LABELS + self.taken + 1)
        bets = self.bets.after(normal_score(p), BOLDNESS * np.sqrt(LABELS), share, 1 / self.alpha)
        gap = mean - self.mean
        done = replace(
            self,
            units=self.units + 1,
            mean=self.mean + gap / (self.units + 1),
            squares=self.squares + gap**2 * self.units / (self.units + 1),
            bets=bets,
            taken=self.taken + 1,
            labels=labels,
            waiting_labels=0,
            waiting_sum=0.0,
        )
        if self.alarmed_at is None and bets.boosted.total >= 1 / self.alpha:
            return replace(done, alarmed_at=done.labels)
        return done


def start_unit_monitor(reference: Floats, windows: npt.NDArray[np.int64], *, alpha: float) -> UnitMonitor:
    """A monitor from reference losses in the order of time and the number of the window that each is of."""
    means = np.array([part.mean() for part in split_units(reference, windows)])
    return UnitMonitor(
        alpha=alpha,
        units=len(means),
        mean=float(means.mean()),
        squares=float(((means - means.mean()) ** 2).sum()),
        bets=NormalBets.begin(),
    )


def split_units(losses: Floats, windows: npt.NDArray[np.int64]) -> list[Floats]:
    """Losses (in the order of time) cut into units: whole windows, put together while they are too small."""
    ends = [*np.flatnonzero(np.diff(windows)) + 1, len(losses)]
    starts, start = [0], 0
    for end in ends:
        if end - start >= LEAST_LABELS:
            starts.append(int(end))
            start = end
    return [losses[first:last] for first, last in pairwise(starts)]


def differ(losses: Floats, windows: npt.NDArray[np.int64]) -> bool:
    """Whether windows of the reference differ by more than chance (one-way analysis of variance at 1%).

    If they do, labels of one window are not exchangeable with another's, and a monitor that goes label by label
    would take the next bad day for a change.
    """
    units = split_units(losses, windows)
    if len(units) < LEAST_UNITS or float(np.ptp(losses)) == 0:
        return False
    return bool(stats.f_oneway(*units).pvalue < 0.01)
