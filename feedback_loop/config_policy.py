"""Sections of the configuration that say what is judged and how, and what all sections are made of."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from feedback_loop.clock import parse_duration
from feedback_loop.errors import FeedbackLoopError


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except FeedbackLoopError as error:
        raise ValueError(str(error)) from error


def _optional_duration(value: object) -> object:
    return None if value == "never" else _duration(value)


Duration = Annotated[timedelta, BeforeValidator(_duration), Field(gt=timedelta())]
OptionalDuration = Annotated[timedelta | None, BeforeValidator(_optional_duration)]


class Section(BaseModel):
    """A table of the file: a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Loss = Literal["auto", "error", "brier", "absolute_error", "squared_error", "log_loss"]
Rule = Literal["change", "harm", "either", "threshold", "absolute"]


class WatchSettings(Section):
    """One more loss that is watched, of all rows or of a declared segment (`origin=JFK`), for its share of alpha."""

    loss: Loss = "auto"
    segment: Annotated[str, Field(pattern=r"^(\w+=.+)?$")] = ""
    weight: Annotated[float, Field(gt=0)] = 1.0


class PolicySettings(Section):
    """What counts as worse, and what may follow from it.

    `rule` says what may act: `change` (method D), `harm` (B: worse by more than `tolerance`), `either` of both, or a
    threshold without an error rate. `loss` of all rows is watched with weight 1, and what `watch` adds with its own.
    """

    loss: Loss = "auto"
    watch: tuple[WatchSettings, ...] = ()
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    rule: Rule = "change"
    tolerance: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"  # of mean loss, which is in [0, 1]
    unit: Literal["auto", "label", "window"] = "auto"
    cycle: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"  # in windows: 7 is a week of days
    threshold: Annotated[float, Field(gt=0)] = 0.10
    reference: Annotated[int, Field(ge=1000)] = 5000
    seed: int = 0
    mode: Literal["observe", "propose", "act"] = "act"
    cooldown: Duration = timedelta(days=14)
    refresh: OptionalDuration = timedelta(days=28)
    budget: Annotated[int, Field(ge=0)] | None = None  # retrainings by alarm or schedule within 90 days
    allow_blind_retraining: bool = False  # also where only drift or estimates speak, which no outcome bears out


def _windows(value: object) -> object:
    """`2`, `"1 window"`, `"2 windows"`."""
    if not isinstance(value, str):
        return value
    number, _, unit = value.partition(" ")
    if not number.isdecimal() or unit not in ("window", "windows"):
        raise ValueError(f'{value!r} is no number of windows: write "2 windows"')
    return int(number)


class ConditionSettings(Section):
    """A user's own line: an alert where `metric` lies beyond it `for` so many windows in a row.

    Of all rows, a declared `segment` (`origin=JFK`), or a `column` (its drift, or a check of data quality).
    """

    metric: Annotated[str, Field(min_length=1)]
    column: str = ""
    segment: str = ""
    below: float | None = None
    above: float | None = None
    windows: Annotated[int, BeforeValidator(_windows), Field(ge=1, le=1000, alias="for")] = 1

    @model_validator(mode="after")
    def _has_one_line(self) -> ConditionSettings:
        if (self.below is None) == (self.above is None):
            raise ValueError("a condition has one line: below or above")
        if self.column and self.segment:
            raise ValueError("a condition is on a column or on a segment, not on both")
        return self

    def is_beyond(self, value: float) -> bool:
        """Whether a value lies beyond the line."""
        if self.below is not None:
            return value < self.below
        return self.above is not None and value > self.above

    @property
    def words(self) -> str:
        """What it says, in words: no two conditions of a model say the same."""
        subject = " of ".join(part for part in (self.metric, self.column or self.segment) if part)
        line = f"below {self.below:g}" if self.below is not None else f"above {self.above:g}"
        return f"{subject} {line}" + (f" for {self.windows} windows" if self.windows > 1 else "")


class RetrainingSettings(Section):
    """Which rows a candidate learns from, and what it must not lose against the champion."""

    recent: Duration = timedelta(days=30)
    history: str = ""  # labelled rows from before the log began: a Parquet file
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    min_rows: Annotated[int, Field(ge=20)] = 1000
    margin: Annotated[float, Field(ge=0)] = 0.05
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    refit: bool = True


class DriftSettings(Section):
    """What counts as drift for alerts: of all columns ever told, a share of `alpha` is told in error.

    `auto` takes `windows` where the reference has five or more of them, else `rows`; `thresholds` are Evidently's,
    which control no error. `multivariate` reads rows of each window to look at its features together.
    """

    rule: Literal["auto", "windows", "rows", "thresholds"] = "auto"
    multivariate: bool = False
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
