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
        "act", "`observe`: judge; `propose`: also retrain, and ask before a promotion; `act`: promote, too"
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


class ThresholdSettings(Section):
    """What a candidate's metric on held-out rows must reach: MLflow's `MetricThreshold`."""

    greater_is_better: Annotated[bool, Field(description="of this metric")]
    threshold: float | None = setting(None, "what it must reach")
    min_absolute_change: float | None = setting(None, "by how much it must be better than the champion's")
    min_relative_change: float | None = setting(None, "by which share it must be better than the champion's")

    @property
    def arguments(self) -> dict[str, Any]:
        """What MLflow is given."""
        return self.model_dump()


class ParameterSettings(Section):
    """The values of a parameter: from `low` to `high` (whole numbers, if both are), or one of `choices`."""

    low: int | float | None = setting(None, "the least value")
    high: int | float | None = setting(None, "the greatest value")
    log: bool = setting(False, "taken evenly on a logarithmic scale")
    choices: tuple[bool | int | float | str, ...] = setting((), "instead of a range")

    @model_validator(mode="after")
    def _has_values(self) -> ParameterSettings:
        if (self.low is None) != (self.high is None) or (self.low is None) == (not self.choices):
            raise ValueError("a parameter has a range (low and high) or choices")
        if self.low is not None and self.high is not None and (self.low > self.high or (self.log and self.low <= 0)):
            raise ValueError("low is at most high, and above zero on a logarithmic scale")
        return self


class SearchSpaceSettings(Section):
    """What Optuna varies beside the fixed trials (`feedback-loop[search]`)."""

    kinds: tuple[Literal["own", "boosting", "linear", "trees"], ...] = setting(
        ("own", "boosting", "linear", "trees"), "which kinds of pipelines", min_length=1
    )
    trials: int = setting(20, "of each kind", ge=1)
    feature_selection: bool = setting(False, "vary which features are used, too (not by `own`)")
    parameters: dict[str, dict[str, ParameterSettings]] = Field(
        default_factory=dict,
        description="by kind and name: `boosting = { learning_rate = { low = 0.01, high = 0.3, log = true } }`",
    )

    @model_validator(mode="after")
    def _knows_its_kinds(self) -> SearchSpaceSettings:
        if others := sorted(set(self.parameters) - set(self.kinds)):
            raise ValueError(f"parameters of {others[0]!r}, which is none of the kinds {', '.join(self.kinds)}")
        return self


class TrainerSettings(Section):
    """A trainer of your own, in place of the trials: a function, an MLflow project or a command.

    `"package.module:train"` alone is a function, and a list of words alone a command.
    """

    function: str = setting(
        "", "`train(dataset, params)`, which returns a fitted estimator", pattern=r"^([\w.]+:\w+)?$"
    )
    project: str = setting("", "an MLflow project: its folder or URI", examples=["trainers/churn"])
    entry_point: str = setting("main", "of the project")
    environment: Literal["local", "virtualenv", "uv", "conda"] = setting(
        "local", "of the project, as MLflow makes it; `local`: this one"
    )
    command: tuple[str, ...] = setting((), "a program and its arguments", examples=[["python", "train.py"]])
    params: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="what it is told beside: `{ depth = 4 }`"
    )
    memory_limit: Annotated[int, Field(ge=1)] | None = setting(
        None, "bytes of memory that its processes may take; left out: any", examples=[4_000_000_000]
    )

    @model_validator(mode="after")
    def _is_one(self) -> TrainerSettings:
        if sum(map(bool, (self.function, self.project, self.command))) != 1:
            raise ValueError("a trainer is one of function, project and command")
        return self


def _trainer(value: object) -> object:
    """A function's path or a command's words alone stand for a trainer."""
    if isinstance(value, str):
        return {"function": value}
    return {"command": value} if isinstance(value, list | tuple) else value


class RetrainingSettings(Section):
    """Which rows a candidate learns from, and what it must not lose against the champion."""

    recent: Duration = setting(timedelta(days=30), "rows that count as recent")
    history: str = setting("", "labelled rows from before the log: a Parquet file")
    holdout: float = setting(0.2, "share that candidates are compared on", gt=0, lt=1)
    min_rows: int = setting(1000, "fewer: no retraining", ge=20)
    margin: float = setting(0.05, "what a candidate may lose, of the champion's loss", ge=0)
    alpha: float = setting(0.05, "the chance that a worse candidate passes", gt=0, lt=0.5)
    refit: bool = setting(True, "fit the chosen one on all rows at last")
    leak: float = setting(
        0.95, "share of the outcome that a feature alone must not explain; `1`: not looked at", gt=0, le=1
    )
    max_latency: OptionalDuration = setting(None, "that a row may take a candidate, as it is served; `never`: any")
    max_bytes: int | None = setting(None, "that a candidate may have; left out: any", examples=[50_000_000], ge=1)
    gates: tuple[str, ...] = setting(
        (), "gates of your own: `package.module:function`, or entry points of `feedback_loop.gates`"
    )
    thresholds: dict[str, ThresholdSettings] = Field(
        default_factory=dict,
        description="by metric, what it must reach: `f1 = { threshold = 0.7, greater_is_better = true }`",
    )
    search: Literal["kinds", "own"] = setting(
        "kinds", "`kinds`: the champion's pipeline and three others; `own`: the champion's only"
    )
    search_space: SearchSpaceSettings | None = setting(None, "a table of its own; left out: the fixed trials alone")
    max_rows: int = setting(
        500_000, "of more rows the newest half of so many, and a weighted sample of the older ones", ge=1000
    )
    trainer: Annotated[TrainerSettings | None, BeforeValidator(_trainer)] = setting(
        None, "a trainer of your own in place of the trials: the next table", examples=["package.module:train"]
    )
    time_limit: Duration = setting(timedelta(hours=1), "what is not fitted by then has failed")
    jobs: Annotated[int, Field(ge=1)] | None = setting(
        None,
        "processes that fit side by side; left out: one for each core, if that is worth it",
        examples=[2],
    )

    @model_validator(mode="after")
    def _has_one_search(self) -> RetrainingSettings:
        if self.trainer is not None and self.search_space is not None:
            raise ValueError("a trainer of your own takes the place of a search_space: set one of them")
        return self


class ApprovalSettings(Section):
    """Who has to agree before a candidate is promoted, where `policy.mode` is `propose`."""

    expires: Duration = setting(timedelta(days=7), "a candidate that waits longer is judged again on newer rows")
    needed: Literal[1, 2] = setting(1, "so many different people have to approve")


class RolloutSettings(Section):
    """How a candidate that may be promoted takes over, and for how many matured windows it is watched afterwards."""

    mode: Literal["direct", "shadow", "canary"] = setting(
        "direct",
        "`direct`: at once; `shadow`: after live rows have judged it; `canary`: by growing shares of callers",
    )
    alpha: float = setting(
        0.05, "the chance to find an equal candidate worse, and that to find it better", gt=0, lt=0.5
    )
    windows: int = setting(14, "of a shadow at most, and of each step of a canary", ge=1, le=1000)
    steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = setting(
        (0.05, 0.25), "a canary's shares of callers, before all of them", min_length=1
    )
    probation: int = setting(
        14, "in which evidence that the new version is worse rolls back; `0`: none", ge=0, le=1000
    )


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
