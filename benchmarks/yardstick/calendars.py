"""Calendars: the model is fitted again whenever it is due, whatever happened, and the newest fit answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np

from benchmarks.yardstick.rows import Places, Rows, Times
from feedback_loop.monitoring import Floats


@dataclass(frozen=True)
class Answers:
    """What one way of keeping the model answered (for all rows; NaN where they were not predicted), and its cost.

    `cpu_seconds` are those of the fits; of the product's searches (`cpu_of`) they have also the rows' reading, gates,
    proof in a fresh process, MLflow and promotion. `all_cpu_seconds` (where known) are those of all that was done.
    """

    name: str
    values: Floats
    fits: int
    promotions: int
    cpu_seconds: float
    all_cpu_seconds: float | None = None
    moves: tuple[int, ...] = ()  # the looks at which another version began to answer
    cpu_of: str = "fits"
    holds: int | None = None  # how often an adapter was stopped


Due = Callable[[Times], Places]
"""Of the days of all looks, which number each has: when it changes, a fit is due."""


def every(days: int) -> Due:
    """Counted from the first look."""
    return lambda looks: (looks - looks[0]).astype(np.int64) // days


def by_month(looks: Times) -> Places:
    """On the first look of each calendar month."""
    return looks.astype("datetime64[M]").astype(np.int64)


CADENCES: dict[str, Due] = {"monthly": by_month, "every 28 days": every(28), "weekly": every(7)}

EVERY_LOOK = "every look"

ALL = "all"

WINDOWS: dict[str, int | None] = {"recent": 1, "3x recent": 3, ALL: None}
"""How far back a fit looks: so many times `Settings.recent`, or without an end."""


@dataclass(frozen=True)
class Fits:
    """Fits of one model at moments of one stream; each is made once, whoever asks for it."""

    rows: Rows
    model: Any
    made: dict[tuple[np.datetime64, timedelta | None], tuple[Any, float]] = field(default_factory=dict)

    def at(self, moment: np.datetime64, reach: timedelta | None) -> tuple[Any, float]:
        """The model fitted to what is known at a moment (None where that is too little), and its CPU seconds."""
        if (moment, reach) not in self.made:
            began = time.process_time()
            is_first = moment == self.rows.looks[0]
            fitted = self.fitted(self.rows.earlier if is_first else self.rows.before(moment, reach))
            self.made[moment, reach] = fitted, time.process_time() - began
        return self.made[moment, reach]

    def first(self) -> Any:
        """The first version: fitted to all labelled rows from before the stream."""
        return self.at(self.rows.looks[0], None)[0]

    def fitted(self, places: Places) -> Any:
        """The model fitted to these rows; None where there are none, or of one class only."""
        from sklearn.base import clone

        outcome = self.rows.outcome.iloc[places].infer_objects()
        if not len(places) or (self.rows.classes and outcome.nunique() < 2):
            return None
        return clone(self.model).fit(self.rows.features.iloc[places], outcome.to_numpy())


def frozen(fits: Fits) -> Answers:
    """The first version answers for ever."""
    rows, values = fits.rows, fits.rows.no_answers()
    places = rows.of_looks(0, len(rows.looks))
    values[places] = rows.answers_of(fits.first(), places)
    return Answers("frozen", values, 0, 0, 0.0)


def calendar(fits: Fits, cadence: str, window: str) -> Answers:
    """A fit whenever it is due, on the rows of a window; until it can be made, the one before answers."""
    rows, spans = fits.rows, WINDOWS[window]
    reach = None if spans is None else spans * rows.settings.recent
    due = CADENCES[cadence] if cadence in CADENCES else every(1)
    turns = due(rows.looks.astype("datetime64[D]"))
    starts = np.flatnonzero(np.diff(turns, prepend=turns[0] - 1))
    values, current, moves, seconds = rows.no_answers(), fits.first(), list[int](), 0.0
    for start, end in zip(starts, [*starts[1:], len(rows.looks)], strict=True):
        if start:
            fitted, cost = fits.at(rows.looks[start], reach)
            seconds += cost
            if fitted is not None:
                current = fitted
                moves.append(int(start))
        places = rows.of_looks(int(start), int(end))
        values[places] = rows.answers_of(current, places)
    return Answers(f"{cadence}, {window}", values, len(moves), len(moves), seconds, moves=tuple(moves))
