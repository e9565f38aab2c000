"""Model versions: what a registry says of one, and what is loaded from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feedback_loop.errors import BadInput
from feedback_loop.run_tags import PREFIX

if TYPE_CHECKING:
    import pandas as pd

TAG = PREFIX
"""What the names of our tags in MLflow begin with."""

TRAINED_UNTIL = TAG + "trained_until"
"""The tag that says until when a version's training rows reach: rows before it are no fair test of it."""


@dataclass(frozen=True)
class ModelVersion:
    """One version in the registry."""

    model: str
    version: str
    run_id: str | None
    created_at: datetime
    aliases: tuple[str, ...]
    tags: dict[str, str]

    def __str__(self) -> str:
        return f"{self.model} version {self.version}"

    @property
    def number(self) -> str:
        """Its number in MLflow: `1` of `1.2`, the second version that bore it (its model was made anew)."""
        return number_of(self.version)

    @property
    def tells_trained_until(self) -> bool:
        """Whether it is known until when its training rows reach."""
        return TRAINED_UNTIL in self.tags

    @property
    def trained_until(self) -> datetime:
        """Until when its training rows reach; where that is not known, the moment it was registered."""
        tag = self.tags.get(TRAINED_UNTIL)
        return datetime.fromisoformat(tag) if tag else self.created_at


@dataclass(frozen=True)
class LoadedModel:
    """A version in memory. `estimator` is scikit-learn's own object where the version is one."""

    version: ModelVersion
    path: Path
    signature: dict[str, Any] | None
    estimator: Any | None
    pyfunc: Callable[[pd.DataFrame], Any] | None
    answers_with: str  # the method whose result callers get: predict | predict_proba | …
    requirements: tuple[str, ...]

    def followed_by(self, estimator: Any) -> LoadedModel:
        """Another estimator in its place, asked as it is; after what is none, for probabilities if it has some."""
        if self.estimator is not None:
            return replace(self, estimator=estimator)
        way = "predict_proba" if hasattr(estimator, "predict_proba") else "predict"
        return replace(self, estimator=estimator, pyfunc=None, answers_with=way)


@dataclass(frozen=True)
class Reference:
    """`name`, `name@alias` or `name/version`: how people write which version they mean."""

    model: str
    alias: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.model}@{self.alias}" if self.version is None else f"{self.model}/{self.version}"

    @classmethod
    def parse(cls, text: str, *, default_alias: str = "champion") -> Reference:
        """Reads such a text; a bare name means the default alias. Raises BadInput."""
        text = text.removeprefix("models:/")
        model, at, alias = text.partition("@")
        if at:
            return cls(_named(model, text), alias=_named(alias, text))
        model, slash, version = text.rpartition("/")
        if slash and re.fullmatch(r"\d+(\.\d+)?", version, re.ASCII):
            return cls(_named(model, text), version=version)
        return cls(_named(text, text), alias=default_alias)


def number_of(version: str) -> str:
    """The number in MLflow of a version by its name here."""
    return version.partition(".")[0]


def _named(name: str, text: str) -> str:
    if not name or "/" in name:
        raise BadInput.of("model", f"{text!r} names no model", cure="Write name, name@alias or name/version.")
    return name
