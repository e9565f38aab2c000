"""Parquet as MLflow takes it: `pandas.read_parquet`, then a frame checked against the signature; without pandas.

What JSON's formats have cast, a frame has to be already: here stand the rules of `mlflow.models.utils`
(`_enforce_mlflow_datatype`): a type may become a wider one of its kind, and no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.errors import RowError
from feedback_loop.schema.budget import Budget
from feedback_loop.schema.column_types import FORMS, arrow_type
from feedback_loop.schema.contract import Column, ColumnType
from feedback_loop.schema.files.parquet import unpacked
from feedback_loop.schema.protocol.enforcing import Signature
from feedback_loop.schema.protocol.frames import by_place
from feedback_loop.schema.protocol.rows import Content
from feedback_loop.schema.protocol.wire import bad_request, refused_by_model
from feedback_loop.schema.values import REFUSALS, ModelRefusesError, as_pandas

_NOT_PARQUET = (
    "Failed to parse input as a Pandas DataFrame. Ensure that the input is a valid Parquet Pandas DataFrame "
    "produced using the `pandas.DataFrame.to_parquet()` method. Error: '{}'"
)


def read_parquet(body: bytes, signature: Signature, budget: Budget) -> Content:
    """The features in their types, and the caller's own columns as they are, of a file.

    Raises WireError and TooLarge.
    """
    own = signature.own_names
    wanted = None if signature.width is not None else {*signature.names, *own}
    try:
        table, names = unpacked(body, wanted, budget)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise bad_request(_NOT_PARQUET.format(error)) from error
    if signature.width is not None:
        return _tensor(table, names, signature)
    signature.refuse_missing(dict.fromkeys(names))
    columns: dict[Any, Sequence[Any]] = {name: table.column(name).to_pylist() for name in own if name in names}
    for column in signature.features:
        if column.name in names:
            columns[column.name] = _enforced(table.column(column.name), column, signature)
    return Content(table.num_rows, columns)


_NO_NUMBERS = ("object", "category", "str", "datetime64", "timedelta64")
"""What the names of pandas' types begin with that never become a number's or a boolean's."""


def _pandas_type(values: pa.ChunkedArray) -> str:
    """The type that a column has in a frame of pandas."""
    kind = values.type
    if pa.types.is_timestamp(kind):
        return f"datetime64[{kind.unit}{f', {kind.tz}' if kind.tz else ''}]"
    if pa.types.is_integer(kind) and values.null_count:
        return "float64"
    if (
        pa.types.is_floating(kind)
        or pa.types.is_integer(kind)
        or (pa.types.is_boolean(kind) and not values.null_count)
    ):
        return str(np.dtype(kind.to_pandas_dtype()))
    if pa.types.is_dictionary(kind):
        return "category"
    if pa.types.is_duration(kind):
        return f"timedelta64[{kind.unit}]"
    return "str" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else "object"


def _enforced(values: pa.ChunkedArray, column: Column, signature: Signature) -> list[Any]:
    """A feature's values, if pandas' type of them is the column's or may become it; raises WireError."""
    given = _pandas_type(values)
    if given == "str" and column.type is ColumnType.STRING:
        return _cast(values, column)
    if given == "object" and column.type in _FROM_OBJECTS:
        return _of_objects(values, column, signature)
    if given.startswith("datetime64") and column.type is ColumnType.DATETIME:
        return _cast(values, column)
    wanted = FORMS[column.type].dtype
    if given.startswith(_NO_NUMBERS) or not _may_become(values, np.dtype(given), wanted):
        hints = wanted.kind == "i" and given == "float64" and _lacks_whole_numbers(values)
        raise signature.unsafe(column, given, wanted, f"does not fit the type {column.type}", hints=hints)
    return _cast(values, column)


def _cast(values: pa.ChunkedArray, column: Column) -> list[Any]:
    plain: list[Any] = values.cast(arrow_type(column.type), safe=False).to_pylist()
    return plain


_FROM_OBJECTS = {
    ColumnType.BOOLEAN: (pa.types.is_boolean,),
    ColumnType.DOUBLE: (pa.types.is_decimal, pa.types.is_boolean),
    ColumnType.DATETIME: (pa.types.is_date,),
    ColumnType.STRING: (),
}
"""What pandas has as objects, and MLflow takes for such a column all the same."""


def _of_objects(values: pa.ChunkedArray, column: Column, signature: Signature) -> list[Any]:
    if pa.types.is_null(values.type) or any(fits(values.type) for fits in _FROM_OBJECTS[column.type]):
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        return _cast(values, column)
    if column.type is ColumnType.STRING:
        try:
            return as_pandas(values.to_pylist(), column.type)
        except ModelRefusesError:
            raise refused_by_model("a text column holds a list or an object") from None
    if column.type is ColumnType.BOOLEAN:
        raise refused_by_model("a boolean column holds something else")
    cause = f"Failed to convert column {column.name} from type object to DataType.{column.type}."
    if column.type is ColumnType.DOUBLE:
        cause = f"Invalid object type at position {pc.index(values.is_valid(), value=True).as_py()}"
    raise signature.refusal(cause, RowError(-1, column.name, f"does not fit the type {column.type}"))


def _may_become(values: pa.ChunkedArray, given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    if given == wanted:
        return True
    if given.kind == wanted.kind:
        return given.itemsize <= wanted.itemsize
    if given.kind == "u" and wanted.kind == "i":
        return given.itemsize < wanted.itemsize
    if given.kind in "iu" and wanted == np.float64 and given.itemsize <= 4:
        return True
    return given == np.int64 and wanted.kind == "f" and set(pc.unique(values).to_pylist()) <= {0, 1}


def _lacks_whole_numbers(values: pa.ChunkedArray) -> bool:
    numbers = values.cast(pa.float64(), safe=False).to_numpy()
    there = numbers[~np.isnan(numbers)]
    return len(there) < len(numbers) and bool((there == np.trunc(there)).all())


def _tensor(table: pa.Table, names: Sequence[str], signature: Signature) -> Content:
    """Columns as they come, if together they are an array of the tensor's type."""
    content = Content(table.num_rows, {name: table.column(name).to_pylist() for name in names})
    columns, own = by_place(content, signature), signature.own_names
    wanted = FORMS[signature.features[0].type].dtype
    kinds = {_pandas_type(table.column(name)) for name in names if name not in own}
    is_plain = not any(kind.startswith(_NO_NUMBERS) for kind in kinds)
    given = np.result_type(*kinds) if is_plain else np.dtype(object)
    if signature.width != 1 and given != wanted:
        cause = f"dtype of input {given} does not match expected dtype {wanted}"
        raise signature.refusal(cause, RowError(-1, "body", f"is {given}, where {wanted} is expected"))
    typed = {name: columns[name] for name in own if name in columns}
    try:
        typed |= {column.name: as_pandas(columns[column.name], column.type) for column in signature.features}
    except REFUSALS as error:
        raise signature.refusal(str(error)) from error
    return Content(table.num_rows, typed)
