"""A frame as it is played: features, outcome, time and delay, and when each outcome was known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from feedback_loop.monitoring import Floats

if TYPE_CHECKING:
    import pandas as pd

Times = npt.NDArray[np.datetime64]
Places = npt.NDArray[np.int64]

TIME, DELAY, OUTCOME, TRUTH = "time", "delay", "outcome", "truth"
"""The columns of a frame that are no features.

`time`: when the row is predicted (UTC). `delay`: how long after that its outcome is known, missing where it never is.
`outcome`: as it is reported. `truth` (default: the outcome): what answers are judged by; missing: not judged.
"""

DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Settings:
    """How a frame is played. Rows from before `begin` train the first version; all later ones are predicted."""

    task: Literal["binary", "multiclass", "regression"]
    begin: datetime
    maturity: timedelta = timedelta(days=1)
    recent: timedelta = timedelta(days=30)
    refresh: timedelta = timedelta(days=28)  # the loop's, without an alarm
    reference: int = 1000  # labelled rows that the loop's monitors know the past by
    min_rows: int = 250  # the loop learns from no fewer
    seed: int = 0


@dataclass(frozen=True)
class Rows:
    """The rows of a frame in the order of time, as arrays of one length."""

    settings: Settings
    features: pd.DataFrame
    outcome: pd.Series
    truth: pd.Series
    time: Times
    known: Times  # NaT: never
    classes: tuple[Any, ...]  # none for regression

    @cached_property
    def looks(self) -> Times:
        """The moments at which anything may be done: that of each day's first prediction."""
        played = self.time[self.played]
        _, first = np.unique(played.astype("datetime64[D]"), return_index=True)
        return played[first]

    @cached_property
    def played(self) -> npt.NDArray[np.bool_]:
        """The rows that are predicted."""
        return np.asarray(self.time >= np.datetime64(self.settings.begin.astimezone(UTC).replace(tzinfo=None)))

    @cached_property
    def judged(self) -> Places:
        """The places of the predicted rows whose truth is known."""
        return np.flatnonzero(self.played & self.truth.notna().to_numpy())

    @cached_property
    def true_places(self) -> Places:
        """For each judged row, the place of its true class."""
        place = {label: number for number, label in enumerate(self.classes)}
        return np.array([place[label] for label in self.truth.iloc[self.judged]], dtype=np.int64)

    def before(self, moment: np.datetime64, reach: timedelta | None = None) -> Places:
        """The rows whose outcome is known at a moment, of the time that is looked back (None: all)."""
        inside = (self.known <= moment) & (self.time < moment)
        if reach is not None:
            inside &= self.time >= moment - np.timedelta64(reach)
        return np.flatnonzero(inside)

    @cached_property
    def earlier(self) -> Places:
        """The labelled rows from before the first look: what the first version learns from."""
        return np.flatnonzero(~np.isnat(self.known) & (self.time < self.looks[0]))

    def of_looks(self, first: int, end: int) -> Places:
        """The rows that are predicted from one look up to another."""
        start = self.looks[first]
        inside = self.time >= start
        if end < len(self.looks):
            inside &= self.time < self.looks[end]
        return np.flatnonzero(inside)

    def answers_of(self, estimator: Any, places: Places) -> Floats:
        """What an estimator answers for some rows: numbers, or a column of probabilities for each class."""
        inputs = self.features.iloc[places]
        if self.settings.task == "regression":
            return np.asarray(estimator.predict(inputs), dtype=np.float64)
        answers = np.zeros((len(places), len(self.classes)))
        columns = [self.classes.index(label) for label in estimator.classes_.tolist()]
        answers[:, columns] = estimator.predict_proba(inputs)
        return answers

    def no_answers(self) -> Floats:
        """Room for the answers to all rows."""
        shape = (len(self.time),) if self.settings.task == "regression" else (len(self.time), len(self.classes))
        return np.full(shape, np.nan)


def features_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that a model takes."""
    return frame.drop(columns=[TIME, DELAY, OUTCOME, TRUTH], errors="ignore")


def rows_of(frame: pd.DataFrame, settings: Settings) -> Rows:
    """Prepares a frame with the columns `time`, `delay`, `outcome` (`truth`); all others are features."""
    import pandas as pd

    frame = frame.sort_values(TIME, kind="stable", ignore_index=True)
    time = pd.to_datetime(frame[TIME], utc=True).dt.tz_localize(None)
    known = (time + frame[DELAY]).where(frame[OUTCOME].notna())
    features = features_of(frame)
    outcome = frame[OUTCOME].astype(object)
    truth = frame[TRUTH].astype(object) if TRUTH in frame else outcome
    classes = tuple(sorted(truth.dropna().unique())) if settings.task != "regression" else ()
    moments: list[Times] = [column.to_numpy(dtype="datetime64[us]") for column in (time, known)]
    return Rows(settings, features, outcome, truth, moments[0], moments[1], classes)
