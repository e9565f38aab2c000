"""CSV as MLflow reads it (`pandas.read_csv`, with the signature's types), without pandas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from feedback_loop.errors import Problem
from feedback_loop.schema.contract import Column, ColumnType
from feedback_loop.schema.protocol.frame import Frame, Signature, refuse_missing
from feedback_loop.schema.protocol.values import INTEGERS, REFUSALS, as_pandas, parse_text
from feedback_loop.schema.protocol.wire import WireError, bad_request, invalid_input

MISSING = frozenset(
    {
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
        "",
    }
)
"""What pandas takes for a missing value, in any column."""

_NOT_CSV = (
    "Failed to parse input as a Pandas DataFrame. Ensure that the input is a valid CSV-formatted Pandas DataFrame "
    "produced using the `pandas.DataFrame.to_csv()` method. Error: '{}'"
)
_UNSAFE = "cannot safely convert passed user dtype of {} for {} dtyped data in column {}"
_NO_TENSORS = "TensorSpec only supports numpy types, use numpy_types() instead"
_BOOLEANS = {text: text.lower() == "true" for text in ("true", "True", "TRUE", "false", "False", "FALSE")}
_MOST_FIELD_BYTES = 2**30  # the body's limit is the limit


def read_csv(body: bytes, signature: Signature, own: Sequence[str], keys: Sequence[Column]) -> Frame:
    """The features (in their types) and the caller's `own` columns of a CSV with a header; raises WireError."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        shown = body[:2000]
        said = f"UnicodeDecodeError('utf-8', {shown!r}, {error.start}, {error.end}, {error.reason!r})"
        raise invalid_input(f"Ensure that input is a valid UTF-8 encoded string. Error: '{said}'") from error
    if signature.width is not None:
        raise _not_csv(_NO_TENSORS)
    columns, count = _columns(text.removeprefix("\ufeff"))
    places = {name: place for place, name in enumerate(columns)}
    found: dict[Any, Sequence[Any]] = {}
    for column in signature.features:
        if column.name in columns:
            found[column.name] = _converted(columns[column.name], column, places[column.name])
    types = {column.name: column.type for column in keys}
    for name in own:
        if name in columns:
            found[name] = _own_column(columns[name], name, types.get(name, ColumnType.STRING))
    refuse_missing(signature, columns, own)
    return Frame(found, count)


def _not_csv(cause: object, *problems: Problem) -> WireError:
    return bad_request(_NOT_CSV.format(cause), *problems)


def _columns(text: str) -> tuple[dict[str, list[str | None]], int]:
    """Columns of text, None where a value is missing."""
    rows = _rows(text)
    if not rows:
        raise _not_csv("No columns to parse from file")
    names, rows = rows[0][1], rows[1:]
    ahead = max(0, len(rows[0][1]) - len(names)) if rows else 0  # an index that has no name
    width = len(names) + ahead
    for line, row in rows:
        if len(row) > width:
            raise _not_csv(
                f"Error tokenizing data. C error: Expected {width} fields in line {line}, saw {len(row)}\n"
            )
    filled = [row if len(row) == width else [*row, *[""] * (width - len(row))] for _, row in rows]
    values = [[None if value in MISSING else value for value in column] for column in zip(*filled, strict=True)]
    values = values[ahead:] or [[] for _ in names]
    columns: dict[str, list[str | None]] = {}
    for name, column in zip(names, values, strict=True):
        columns.setdefault(name, column)  # of two of one name pandas renames the second
    return columns, len(rows)


def _rows(text: str) -> list[tuple[int, list[str]]]:
    """Each row with the number of its line, blank lines left out."""
    csv.field_size_limit(_MOST_FIELD_BYTES)
    lines = re.split("\r\n|\r|\n", text) if '"' not in text else None
    reader = csv.reader(lines if lines is not None else io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        rows.extend((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            said = f"Error tokenizing data. C error: EOF inside string starting at row {len(rows)}"
            raise _not_csv(said) from error
        raise _not_csv(f"Error tokenizing data. C error: {error}") from error
    return rows


def _converted(values: Sequence[str | None], column: Column, place: int) -> list[Any]:
    kind = column.type
    try:
        if kind is ColumnType.STRING:
            return list(values)
        if kind is ColumnType.DATETIME:
            return as_pandas(values, kind)
        if kind is ColumnType.BOOLEAN:
            return _booleans(values, place)
        if kind in INTEGERS:
            return _integers(values, INTEGERS[kind], place)
        return [float("nan") if value is None else _float(value, place) for value in values]
    except REFUSALS as error:
        raise _not_csv(error, Problem(-1, column.name, f"does not fit the type {kind}")) from error


def _float(value: str, place: int) -> float:
    if "_" in value:
        raise ValueError(_UNSAFE.format("float64", "object", place))
    if value in _BOOLEANS:
        return float(_BOOLEANS[value])
    return float(value)


def _integers(values: Sequence[str | None], bound: int, place: int) -> list[int]:
    if None in values:
        raise ValueError(f"Integer column has NA values in column {place}")
    found = [_integer(str(value), place) for value in values]
    if not all(-bound <= value < bound for value in found):
        raise ValueError("Overflow")
    return found


def _integer(value: str, place: int) -> int:
    if "_" in value:
        raise ValueError(f"invalid literal for int() with base 10: {value!r}")
    try:
        return int(value)
    except ValueError:
        try:
            number = float(value)
        except ValueError:
            number = None
        if number is None:
            raise
        if not number.is_integer():
            raise ValueError(_UNSAFE.format("int64", "float64", place)) from None
        return int(number)


def _booleans(values: Sequence[str | None], place: int) -> list[bool]:
    if None in values:
        raise ValueError(f"Bool column has NA values in column {place}")
    if all(value in _BOOLEANS for value in values):
        return [_BOOLEANS[str(value)] for value in values]
    if any(value in _BOOLEANS for value in values):
        raise ValueError(_UNSAFE.format("bool", "object", place))
    try:
        return [bool(float(str(value))) for value in values]
    except ValueError:
        raise ValueError(_UNSAFE.format("bool", "object", place)) from None


def _own_column(values: Sequence[str | None], name: str, kind: ColumnType) -> list[Any]:
    try:
        return [None if value is None else parse_text(value, kind) for value in values]
    except REFUSALS as error:
        raise _not_csv(error, Problem(-1, name, f"does not fit the type {kind}")) from error
