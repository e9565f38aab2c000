"""Sections of the configuration that say what is judged and how, and what all sections are made of."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from feedback_loop.clock import format_duration, parse_duration
from feedback_loop.errors import FeedbackLoopError

NEVER = "never"
"""What the file says where a duration has no end."""


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except FeedbackLoopError as error:
        raise ValueError(str(error)) from error


def _optional_duration(value: object) -> object:
    return None if value == NEVER else _duration(value)


def _written(value: timedelta | None) -> str:
    """A duration as the file has it, which it is read back from."""
    return NEVER if value is None else format_duration(value)


_AS_WRITTEN = PlainSerializer(_written, when_used="json")

Duration = Annotated[timedelta, BeforeValidator(_duration), Field(gt=timedelta()), _AS_WRITTEN]
OptionalDuration = Annotated[timedelta | None, BeforeValidator(_optional_duration), _AS_WRITTEN]


def setting(default: Any, description: str, **rules: Any) -> Any:
    """A setting: its default, and what the file that `init` writes and the documentation say of it."""
    return Field(default, description=description, **rules)


class Section(BaseModel):
    """A table of the file: a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Loss = Literal["auto", "error", "brier", "absolute_error", "squared_error", "log_loss"]
Rule = Literal["change", "harm", "either", "threshold", "absolute"]


class WatchSettings(Section):
    """One more loss that is watched, of all rows or of a segment, for its share of alpha."""

    loss: Loss = setting("auto", "what is watched; `auto`: what fits the task")
    segment: str = setting("", "of all rows, or of a segment", pattern=r"^(\w+=.+)?$", examples=["origin=JFK"])
    weight: float = setting(1.0, "its share of alpha; the loss of all rows has 1", gt=0)


class PolicySettings(Section):
    """What counts as worse, and what may follow from it.

    `rule` says what may act: `change` (method D), `harm` (B: worse by more than `tolerance`), `either` of both, or a
    threshold without an error rate. `loss` of all rows is watched with weight 1, and what `watch` adds with its own.
    """

    loss: Loss = setting("auto", "what is watched; `auto`: what fits the task")
    watch: tuple[WatchSettings, ...] = setting(
        (), "more losses, of all rows or a segment, each with a share of alpha by its `weight`"
    )
    alpha: float = setting(0.05, "the probability of any false retraining, for ever", gt=0, lt=1)
    rule: Rule = setting("change", "what may act: `change`, `harm`, `either`, or a threshold without an error rate")
    tolerance: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = setting(
        "auto", "of `harm`: how much worse may be, of mean loss; `feedback-loop policy suggest` proposes one"
    )
    unit: Literal["auto", "label", "window"] = setting("auto", "what counts as one observation")
    cycle: Annotated[int, Field(ge=1)] | Literal["auto"] = setting("auto", "in windows: 7 is a week of days")
    threshold: float = setting(0.10, "of the rule `threshold`", gt=0)
    reference: int = setting(5000, "labelled rows that the past is known by", ge=1000)
    seed: int = setting(0, "of what is drawn")
    mode: Literal["observe", "propose", "act"] = setting(
        "act", "`observe`: judge; `propose`: also alert; `act`: also retrain and promote"
    )
    cooldown: Duration = setting(timedelta(days=14), "between retrainings, at least")
    refresh: OptionalDuration = setting(timedelta(days=28), "retrain this often without an alarm; `never`")
    budget: Annotated[int, Field(ge=0)] | None = setting(
        None, "retrainings by alarm or schedule within 90 days; left out: no limit", examples=[4]
    )
    allow_blind_retraining: bool = setting(
        False, "also where only drift or estimates speak, which no outcome bears out"
    )


def _windows(value: object) -> object:
    """`2`, `"1 window"`, `"2 windows"`."""
    if not isinstance(value, str):
        return value
    number, _, unit = value.partition(" ")
    if not number.isdecimal() or unit not in ("window", "windows"):
        raise ValueError(f'{value!r} is no number of windows: write "2 windows"')
    return int(number)


class ConditionSettings(Section):
    """A line of the user's own: an alert where a metric lies beyond it for so many windows.

    Of all rows, a declared `segment` (`origin=JFK`), or a `column` (its drift, or a check of data quality).
    """

    metric: Annotated[
        str,
        Field(
            description="a metric, `coverage`, `drifted_share`, `estimated_…`; of a column `drift`, or a check",
            min_length=1,
            examples=["recall"],
        ),
    ]
    column: str = setting("", "of this column")
    segment: str = setting("", "of a declared segment: `origin=JFK`", examples=["origin=JFK"])
    below: float | None = setting(None, "a value under it is beyond the line", examples=[0.7])
    above: float | None = setting(None, "a value over it is; one of the two is set")
    windows: Annotated[int, BeforeValidator(_windows), Field(ge=1, le=1000, alias="for")] = setting(
        1, "so many windows in a row lie beyond it", examples=["2 windows"]
    )

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

    recent: Duration = setting(timedelta(days=30), "rows that count as recent")
    history: str = setting("", "labelled rows from before the log: a Parquet file")
    holdout: float = setting(0.2, "share that candidates are compared on", gt=0, lt=1)
    min_rows: int = setting(1000, "fewer: no retraining", ge=20)
    margin: float = setting(0.05, "what a candidate may lose, of the champion's loss", ge=0)
    alpha: float = setting(0.05, "the chance that a worse candidate passes", gt=0, lt=0.5)
    refit: bool = setting(True, "fit the chosen one on all rows at last")


class DriftSettings(Section):
    """What counts as drift for alerts: of all columns ever told, a share of `alpha` is told in error.

    `auto` takes `windows` where the reference has five or more of them, else `rows`; `thresholds` are Evidently's,
    which control no error. `multivariate` reads rows of each window to look at its features together.
    """

    rule: Literal["auto", "windows", "rows", "thresholds"] = setting(
        "auto", "`auto`, `windows`, `rows` or `thresholds`"
    )
    multivariate: bool = setting(False, "look at all features together too")
    alpha: float = setting(0.05, "of all columns ever told, the share told in error", gt=0, lt=1)
