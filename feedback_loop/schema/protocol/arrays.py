"""`inputs` and `instances` by NumPy's rules: each value or list becomes an array of the signature's type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from feedback_loop.errors import RowError
from feedback_loop.schema.contract import Column, ColumnType
from feedback_loop.schema.protocol.frame import (
    ABSENT,
    LENGTHS,
    Frame,
    Signature,
    missing_inputs,
    refuse_missing,
    wrong_shape,
)
from feedback_loop.schema.protocol.values import (
    INTEGERS,
    PANDAS_NAMES,
    REFUSALS,
    Array,
    ModelRefusesError,
    as_numpy,
    is_missing,
)
from feedback_loop.schema.protocol.wire import WireError, invalid_input, not_enforced

_NO_FRAME = (
    "This model contains a column-based signature, which suggests a DataFrame input. There was an error casting the "
    "input data to a DataFrame: {}"
)
_NO_TENSOR = (
    "This model contains a tensor-based model signature with no input names, which suggests a numpy array input or a "
    "pandas dataframe input with proper column values, but an input of type {} was found."
)
_INCOMPATIBLE = "Incompatible input types for column {}. Can not safely convert {} to {}."
_HINT = (
    " Hint: the type mismatch is likely caused by missing values. Integer columns in python can not represent "
    "missing values and are therefore encoded as floats. The best way to avoid this problem is to infer the "
    "model schema based on a realistic data sample (training dataset) that includes missing values. "
    "Alternatively, you can declare integer columns as doubles (float64) whenever these columns may have "
    "missing values. See `Handling Integers With Missing Values "
    "<https://www.mlflow.org/docs/latest/models.html#handling-integers-with-missing-values>`_ for more "
    "details."
)
_NOT_A_LIST = "Invalid object type at position 0"


def read_arrays(data: Any, signature: Signature, own: Sequence[str], *, by_row: bool) -> Frame:
    """The features in their types, and the caller's own columns, of `inputs` or (`by_row`) `instances`.

    Raises WireError, and ModelRefusesError for what no column holds.
    """
    return _enforced(_instances(data, signature, own) if by_row else _inputs(data, signature), own)


def _convert(value: Any, column: Column | None) -> Any:
    """MLflow's `convert_data_type`."""
    try:
        return np.array(value) if column is None else as_numpy(value, column.type, required=column.required)
    except REFUSALS as error:
        raise invalid_input(f"{error}") from error


def _whole(data: Any, signature: Signature) -> WireError:
    """What is wrong with data that names no columns, where the signature does: its first type decides of it."""
    first = signature.features[0]
    if isinstance(data, list):
        array = np.asarray(_convert(data, first))
        width = array.shape[1] if array.ndim > 1 else 1
        return missing_inputs(signature, signature.required, list(range(width)) if array.size else [])
    try:
        _convert(data, first)
    except WireError:
        spec = f"{first.name!r}: {first.type} ({'required' if first.required else 'optional'})"
        said = f"Failed to convert data `{data}` to type `{spec}` defined in the model signature."
        return invalid_input(said)
    return missing_inputs(signature, signature.required, [0])


@dataclass(frozen=True)
class _Given:
    signature: Signature
    arrays: dict[str, Any]
    count: int


def _inputs(data: Any, signature: Signature) -> _Given:
    known = {column.name: column for column in signature.features}
    if isinstance(data, list) and len(known) == 1 and not any(isinstance(each, dict) for each in data):
        data = {signature.features[0].name: data}
    if isinstance(data, list) and data and signature.is_numbered and all(isinstance(each, list) for each in data):
        data = dict(zip(signature.names, map(list, zip(*data, strict=False)), strict=False))
    if isinstance(data, dict):
        return _of_arrays({name: _convert(value, known.get(name)) for name, value in data.items()}, signature)
    if isinstance(data, list) and all(isinstance(each, dict) for each in data):
        rows = [{name: _convert(value, known.get(name)) for name, value in row.items()} for row in data]
        return _of_records(rows, signature)
    raise _whole(data, signature)


def _instances(data: Any, signature: Signature, own: Sequence[str]) -> _Given:
    if not (isinstance(data, list) and data and isinstance(data[0], dict)):
        return _inputs(data, signature)
    known = {column.name: column for column in signature.features}
    lists: dict[str, list[Any]] = {}
    for row in data:
        if not isinstance(row, dict):
            said = f"AttributeError(\"{type(row).__name__!r} object has no attribute 'items'\")"
            raise invalid_input(f"Ensure that the input is a valid JSON-formatted string.\nError: {said}")
        for name, value in row.items():
            lists.setdefault(name, []).append(value if name in own else _convert(value, known.get(name)))
    lengths = {len(lists[name]) for name in signature.required if name in lists}
    if len(lengths) > 1:
        raise invalid_input("The length of values for each input/column name are not the same")
    for name in own:  # ours, which not every row need have
        if name in lists and len(lists[name]) != len(data):
            lists[name] = [row.get(name) for row in data]
    return _of_arrays({name: _stacked(values) for name, values in lists.items()}, signature)


def _stacked(values: list[Any]) -> Any:
    if any(isinstance(value, list | np.ndarray) for value in values):
        return np.array([np.asarray(value, object).tolist() for value in values], object)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _of_arrays(arrays: dict[str, Any], signature: Signature) -> _Given:
    """As `pandas.DataFrame(arrays)`: single values are for every row."""
    lengths = {len(values) for values in arrays.values() if isinstance(values, np.ndarray) and values.ndim}
    if len(lengths) > 1:
        raise not_enforced(signature.text, _NO_FRAME.format(LENGTHS))
    count = lengths.pop() if lengths else min(len(arrays), 1)
    return _Given(signature, arrays, count)


def _of_records(rows: list[dict[str, Any]], signature: Signature) -> _Given:
    arrays: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        arrays[name] = _stacked([row.get(name, ABSENT) for row in rows])
    return _Given(signature, arrays, len(rows))


def _enforced(given: _Given, own: Sequence[str]) -> Frame:
    signature, count = given.signature, given.count
    refuse_missing(signature, given.arrays, own)
    found: dict[Any, Sequence[Any]] = {}
    for name, values in given.arrays.items():
        single = not (isinstance(values, np.ndarray) and values.ndim)
        found[name] = [_plain(values)] * count if single else [_plain(value) for value in values.tolist()]
    for column in signature.features:
        if column.name not in found:
            continue
        _enforce(found[column.name], column, signature)
        if column.type in (ColumnType.STRING, ColumnType.DATETIME, ColumnType.BOOLEAN):  # an absent one is NaN still
            found[column.name] = [None if is_missing(value) else value for value in found[column.name]]
    return Frame(found, count)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _enforce(values: Sequence[Any], column: Column, signature: Signature) -> None:
    if any(isinstance(value, list) for value in values):
        if column.type in (ColumnType.STRING, ColumnType.BOOLEAN):
            raise ModelRefusesError
        cause = _NOT_A_LIST
        if column.type in INTEGERS:
            cause = _INCOMPATIBLE.format(column.name, "object", PANDAS_NAMES[column.type])
        raise not_enforced(signature.text, cause, RowError(-1, column.name, "holds a list"))
    if column.type in INTEGERS and any(isinstance(value, float) for value in values):
        cause = _INCOMPATIBLE.format(column.name, "float64", PANDAS_NAMES[column.type]) + _HINT
        raise not_enforced(signature.text, cause, RowError(-1, column.name, "has no value in some rows"))


def read_tensor(data: Any, signature: Signature) -> Frame:
    """Rows of one tensor without a name; raises WireError."""
    if not isinstance(data, list | str | int | float):
        said = (
            "This model contains an un-named  model signature which expects a single n-dimensional array or a single"
        )
        raise invalid_input(
            f"Failed to parse input data. {said} value as input, however, an input of type {type(data)} was found."
        )
    try:
        array: Array = np.asarray(as_numpy(data, signature.features[0].type))
    except REFUSALS as error:
        if not isinstance(data, list):
            said = f"Failed to convert data `{data}` to type `{signature.text[1:-1]}` defined in the model signature."
            raise invalid_input(said) from error
        raise invalid_input(f"{error}") from error
    if not data:
        raise not_enforced(signature.text, _NO_TENSOR.format(type(data)))
    if array.ndim != 2 or array.shape[1] != signature.width:
        raise wrong_shape(signature, array.shape)
    return Frame(dict(zip(signature.names, array.T.tolist(), strict=True)), len(array))
