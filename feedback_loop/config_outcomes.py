"""Sections of the configuration that say how outcomes come about: sources, join, exploration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from feedback_loop.config_policy import Duration, OptionalDuration, Section, setting


class SqlSourceSettings(Section):
    """A database that outcomes are polled from: `query` gives those with a `watermark` column above `:watermark`."""

    url: Annotated[str, Field(description="the database")]
    query: Annotated[str, Field(description="gives outcomes above `:watermark`")]
    watermark: Annotated[str, Field(description="its column that grows")]
    start: str | int = setting("1970-01-01T00:00:00", "before the first poll")
    overlap: Annotated[int, Field(strict=True, ge=0)] | Duration | None = setting(
        None, "how far each poll looks back; left out: `1h`, or 1000"
    )


class OutcomeSettings(Section):
    """Where the scheduler takes outcomes in from: a folder or object store, a SQL query; who can have one."""

    selection: Literal["all", "acted"] = setting(
        "all",
        "which predictions can have an outcome: `all`, or those that were `acted` on",
    )
    folder: str = setting("", "files are taken in from here: a folder or `s3://…`", examples=["outcomes"])
    sql: SqlSourceSettings | None = setting(
        None,
        "a database that is polled: the next table",
        examples=[
            {"url": "postgresql://…", "query": "SELECT … WHERE changed_at > :watermark", "watermark": "changed_at"}
        ],
    )


class JoinSettings(Section):
    """Which outcome belongs to which prediction, where it names the key."""

    horizon: OptionalDuration = setting(
        None, "an outcome later than this is of no prediction; `never`: none is too late"
    )
    which: Literal["all", "first", "last"] = setting("all", "of several predictions of a key: `all`, `first`, `last`")
    absent_means: bool | int | float | str | None = setting(
        None, "the label of a prediction that has none at maturity; left out: none", examples=[False]
    )


class ExplorationSettings(Section):
    """For a share of the keys the caller acts as if there were no model, so that their outcomes are seen too.

    `acts_on`, `acts_below` and `acts_above` say which answers lead to the action that lets the outcome be seen: the
    predicted labels, or the probability of the positive class (of a regression: the value) below or above a number.
    """

    share: float = setting(
        0.0, "of the keys; always the same ones, and with a larger share those and more", ge=0, lt=1
    )
    acts_on: tuple[bool | int | str, ...] = setting((), "the predicted labels that are acted on", examples=[["good"]])
    acts_below: float | None = setting(
        None, "acted on below this probability or value", examples=[0.3], allow_inf_nan=False
    )
    acts_above: float | None = setting(
        None, "acted on above this probability or value", examples=[0.7], allow_inf_nan=False
    )

    @model_validator(mode="after")
    def _has_one_rule(self) -> ExplorationSettings:
        if sum((bool(self.acts_on), self.acts_below is not None, self.acts_above is not None)) > 1:
            raise ValueError("acts_on, acts_below and acts_above: one of them says who is acted on")
        return self

    @property
    def has_rule(self) -> bool:
        """Whether it can be told from an answer what the caller does."""
        return bool(self.acts_on) or self.acts_below is not None or self.acts_above is not None

    @property
    def is_on(self) -> bool:
        """Whether predictions are logged with their propensity."""
        return self.share > 0 or self.has_rule
