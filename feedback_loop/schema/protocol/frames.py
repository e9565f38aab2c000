"""`dataframe_records`, `dataframe_split` and CSV by pandas' rules: frames of lists, objects or text, columns cast."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from feedback_loop.errors import RowError
from feedback_loop.schema.budget import Budget, first_repeated
from feedback_loop.schema.column_types import FORMS
from feedback_loop.schema.contract import Column, ColumnType
from feedback_loop.schema.files.csv import CsvError, csv_columns
from feedback_loop.schema.protocol.enforcing import ABSENT, LENGTHS, Signature
from feedback_loop.schema.protocol.rows import Content
from feedback_loop.schema.protocol.wire import WireError, bad_request, invalid_input
from feedback_loop.schema.values import REFUSALS, UnsafeError, as_pandas, parse_text

_NOT_CSV = (
    "Failed to parse input as a Pandas DataFrame. Ensure that the input is a valid CSV-formatted Pandas DataFrame "
    "produced using the `pandas.DataFrame.to_csv()` method. Error: '{}'"
)
_NO_TENSORS = "TensorSpec only supports numpy types, use numpy_types() instead"


def read_records(data: Any, budget: Budget) -> Content:
    """As pandas' orientation "records"; raises WireError."""
    if not isinstance(data, list):
        kind = "dictionary" if isinstance(data, dict) else f"type {type(data)}"
        raise invalid_input(f"Dataframe records format must be a list of records. Got {kind}.")
    try:
        return _of_list(data, None, budget)
    except REFUSALS as error:
        raise _no_frame("records", error) from error


def read_split(data: Any, signature: Signature, budget: Budget) -> Content:
    """As pandas' orientation "split"; raises WireError."""
    if not isinstance(data, dict):
        kind = "list" if isinstance(data, list) else f"type {type(data)}"
        raise invalid_input(f"Dataframe split format must be a dictionary. Got {kind}.")
    keys = set(data)
    if "data" not in keys or keys - {"columns", "data", "index"}:
        raise invalid_input(
            f"Dataframe split format must have 'data' field and optionally 'columns' and 'index' fields. Got {keys}.'"
        )
    names, index = data.get("columns"), data.get("index")
    if isinstance(names, list) and (repeated := first_repeated(map(repr, names))) is not None:
        name = next(name for name in names if repr(name) == repeated)
        problem = RowError(-1, str(name), "is there twice")
        raise signature.refusal("'DataFrame' object has no attribute 'dtype'", problem)
    try:
        content = _of_split(data["data"], names, budget)
        if index is not None and len(index) != content.count:
            raise ValueError(f"Length of values ({content.count}) does not match length of index ({len(index)})")
    except REFUSALS as error:
        raise _no_frame("split", error) from error
    return content


def read_csv(body: bytes, signature: Signature, budget: Budget) -> Content:
    """The features and the caller's own columns, in their types, of a CSV with a header.

    Raises WireError and TooLarge.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        shown = f"UnicodeDecodeError('utf-8', {body[:2000]!r}, {error.start}, {error.end}, {error.reason!r})"
        raise invalid_input(f"Ensure that input is a valid UTF-8 encoded string. Error: '{shown}'") from error
    if signature.width is not None:
        raise bad_request(_NOT_CSV.format(_NO_TENSORS))
    try:
        columns = csv_columns(io.StringIO(text.removeprefix("\ufeff"), newline=""), budget)
    except CsvError as error:
        raise bad_request(_NOT_CSV.format(error)) from error
    wanted = {column.name: column for column in (*signature.features, *signature.own)}
    parsed: dict[Any, Sequence[Any]] = {
        name: _parsed(values, wanted[name], place)
        for place, (name, values) in enumerate(columns.items())
        if name in wanted
    }
    signature.refuse_missing(columns)
    return Content(len(next(iter(columns.values()), ())), parsed)


def converted(frame: Content, signature: Signature) -> Content:
    """The features in their types, and the caller's own columns as they are; raises WireError."""
    names = set(signature.names)
    columns = {str(name) if str(name) in names else name: values for name, values in frame.columns.items()}
    if signature.width is not None:
        columns = by_place(frame, signature)
    typed = {name: columns[name] for name in signature.own_names if name in columns}
    for column in signature.features:
        if column.name in columns:
            typed[column.name] = _cast(columns[column.name], column)
    signature.refuse_missing(columns)
    return Content(frame.count, typed)


def by_place(frame: Content, signature: Signature) -> dict[Any, Sequence[Any]]:
    """A tensor's columns have no names and are taken as they come, unless the configuration names all of them."""
    own = signature.own_names
    columns = {name: values for name, values in frame.columns.items() if name not in own}
    if len(columns) != signature.width:
        raise signature.wrong_shape((frame.count, len(columns)))
    kept = {name: values for name, values in frame.columns.items() if name in own}
    if columns.keys() == set(signature.names):
        return {**columns, **kept}
    return {**dict(zip(signature.names, columns.values(), strict=True)), **kept}


def _cast(values: Sequence[Any], column: Column) -> list[Any]:
    try:
        return as_pandas(values, column.type, required=column.required)
    except REFUSALS as error:
        raise invalid_input(
            f"Data is not compatible with model signature. Failed to convert column {column.name} to type "
            f"'{FORMS[column.type].pandas_name}'. Error: '{error!r}'",
            RowError(-1, column.name, f"does not fit the type {column.type}"),
        ) from error


def _parsed(values: Sequence[str | None], column: Column, place: int) -> list[Any]:
    kind = column.type
    try:
        if column.required and None in values and (FORMS[kind].bound or kind is ColumnType.BOOLEAN):
            name = "Bool" if kind is ColumnType.BOOLEAN else "Integer"
            raise ValueError(f"{name} column has NA values in column {place}")
        return [None if value is None else parse_text(value, kind) for value in values]
    except REFUSALS as error:
        cause = f"{error} in column {place}" if isinstance(error, UnsafeError) else error
        problem = RowError(-1, column.name, f"does not fit the type {kind}")
        raise bad_request(_NOT_CSV.format(cause), problem) from error


def _of_split(data: Any, names: Any, budget: Budget) -> Content:
    if names is not None and not isinstance(names, list):
        raise TypeError(f"Index(...) must be called with a collection of some kind, {names!r} was passed")
    if isinstance(data, dict):
        lists = {name: values if isinstance(values, list) else [values] for name, values in data.items()}
        if len({len(values) for values in lists.values()}) > 1:
            raise ValueError(LENGTHS)
        count = len(next(iter(lists.values()), []))
        wanted = lists if names is None else names
        budget.check_rows(count)
        budget.check_cells(count, len(wanted))
        return Content(count, {name: lists.get(name, [ABSENT] * count) for name in wanted})
    if data is not None and not isinstance(data, list):
        raise TypeError("DataFrame constructor not properly called!")
    return _of_list(data or [], names, budget)


def _of_list(rows: list[Any], names: list[Any] | None, budget: Budget) -> Content:
    """As `pandas.DataFrame(rows, columns=names)`."""
    budget.check_rows(len(rows))
    if not rows:
        return Content(0, {_hashable(name): [] for name in names or []})
    if isinstance(rows[0], dict):
        for row in rows:
            if not isinstance(row, dict):
                raise TypeError(f"{type(row).__name__!r} object is not iterable")
        wanted = names if names is not None else dict.fromkeys(name for row in rows for name in row)
        budget.check_cells(len(rows), len(wanted))
        return Content(len(rows), {_hashable(name): [row.get(name, ABSENT) for row in rows] for name in wanted})
    if isinstance(rows[0], list):
        width = max(len(row) for row in rows)
        budget.check_cells(len(rows), width)
        if names is not None and len(names) != width:
            raise ValueError(f"{len(names)} columns passed, passed data had {width} columns")
        filled = [row if len(row) == width else [*row, *[None] * (width - len(row))] for row in rows]
        named = map(_hashable, names if names is not None else range(width))
        return Content(len(rows), dict(zip(named, map(list, zip(*filled, strict=True)), strict=False)))
    if names is not None and len(names) != 1:
        raise ValueError(f"Shape of passed values is ({len(rows)}, 1), indices imply ({len(rows)}, {len(names)})")
    return Content(len(rows), {_hashable(names[0]) if names else 0: rows})


def _hashable(name: Any) -> Any:
    return repr(name) if isinstance(name, list | dict) else name


def _no_frame(orient: str, error: Exception) -> WireError:
    return invalid_input(
        f"Provided dataframe_{orient} field is not a valid dataframe representation in '{orient}' format. "
        f"Error: '{error}'"
    )
