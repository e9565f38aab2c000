"""`dataframe_records` and `dataframe_split` by pandas' rules: frames made of lists and objects, columns cast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feedback_loop.errors import RowError
from feedback_loop.schema.budget import Budget, first_repeated
from feedback_loop.schema.contract import Column
from feedback_loop.schema.protocol.frame import (
    ABSENT,
    LENGTHS,
    Frame,
    RepeatedError,
    Signature,
    refuse_missing,
    wrong_shape,
)
from feedback_loop.schema.protocol.values import PANDAS_NAMES, REFUSALS, as_pandas
from feedback_loop.schema.protocol.wire import WireError, invalid_input


def read_records(data: Any, budget: Budget) -> Frame:
    """As pandas' orientation "records"; raises WireError."""
    if not isinstance(data, list):
        said = "dictionary" if isinstance(data, dict) else f"type {type(data)}"
        raise invalid_input(f"Dataframe records format must be a list of records. Got {said}.")
    try:
        return _frame_of_list(data, None, budget)
    except REFUSALS as error:
        raise _no_frame("dataframe_records", error) from error


def read_split(data: Any, budget: Budget) -> Frame:
    """As pandas' orientation "split"; raises WireError, and RepeatedError where two columns have one name."""
    if not isinstance(data, dict):
        said = "list" if isinstance(data, list) else f"type {type(data)}"
        raise invalid_input(f"Dataframe split format must be a dictionary. Got {said}.")
    keys = set(data)
    if "data" not in keys or keys - {"columns", "data", "index"}:
        raise invalid_input(
            f"Dataframe split format must have 'data' field and optionally 'columns' and 'index' fields. Got {keys}.'"
        )
    try:
        frame = _split_frame(data["data"], data.get("columns"), budget)
        if data.get("index") is not None and len(data["index"]) != frame.count:
            said = f"Length of values ({frame.count}) does not match length of index ({len(data['index'])})"
            raise ValueError(said)
    except REFUSALS as error:
        raise _no_frame("dataframe_split", error) from error
    return frame


def _split_frame(data: Any, names: Any, budget: Budget) -> Frame:
    if names is not None and not isinstance(names, list):
        raise TypeError(f"Index(...) must be called with a collection of some kind, {names!r} was passed")
    if names is not None and (repeated := first_repeated(map(repr, names))) is not None:
        raise RepeatedError(next(name for name in names if repr(name) == repeated))
    if isinstance(data, dict):
        lists = {name: values if isinstance(values, list) else [values] for name, values in data.items()}
        if len({len(values) for values in lists.values()}) > 1:
            raise ValueError(LENGTHS)
        count = len(next(iter(lists.values()), []))
        wanted = lists if names is None else names
        budget.check_rows(count)
        budget.check_cells(count, len(wanted))
        return Frame({name: lists.get(name, [ABSENT] * count) for name in wanted}, count)
    if data is None:
        return Frame({_hashable(name): [] for name in names or []}, 0)
    if not isinstance(data, list):
        raise TypeError("DataFrame constructor not properly called!")
    return _frame_of_list(data, names, budget)


def _frame_of_list(rows: list[Any], names: list[Any] | None, budget: Budget) -> Frame:
    """As `pandas.DataFrame(rows, columns=names)`."""
    budget.check_rows(len(rows))
    if rows and isinstance(rows[0], dict):
        for row in rows:
            if not isinstance(row, dict):
                raise TypeError(f"{type(row).__name__!r} object is not iterable")
        wanted = names if names is not None else dict.fromkeys(name for row in rows for name in row)
        budget.check_cells(len(rows), len(wanted))
        return Frame({_hashable(name): [row.get(name, ABSENT) for row in rows] for name in wanted}, len(rows))
    if rows and isinstance(rows[0], list):
        width = max(len(row) for row in rows)
        budget.check_cells(len(rows), width)
        if names is not None and len(names) != width:
            raise ValueError(f"{len(names)} columns passed, passed data had {width} columns")
        filled = [row if len(row) == width else [*row, *[None] * (width - len(row))] for row in rows]
        named = names if names is not None else range(width)
        return Frame(dict(zip(map(_hashable, named), map(list, zip(*filled, strict=True)), strict=False)), len(rows))
    if not rows:
        return Frame({_hashable(name): [] for name in names or []}, 0)
    if names is not None and len(names) != 1:
        raise ValueError(f"Shape of passed values is ({len(rows)}, 1), indices imply ({len(rows)}, {len(names)})")
    return Frame({_hashable(names[0]) if names else 0: rows}, len(rows))


def _hashable(name: Any) -> Any:
    return repr(name) if isinstance(name, list | dict) else name


def _no_frame(kind: str, error: Exception) -> WireError:
    orient = kind.removeprefix("dataframe_")
    return invalid_input(
        f"Provided {kind} field is not a valid dataframe representation in '{orient}' format. Error: '{error}'"
    )


def converted_frame(frame: Frame, signature: Signature, own: Sequence[str]) -> Frame:
    """The features in their types, and the caller's own columns; raises WireError."""
    known = set(signature.names)
    columns = {str(name) if str(name) in known else name: values for name, values in frame.columns.items()}
    if signature.width is not None:
        columns = by_place(frame, signature, own)
    found: dict[Any, Sequence[Any]] = {name: columns[name] for name in own if name in columns}
    for column in signature.features:
        if column.name in columns:
            found[column.name] = converted_column(columns[column.name], column)
    refuse_missing(signature, columns, own)
    return Frame(found, frame.count)


def converted_column(values: Sequence[Any], column: Column) -> list[Any]:
    """A feature's values as pandas casts them; raises WireError."""
    try:
        return as_pandas(values, column.type, required=column.required)
    except REFUSALS as error:
        raise invalid_input(
            f"Data is not compatible with model signature. Failed to convert column {column.name} to type "
            f"'{PANDAS_NAMES[column.type]}'. Error: '{error!r}'",
            RowError(-1, column.name, f"does not fit the type {column.type}"),
        ) from error


def by_place(frame: Frame, signature: Signature, own: Sequence[str]) -> dict[Any, Sequence[Any]]:
    """A tensor's columns have no names: they are taken as they come."""
    columns = {name: values for name, values in frame.columns.items() if name not in own}
    if len(columns) != signature.width:
        shape = (frame.count, len(columns))
        raise wrong_shape(signature, shape)
    given = {name: values for name, values in frame.columns.items() if name in own}
    return {**dict(zip(signature.names, columns.values(), strict=True)), **given}
