"""`params` of a request against the signature's, as MLflow checks them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np

from feedback_loop.errors import RowError
from feedback_loop.schema.protocol.wire import WireError

_PYTHON = {"boolean": bool, "integer": int, "long": int, "float": float, "double": float, "string": str}
_WIDENED = {"float": int, "double": int}
"""Types that take integers too."""


class _Refused(Exception):
    """What MLflow says of a value."""


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


def signature_params(signature: dict[str, Any] | None) -> tuple[Param, ...]:
    """The parameters that a signature (`ModelSignature.to_dict()`) names."""
    text = signature.get("params") if signature else None
    return tuple(_param(spec) for spec in (json.loads(text) if text else []))


def check_params(given: Any, params: Sequence[Param]) -> dict[str, Any]:
    """Each parameter's value, its default where none was given; what is unknown is left out. Raises WireError."""
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise _invalid(f"Parameters must be a dictionary. Got type '{type(given).__name__}'.")
    found, wrong = {}, []
    for param in params:
        try:
            found[param.name] = _checked(param, given[param.name]) if param.name in given else param.default
        except _Refused as error:
            wrong.append((param.name, str(error)))
    if wrong:
        said = ", ".join(map(repr, wrong))
        raise _invalid(f"Invalid parameters found: {{{said}}}", *(RowError(-1, *each) for each in wrong))
    return found


def _param(spec: dict[str, Any]) -> Param:
    kind = spec.get("type") or spec.get("dtype")
    param = Param(str(spec["name"]), str(kind), spec["default"], is_list=spec.get("shape") is not None)
    if kind != "datetime" or param.default is None:
        return param
    default = [_date(each) for each in param.default] if param.is_list else _date(param.default)
    return Param(param.name, param.type, default, param.is_list)


def _invalid(cause: str, *problems: RowError) -> WireError:
    return WireError(
        400,
        "INVALID_PARAMETER_VALUE",
        f"Failed to predict data '...'. \nError: {cause}",
        sqlstate="KAM00",
        error_class="INVALID_PARAMETER_VALUE",
        problems=problems,
    )


def _checked(param: Param, value: Any) -> Any:
    if param.is_list and not (isinstance(value, list) and not any(isinstance(each, list) for each in value)):
        depth = _depth(value)
        raise _Refused(
            f"Value must be a 1D array with shape (-1,) for param {param.text}, "
            f"received {type(value).__name__} with ndim {depth}"
        )
    try:
        return [_single(param.type, each) for each in value] if param.is_list else _single(param.type, value)
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
    if type(value) is _WIDENED.get(kind):
        try:
            return float(value)
        except OverflowError as error:
            raise _Refused(str(error)) from error
    raise _Refused(f"Can not safely convert `{type(value)}` to `DataType.{kind}` for value `{value}`")


def _date(value: Any) -> date | datetime | None:
    said = f"Failed to convert value `{value}` from type `{type(value)}` to `DataType.datetime`"
    if not isinstance(value, str):
        raise _Refused(said)
    try:
        moment = np.datetime64(value).item()
    except ValueError:
        raise _Refused(said) from None
    if moment is None or isinstance(moment, date):
        return moment
    raise _Refused(
        "Failed to convert value to `DataType.datetime`. "
        f"It must be convertible to datetime.date/datetime, got `{value}`"
    )
