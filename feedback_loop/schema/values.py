"""Values of a request in the types of a column: what MLflow converts is converted, and refused in its words.

MLflow hands `dataframe_split`, `dataframe_records` and CSV to pandas (`as_pandas`) and the rest to NumPy
(`as_numpy`): the two convert alike, but not quite, and word their refusals in their own way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import numpy.typing as npt

from feedback_loop.clock import EPOCH
from feedback_loop.errors import BadInput, RowError
from feedback_loop.schema.bounds import utc_within
from feedback_loop.schema.column_types import FORMS
from feedback_loop.schema.contract import Column, ColumnType

Array = npt.NDArray[Any]

REFUSALS = (ValueError, TypeError, OverflowError, RecursionError, AttributeError)
"""What a conversion raises of a value that it does not take."""

_NOT_FINITE = (
    "Cannot convert non-finite values (NA or inf) to integer.Replace or remove non-finite values or cast to an "
    "integer typethat supports these values (e.g. 'Int64')"
)


class IntCastingNaNError(ValueError):
    """pandas' error of that name, which MLflow's messages show."""


class DateParseError(ValueError):
    """pandas' error of that name, which MLflow's messages show."""


class UnsafeError(ValueError):
    """pandas' refusal of a column whose texts are of another type than the wanted one."""

    def __init__(self, wanted: str, actual: str) -> None:
        super().__init__(f"cannot safely convert passed user dtype of {wanted} for {actual} dtyped data")


class ModelRefusesError(Exception):
    """Values that MLflow passes on to the model as they are, and that no column of a model holds."""


def as_pandas(values: Sequence[Any], kind: ColumnType, *, required: bool = True) -> list[Any]:
    """A column as pandas' `astype` makes it; raises what pandas would, or ModelRefusesError."""
    if kind is ColumnType.STRING:
        return [_text(value) for value in values]
    if kind is ColumnType.DATETIME:
        return [_moment(value) for value in values]
    if kind is ColumnType.BOOLEAN:
        return [None if not required and is_missing(value) else bool(value) for value in values]
    if bound := FORMS[kind].bound:
        return _integers(values, bound)
    with np.errstate(over="ignore"):
        floats: list[Any] = _plain_array(values).astype(FORMS[kind].dtype).tolist()
    return floats


def as_numpy(value: Any, kind: ColumnType, *, required: bool = True) -> Any:
    """An array (or, of what is no list, one NumPy value) as `numpy.array` makes it; raises what NumPy would.

    Text and moments stay Python's, with None for what is missing.
    """
    if kind in (ColumnType.STRING, ColumnType.DATETIME):
        return _objects(value, _text_of if kind is ColumnType.STRING else _numpy_moment)
    if kind is ColumnType.BOOLEAN and not required:
        return _objects(value, lambda single: None if is_missing(single) else bool(np.array([single], bool)[0]))
    with np.errstate(over="ignore"):  # beyond a float's range is infinity, as for MLflow
        if isinstance(value, list):
            return np.array(value, FORMS[kind].dtype)
        return np.array([value], FORMS[kind].dtype)[0]


def parse_text(text: str, kind: ColumnType) -> Any:
    """One value from its text (of CSV, or a header), as `pandas.read_csv` takes it; None where it is empty.

    Whole numbers are exact, whatever way they are written: 9007199254740993.0 is one. Raises what is in REFUSALS.
    """
    if kind is ColumnType.STRING:
        return text
    stripped = text.strip()
    if not stripped:
        return None
    if kind is ColumnType.DATETIME:
        return _moment(stripped)
    word = _BOOLEANS.get(stripped.lower())
    if kind is ColumnType.BOOLEAN:
        return _zero_or_one(stripped) if word is None else word
    if bound := FORMS[kind].bound:
        return _whole(stripped, bound) if word is None else int(word)
    if "_" in stripped:
        raise UnsafeError("float64", "object")
    return float(stripped) if word is None else float(word)


def key_values(column: Column, values: Sequence[Any]) -> list[Any]:
    """A key column that is no feature: JSON's values in its type; raises BadInput with the rows that do not fit."""
    problems, typed = [], []
    for row, value in enumerate(values):
        try:
            typed.append(_key_value(value, column.type))
        except REFUSALS:
            problems.append(RowError(row, column.name, f"{value!r} does not fit the type {column.type}"))
    if problems:
        raise BadInput(problems)
    return typed


def is_missing(value: Any) -> bool:
    """Whether it is None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


_BOOLEANS = {"true": True, "false": False}
_MOST_DIGITS = 20  # above any integer's: 1e999999 is not written out


def _zero_or_one(text: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        raise UnsafeError("bool", "object") from None
    if number not in (0, 1):
        raise UnsafeError("bool", "int64")
    return bool(number)


def _whole(text: str, bound: int) -> int:
    try:
        number = int(text) if "_" not in text else None
    except ValueError:
        number = _whole_of_fraction(text)
    if number is None:
        raise ValueError(f"invalid literal for int() with base 10: {text!r}")
    if not -bound <= number < bound:
        raise OverflowError("Overflow")
    return number


def _whole_of_fraction(text: str) -> int | None:
    """The whole number that stands there as 57.0 or 1e3; None where none does. Raises UnsafeError for a fraction."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite() or number.adjusted() > _MOST_DIGITS or number != number.to_integral_value():
        raise UnsafeError("int64", "float64")
    return int(number)


def _raise(message: str) -> Any:
    raise ValueError(message)


def _key_value(value: Any, kind: ColumnType) -> Any:
    if is_missing(value) or value == "":
        return None
    if kind.is_numeric:
        return _key_number(value, kind)
    if kind is ColumnType.DATETIME:
        return _moment(value) if isinstance(value, str | datetime) else _raise("no moment")
    return value if isinstance(value, str if kind is ColumnType.STRING else bool) else _raise(f"no {kind}")


def _key_number(value: Any, kind: ColumnType) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("no number")
    bound = FORMS[kind].bound
    if not bound:
        return float(value)
    if value != int(value) or not -bound <= value < bound:
        raise ValueError("no such integer")
    return int(value)


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if is_missing(value):
        return None
    if isinstance(value, list | dict):
        raise ModelRefusesError
    return str(value)


def _text_of(value: Any) -> str | None:
    return None if is_missing(value) else str(value)


def _plain_array(values: Sequence[Any]) -> Array:
    """The array that pandas infers: of one number type where all are of it, of objects else."""
    kinds = {type(value) for value in values if not is_missing(value)}
    if kinds <= {int, float} and kinds:
        missing = any(map(is_missing, values))
        try:
            return np.array(values, np.float64 if missing or float in kinds else np.int64)
        except OverflowError:
            pass
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _integers(values: Sequence[Any], bound: int) -> list[Any]:
    array = _plain_array(values)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise IntCastingNaNError(_NOT_FINITE)
        numbers = [int(value) for value in array.tolist()]
    elif array.dtype.kind == "i":
        numbers = array.tolist()
    else:
        numbers = [int(value) for value in values]
    for value in numbers:
        if not -bound <= value < bound:
            raise OverflowError(
                "Python int too large to convert to C long"
                if bound == FORMS[ColumnType.LONG].bound
                else f"Python integer {value} out of bounds for int32"
            )
    return numbers


def _objects(value: Any, convert: Any) -> Any:
    if not isinstance(value, list):
        return convert(value)
    if any(isinstance(part, list) for part in value):
        return np.array(value)  # its shape is what is wrong with it
    array = np.empty(len(value), object)
    array[:] = [convert(part) for part in value]
    return array


def _moment(value: Any) -> datetime | None:
    """As pandas' `to_datetime`, of ISO 8601 and of nanoseconds since 1970; without a zone it is UTC."""
    if is_missing(value) or value == "":
        return None
    if isinstance(value, datetime):
        return utc_within(value)
    if isinstance(value, str):
        try:
            return _moment_of_text(value.strip())
        except ValueError:
            raise DateParseError(f"Unknown datetime string format, unable to parse: {value}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{type(value)} is not convertible to datetime")
    return _moment_of_nanoseconds(int(value))


def _numpy_moment(value: Any) -> datetime | None:
    """As NumPy's `datetime64`: ISO 8601 and nanoseconds since 1970."""
    if isinstance(value, str):
        return _moment_of_text(value)
    if is_missing(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return _moment_of_nanoseconds(value)
    raise ValueError("Could not convert object to NumPy datetime")


def _moment_of_nanoseconds(number: int) -> datetime:
    return utc_within(EPOCH + timedelta(microseconds=number // 1000))


def _moment_of_text(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:  # NumPy takes some forms more, as 2026-01 or NaT
        parsed = np.datetime64(text, "ns")
        return None if np.isnat(parsed) else _moment_of_nanoseconds(int(parsed.astype(np.int64)))
    return utc_within(moment)
