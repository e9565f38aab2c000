"""A body of CSV against a signature, refused in MLflow's words."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from feedback_loop.errors import RowError
from feedback_loop.schema.budget import Budget
from feedback_loop.schema.contract import Column, ColumnType
from feedback_loop.schema.files.csv import CsvError, csv_columns
from feedback_loop.schema.protocol.frame import Frame, Signature, refuse_missing
from feedback_loop.schema.protocol.values import INTEGERS, REFUSALS, UnsafeError, parse_text
from feedback_loop.schema.protocol.wire import WireError, bad_request, invalid_input

_NOT_CSV = (
    "Failed to parse input as a Pandas DataFrame. Ensure that the input is a valid CSV-formatted Pandas DataFrame "
    "produced using the `pandas.DataFrame.to_csv()` method. Error: '{}'"
)
_NO_TENSORS = "TensorSpec only supports numpy types, use numpy_types() instead"


def read_csv(body: bytes, signature: Signature, own: Sequence[str], keys: Sequence[Column], budget: Budget) -> Frame:
    """The features (in their types) and the caller's `own` columns of a CSV with a header.

    Raises WireError and TooLarge.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        shown = body[:2000]
        said = f"UnicodeDecodeError('utf-8', {shown!r}, {error.start}, {error.end}, {error.reason!r})"
        raise invalid_input(f"Ensure that input is a valid UTF-8 encoded string. Error: '{said}'") from error
    if signature.width is not None:
        raise _not_csv(_NO_TENSORS)
    try:
        columns = next(csv_columns(io.StringIO(text.removeprefix("\ufeff"), newline=""), None, budget))
    except CsvError as error:
        raise _not_csv(error) from error
    wanted = {column.name: column for column in (*signature.features, *keys)}
    wanted |= {name: Column(name, ColumnType.STRING, required=False) for name in own if name not in wanted}
    found: dict[Any, Sequence[Any]] = {
        name: _converted(values, wanted[name], place)
        for place, (name, values) in enumerate(columns.items())
        if name in wanted
    }
    refuse_missing(signature, columns, own)
    return Frame(found, len(next(iter(columns.values()), ())))


def _not_csv(cause: object, *problems: RowError) -> WireError:
    return bad_request(_NOT_CSV.format(cause), *problems)


def _converted(values: Sequence[str | None], column: Column, place: int) -> list[Any]:
    kind = column.type
    try:
        if column.required and None in values and (kind in INTEGERS or kind is ColumnType.BOOLEAN):
            name = "Bool" if kind is ColumnType.BOOLEAN else "Integer"
            raise ValueError(f"{name} column has NA values in column {place}")
        return [None if value is None else parse_text(value, kind) for value in values]
    except REFUSALS as error:
        said = f"{error} in column {place}" if isinstance(error, UnsafeError) else error
        raise _not_csv(said, RowError(-1, column.name, f"does not fit the type {kind}")) from error
