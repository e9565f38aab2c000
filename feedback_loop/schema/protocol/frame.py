"""What a signature asks for, and rows by columns that are held against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feedback_loop.errors import RowError
from feedback_loop.schema.contract import Column
from feedback_loop.schema.protocol.wire import WireError, not_enforced

ABSENT = float("nan")
"""What pandas puts where a record has no value."""

LENGTHS = "All arrays must be of the same length"


@dataclass(frozen=True)
class Signature:
    """The features, how MLflow prints them, and (for a tensor) how many columns a row has."""

    features: tuple[Column, ...]
    text: str
    width: int | None = None

    @property
    def names(self) -> list[str]:
        """The features' names."""
        return [column.name for column in self.features]

    @property
    def is_numbered(self) -> bool:
        """Whether the columns have no names but their places."""
        return self.names == [str(place) for place in range(len(self.features))]

    @property
    def required(self) -> list[str]:
        """The names of the features that must be given."""
        return [column.name for column in self.features if column.required]


@dataclass(frozen=True)
class Frame:
    """Columns by name (numbers where a body gave no names) and how many rows they have."""

    columns: Mapping[Any, Sequence[Any]]
    count: int


class RepeatedError(Exception):
    """A column is there twice."""

    def __init__(self, name: Any) -> None:
        super().__init__(name)
        self.name = name


def refuse_missing(signature: Signature, given: Mapping[Any, Any], own: Sequence[str]) -> None:
    """Raises WireError where a required feature is not among the columns that are given."""
    missing = [name for name in signature.required if name not in given]
    if missing:
        known = {*signature.names, *own}
        raise missing_inputs(signature, missing, [name for name in given if name not in known])


def missing_inputs(signature: Signature, missing: Sequence[str], extra: Sequence[Any]) -> WireError:
    """MLflow's words for inputs that are not there."""
    more = f" Note that there were extra inputs: {extra}." if extra else ""
    problems = [RowError(-1, name, "is missing") for name in missing]
    return not_enforced(signature.text, f"Model is missing inputs {list(missing)}.{more}", *problems)


def wrong_shape(signature: Signature, shape: tuple[int, ...]) -> WireError:
    """MLflow's words for a tensor of another shape."""
    expected = (-1, signature.width)
    return not_enforced(signature.text, f"Shape of input {shape} does not match expected shape {expected}.")
