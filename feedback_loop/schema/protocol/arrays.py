"""`inputs` and `instances` by NumPy's rules: each value or list becomes an array of the signature's type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from feedback_loop.errors import RowError
from feedback_loop.schema.column_types import FORMS
from feedback_loop.schema.contract import Column, ColumnType
from feedback_loop.schema.protocol.enforcing import ABSENT, LENGTHS, Signature, column_text
from feedback_loop.schema.protocol.rows import Content
from feedback_loop.schema.protocol.wire import WireError, invalid_input
from feedback_loop.schema.values import REFUSALS, Array, ModelRefusesError, as_numpy, is_missing

_NO_FRAME = (
    "This model contains a column-based signature, which suggests a DataFrame input. There was an error casting the "
    "input data to a DataFrame: {}"
)
_NO_TENSOR = (
    "This model contains a tensor-based model signature with no input names, which suggests a numpy array input or a "
    "pandas dataframe input with proper column values, but an input of type {} was found."
)
_NO_INPUT = (
    "Failed to parse input data. This model contains an un-named  model signature which expects a single "
    "n-dimensional array or a single value as input, however, an input of type {} was found."
)
_NO_VALUE = "Failed to convert data `{}` to type `{}` defined in the model signature."

_Arrays = tuple[dict[str, Any], int]
"""Arrays or single values by column, and how many rows they are."""


def read_arrays(data: Any, signature: Signature, *, by_row: bool) -> Content:
    """The features in their types, and the caller's own columns as they are, of `inputs` or (`by_row`) `instances`.

    Raises WireError, and ModelRefusesError for what no column holds.
    """
    is_rows = by_row and isinstance(data, list) and data and isinstance(data[0], dict)
    arrays, count = _instances(data, signature) if is_rows else _inputs(data, signature)
    signature.refuse_missing(arrays)
    columns: dict[Any, Sequence[Any]] = {}
    for name, values in arrays.items():
        is_array = isinstance(values, np.ndarray) and values.ndim
        columns[name] = [_plain(value) for value in values.tolist()] if is_array else [_plain(values)] * count
    for column in signature.features:
        if column.name not in columns:
            continue
        _refuse_unsafe(columns[column.name], column, signature)
        if column.type in (ColumnType.STRING, ColumnType.DATETIME, ColumnType.BOOLEAN):  # an absent one is NaN still
            columns[column.name] = [None if is_missing(value) else value for value in columns[column.name]]
    return Content(count, columns)


def read_tensor(data: Any, signature: Signature) -> Content:
    """Rows of one tensor without a name; raises WireError."""
    if not isinstance(data, list | str | int | float):
        raise invalid_input(_NO_INPUT.format(type(data)))
    try:
        array: Array = np.asarray(as_numpy(data, signature.features[0].type))
    except REFUSALS as error:
        is_list = isinstance(data, list)
        raise invalid_input(f"{error}" if is_list else _NO_VALUE.format(data, signature.text[1:-1])) from error
    if not data:
        raise signature.refusal(_NO_TENSOR.format(type(data)))
    if array.ndim != 2 or array.shape[1] != signature.width:
        raise signature.wrong_shape(array.shape)
    return Content(len(array), dict(zip(signature.names, array.T.tolist(), strict=True)))


def _convert(value: Any, column: Column | None) -> Any:
    """MLflow's `convert_data_type`."""
    try:
        return np.array(value) if column is None else as_numpy(value, column.type, required=column.required)
    except REFUSALS as error:
        raise invalid_input(f"{error}") from error


def _inputs(data: Any, signature: Signature) -> _Arrays:
    by_name = {column.name: column for column in signature.features}
    if isinstance(data, list) and len(by_name) == 1 and not any(isinstance(value, dict) for value in data):
        data = {signature.features[0].name: data}
    if isinstance(data, list) and data and signature.is_numbered and all(isinstance(row, list) for row in data):
        data = dict(zip(signature.names, map(list, zip(*data, strict=False)), strict=False))
    if isinstance(data, dict):
        return _of_arrays({name: _convert(value, by_name.get(name)) for name, value in data.items()}, signature)
    if isinstance(data, list) and all(isinstance(row, dict) for row in data):
        rows = [{name: _convert(value, by_name.get(name)) for name, value in row.items()} for row in data]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: _stacked([row.get(name, ABSENT) for row in rows]) for name in names}, len(rows)
    raise _unnamed(data, signature)


def _instances(data: list[Any], signature: Signature) -> _Arrays:
    own = signature.own_names
    by_name = {column.name: column for column in signature.features}
    lists: dict[str, list[Any]] = {}
    for row in data:
        if not isinstance(row, dict):
            cause = f"AttributeError(\"{type(row).__name__!r} object has no attribute 'items'\")"
            raise invalid_input(f"Ensure that the input is a valid JSON-formatted string.\nError: {cause}")
        for name, value in row.items():
            lists.setdefault(name, []).append(value if name in own else _convert(value, by_name.get(name)))
    if len({len(lists[name]) for name in signature.required if name in lists}) > 1:
        raise invalid_input("The length of values for each input/column name are not the same")
    for name in own:  # ours, which not every row need have
        if name in lists and len(lists[name]) != len(data):
            lists[name] = [row.get(name) for row in data]
    return _of_arrays({name: _stacked(values) for name, values in lists.items()}, signature)


def _unnamed(data: Any, signature: Signature) -> WireError:
    """What is wrong with data that names no columns, where the signature does: its first type decides of it."""
    first = signature.features[0]
    if isinstance(data, list):
        array = np.asarray(_convert(data, first))
        width = array.shape[1] if array.ndim > 1 else 1
        return signature.missing(signature.required, list(range(width)) if array.size else [])
    try:
        _convert(data, first)
    except WireError:
        return invalid_input(_NO_VALUE.format(data, column_text(first)))
    return signature.missing(signature.required, [0])


def _stacked(values: list[Any]) -> Any:
    if any(isinstance(value, list | np.ndarray) for value in values):
        return np.array([np.asarray(value, object).tolist() for value in values], object)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _of_arrays(arrays: dict[str, Any], signature: Signature) -> _Arrays:
    """As `pandas.DataFrame(arrays)`: single values are for every row."""
    lengths = {len(values) for values in arrays.values() if isinstance(values, np.ndarray) and values.ndim}
    if len(lengths) > 1:
        raise signature.refusal(_NO_FRAME.format(LENGTHS))
    return arrays, lengths.pop() if lengths else min(len(arrays), 1)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic | np.ndarray) else value


def _refuse_unsafe(values: Sequence[Any], column: Column, signature: Signature) -> None:
    wanted = FORMS[column.type]
    if any(isinstance(value, list) for value in values):
        if column.type in (ColumnType.STRING, ColumnType.BOOLEAN):
            raise ModelRefusesError
        if wanted.bound:
            raise signature.unsafe(column, "object", wanted.pandas_name, "holds a list")
        raise signature.refusal("Invalid object type at position 0", RowError(-1, column.name, "holds a list"))
    if wanted.bound and any(isinstance(value, float) for value in values):
        raise signature.unsafe(column, "float64", wanted.pandas_name, "has no value in some rows", hints=True)
