"""Checks requests against a signature, inputs and params, with MLflow's messages for what does not fit."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np

from feedback_loop.errors import RowError
from feedback_loop.schema.contract import Column, ColumnType, Contract
from feedback_loop.schema.ids import PREDICTION_ID
from feedback_loop.schema.protocol.wire import WireError

ABSENT = float("nan")
"""What pandas puts where a record has no value."""

LENGTHS = "All arrays must be of the same length"

_UNSAFE = "Incompatible input types for column {}. Can not safely convert {} to {}.{}"
_HINT = (
    " Hint: the type mismatch is likely caused by missing values. Integer columns in python can not represent "
    "missing values and are therefore encoded as floats. The best way to avoid this problem is to infer the model "
    "schema based on a realistic data sample (training dataset) that includes missing values. Alternatively, you can "
    "declare integer columns as doubles (float64) whenever these columns may have missing values. See `Handling "
    "Integers With Missing Values <https://www.mlflow.org/docs/latest/models.html#"
    "handling-integers-with-missing-values>`_ for more details."
)
_PYTHON = {"boolean": bool, "integer": int, "long": int, "float": float, "double": float, "string": str}


@dataclass(frozen=True)
class Param:
    """One parameter of a signature: a single value, or (`is_list`) a list of them."""

    name: str
    type: str
    default: Any
    is_list: bool = False

    @property
    def text(self) -> str:
        """What MLflow calls it in its messages."""
        shape = " (shape: (-1,))" if self.is_list else ""
        return f"{self.name!r}: {self.type} (default: {self.default}){shape}"


@dataclass(frozen=True)
class Signature:
    """What a version asks for: the features, how MLflow prints them, and the params.

    `own` are columns of the caller's that may stand beside the features: keys, and ids (as text). `width` is how many
    columns a row of a tensor has, None where the features have names.
    """

    features: tuple[Column, ...]
    own: tuple[Column, ...]
    text: str
    width: int | None = None
    params: tuple[Param, ...] = ()

    @property
    def names(self) -> list[str]:
        """The features' names."""
        return [column.name for column in self.features]

    @property
    def own_names(self) -> list[str]:
        """The names of what may stand beside the features."""
        return [column.name for column in self.own]

    @property
    def is_numbered(self) -> bool:
        """Whether the columns have no names but their places."""
        return self.names == [str(place) for place in range(len(self.features))]

    @property
    def required(self) -> list[str]:
        """The names of the features that must be given."""
        return [column.name for column in self.features if column.required]

    # Raised where inputs do not fit: the messages print no data of the caller's, as MLflow's do, but dots for it.

    def refusal(self, cause: str, *problems: RowError) -> WireError:
        """MLflow's words for rows that do not fit the signature."""
        message = (
            "Failed to predict data '...'. \nError: Failed to enforce schema of data '...' with schema "
            f"'{self.text}'. Error: {cause}"
        )
        return _invalid(message, "SCHEMA_ENFORCEMENT_FAILED", "KAM01", problems)

    def missing(self, names: Sequence[str], extra: Sequence[Any]) -> WireError:
        """MLflow's words for inputs that are not there."""
        more = f" Note that there were extra inputs: {extra}." if extra else ""
        problems = [RowError(-1, name, "is missing") for name in names]
        return self.refusal(f"Model is missing inputs {list(names)}.{more}", *problems)

    def refuse_missing(self, given: Collection[Any]) -> None:
        """Raises WireError where a required feature is not among the names that are given."""
        missing = [name for name in self.required if name not in given]
        if missing:
            expected = {*self.names, *self.own_names}
            raise self.missing(missing, [name for name in given if name not in expected])

    def wrong_shape(self, shape: tuple[int, ...]) -> WireError:
        """MLflow's words for a tensor of another shape."""
        expected = (-1, self.width)
        return self.refusal(f"Shape of input {shape} does not match expected shape {expected}.")

    def unsafe(self, column: Column, actual: object, wanted: object, cause: str, *, hints: bool = False) -> WireError:
        """MLflow's words for a column whose type may not become the wanted one."""
        words = _UNSAFE.format(column.name, actual, wanted, _HINT if hints else "")
        return self.refusal(words, RowError(-1, column.name, cause))


def read_signature(contract: Contract, signature: dict[str, Any] | None) -> Signature:
    """What a version of that contract asks for, of its `ModelSignature.to_dict()`."""
    inputs = json.loads(signature["inputs"]) if signature and signature.get("inputs") else []
    params = json.loads(signature["params"]) if signature and signature.get("params") else []
    tensor = inputs[0]["tensor-spec"] if inputs and inputs[0]["type"] == "tensor" else None
    if tensor is None:
        text = f"[{', '.join(map(column_text, contract.features))}]"
    else:
        text = f"[Tensor({tensor['dtype']!r}, {tuple(tensor['shape'])!r})]"
    width = tensor["shape"][1] if tensor is not None else None
    own = (*contract.extra_key, Column(contract.own(PREDICTION_ID), ColumnType.STRING, required=False))
    return Signature(contract.features, own, text, width, tuple(map(_param, params)))


def column_text(column: Column) -> str:
    """A feature as MLflow prints it."""
    return f"{column.name!r}: {column.type} ({'required' if column.required else 'optional'})"


def check_params(given: Any, params: Sequence[Param]) -> dict[str, Any]:
    """Each parameter's value, its default where none was given; what is unknown is left out. Raises WireError."""
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise _invalid_params(f"Parameters must be a dictionary. Got type '{type(given).__name__}'.")
    checked, wrong = {}, []
    for param in params:
        try:
            checked[param.name] = _checked(param, given[param.name]) if param.name in given else param.default
        except _Refused as error:
            wrong.append((param.name, str(error)))
    if wrong:
        causes = ", ".join(map(repr, wrong))
        raise _invalid_params(f"Invalid parameters found: {{{causes}}}", *(RowError(-1, *error) for error in wrong))
    return checked


class _Refused(Exception):
    """What MLflow says of a param's value."""


def _param(spec: dict[str, Any]) -> Param:
    kind, default, is_list = (
        str(spec.get("type") or spec.get("dtype")),
        spec["default"],
        spec.get("shape") is not None,
    )
    if kind == "datetime" and default is not None:
        default = [_date(value) for value in default] if is_list else _date(default)
    return Param(str(spec["name"]), kind, default, is_list)


def _invalid(message: str, error_class: str, sqlstate: str, problems: Sequence[RowError]) -> WireError:
    code = "INVALID_PARAMETER_VALUE"
    return WireError(400, code, message, error_class=error_class, sqlstate=sqlstate, problems=problems)


def _invalid_params(cause: str, *problems: RowError) -> WireError:
    message = f"Failed to predict data '...'. \nError: {cause}"
    return _invalid(message, "INVALID_PARAMETER_VALUE", "KAM00", problems)


def _checked(param: Param, value: Any) -> Any:
    if param.is_list and not (isinstance(value, list) and not any(isinstance(part, list) for part in value)):
        raise _Refused(
            f"Value must be a 1D array with shape (-1,) for param {param.text}, "
            f"received {type(value).__name__} with ndim {_depth(value)}"
        )
    try:
        return [_single(param.type, part) for part in value] if param.is_list else _single(param.type, value)
    except _Refused as error:
        raise _Refused(f"Failed to validate type and shape for {param.text}, error: {error}") from error


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list):
        depth, value = depth + 1, value[0] if value else None
    return depth


def _single(kind: str, value: Any) -> Any:
    if value is None or kind == "object":
        return value
    if kind == "datetime":
        return _date(value)
    if isinstance(value, list | dict):
        raise _Refused(f"Value must be a scalar for type `DataType.{kind}`, got `{value}`")
    if type(value) is _PYTHON[kind]:
        return value
    if type(value) is int and _PYTHON[kind] is float:
        try:
            return float(value)
        except OverflowError as error:
            raise _Refused(str(error)) from error
    raise _Refused(f"Can not safely convert `{type(value)}` to `DataType.{kind}` for value `{value}`")


def _date(value: Any) -> date | datetime | None:
    refusal = f"Failed to convert value `{value}` from type `{type(value)}` to `DataType.datetime`"
    if not isinstance(value, str):
        raise _Refused(refusal)
    try:
        moment = np.datetime64(value).item()
    except ValueError:
        raise _Refused(refusal) from None
    if moment is None or isinstance(moment, date):
        return moment
    raise _Refused(
        "Failed to convert value to `DataType.datetime`. "
        f"It must be convertible to datetime.date/datetime, got `{value}`"
    )
