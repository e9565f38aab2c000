"""Data from outside into the types of a contract: all good, or every bad row by its number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from feedback_loop.errors import BadInput, RowError
from feedback_loop.schema.bounds import EARLIEST_MOMENT, LATEST_MOMENT, MOST_INDEXED_BYTES, OUT_OF_TIME, TOO_LONG
from feedback_loop.schema.column_types import FORMS, arrow_type
from feedback_loop.schema.contract import Column, ColumnType
from feedback_loop.schema.tabular import as_table, by_kind, inferred
from feedback_loop.schema.values import REFUSALS, parse_text

_log = structlog.get_logger(__name__)


def coerce(table: pa.Table, columns: Iterable[Column], *, text: bool = False) -> pa.Table:
    """The wanted columns of `table`, in their types and order; others are left out.

    Widening that loses nothing is done (integers to doubles, whole doubles and decimals to integers); NaN is
    missing, and so is an empty text in a key's column. Moments of nanoseconds, which any arithmetic of pandas makes,
    are cut to microseconds, but for a key's: two keys would become one. With `text`, strings are parsed (for CSV).
    Raises BadInput with each column that is missing or there twice and each row that does not fit.
    """
    problems: list[RowError] = []
    arrays = []
    wanted = list(columns)
    for column in wanted:
        if column.name not in table.column_names:
            if column.required:
                problems.append(RowError(-1, column.name, f"is missing; its type is {column.type}"))
            arrays.append(pa.nulls(table.num_rows, arrow_type(column.type)))
            continue
        if table.column_names.count(column.name) > 1:
            problems.append(RowError(-1, column.name, "is there twice"))
            continue
        values = table.column(column.name)
        if column.type is ColumnType.DATETIME and not column.is_key:
            values = _in_microseconds(values, column.name)
        converted, wrong = _checked(values, column, text=text)
        problems.extend(wrong)
        if converted is None:
            continue
        if column.type is ColumnType.STRING and column.is_key:
            converted = pc.if_else(pc.equal(converted, ""), pa.scalar(None, converted.type), converted)
        arrays.append(converted)
    if problems:
        raise BadInput(problems, cure="Nothing was taken.")
    return pa.table(arrays, names=[column.name for column in wanted])


_cut: set[str] = set()
"""Columns of which this process has told that their nanoseconds are cut: once is enough."""


def _in_microseconds(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Moments without the nanoseconds that they have beside their microseconds; anything else as it is."""
    if not pa.types.is_timestamp(values.type) or values.type.unit != "ns":
        return values
    cut = pc.floor_temporal(values, unit="microsecond")
    if name not in _cut and pc.any(pc.not_equal(values, cut)).as_py():
        _cut.add(name)
        _log.warning("nanoseconds_cut", column=name, kept="microseconds")
    return cut


def with_booleans(table: pa.Table, columns: Iterable[Column]) -> pa.Table:
    """The table with the 0 and 1 of such columns as booleans: databases and files that have none hold these."""
    for column in columns:
        if column.type is not ColumnType.BOOLEAN or column.name not in table.column_names:
            continue
        values = table.column(column.name)
        if pa.types.is_integer(values.type) and pc.all(pc.is_in(values, pa.array([0, 1, None], values.type))).as_py():
            booleans = values.cast(pa.bool_())
        elif any(fits(values.type) for fits in (pa.types.is_integer, pa.types.is_decimal, pa.types.is_union)):
            booleans = inferred([_as_boolean(value) for value in values.to_pylist()])
        else:
            continue
        table = table.set_column(table.column_names.index(column.name), column.name, booleans)
    return table


def _as_boolean(value: object) -> object:
    return bool(value) if isinstance(value, int | Decimal) and value in (0, 1) else value


def array_of(name: str, values: Sequence[object], kind: ColumnType) -> pa.Array:
    """Plain Python values (from JSON) as one typed column; raises BadInput with the rows that do not fit."""
    return coerce(as_table({name: values}), [Column(name, kind, required=False)]).column(0).combine_chunks()


def _converted(values: pa.ChunkedArray, kind: ColumnType, *, text: bool) -> pa.ChunkedArray | None:
    """The values in that type, or None where one of them does not fit."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_union(values.type):
        return _converted_by_kind(values, kind, text=text)
    target = arrow_type(kind)
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    if values.null_count == len(values):  # whatever type a library gave to nothing at all
        return pa.chunked_array([pa.nulls(len(values), target)])
    if _may_become(values.type, kind, text=text):
        try:
            return _cast(values, kind, target)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return None
    return None


def _converted_by_kind(values: pa.ChunkedArray, kind: ColumnType, *, text: bool) -> pa.ChunkedArray | None:
    merged: list[Any] = [None] * len(values)
    for places, group in by_kind(values.to_pylist()):
        converted = _converted(pa.chunked_array([group]), kind, text=text)
        if converted is None:
            return None
        for place, value in zip(places, converted.to_pylist(), strict=True):
            merged[place] = value
    return pa.chunked_array([pa.array(merged, arrow_type(kind))])


def _cast(values: pa.ChunkedArray, kind: ColumnType, target: pa.DataType) -> pa.ChunkedArray:
    source = values.type
    if _is_text(source) and kind is not ColumnType.STRING:
        values = _parsed(values, kind)
    if pa.types.is_timestamp(source) and source.tz is None:
        values = values.cast(pa.timestamp(source.unit, "UTC"))
    cast = values.cast(target)
    if kind is ColumnType.FLOAT and pc.any(pc.and_(pc.is_inf(cast), pc.is_finite(values))).as_py():
        raise pa.ArrowInvalid("out of the range of a float")
    return cast


def _may_become(source: pa.DataType, kind: ColumnType, *, text: bool) -> bool:
    if _is_text(source):
        return text or kind in (ColumnType.STRING, ColumnType.DATETIME)
    if kind is ColumnType.BOOLEAN:
        return bool(pa.types.is_boolean(source))
    if kind is ColumnType.DATETIME:
        return bool(pa.types.is_timestamp(source) or pa.types.is_date(source))
    is_number = pa.types.is_integer(source) or pa.types.is_floating(source) or pa.types.is_decimal(source)
    return kind.is_numeric and bool(is_number)


def _parsed(values: pa.ChunkedArray, kind: ColumnType) -> pa.ChunkedArray:
    try:
        parsed = [None if text is None else parse_text(text, kind) for text in values.to_pylist()]
    except REFUSALS as error:
        raise pa.ArrowInvalid(str(error)) from error
    wide = ColumnType.DOUBLE if kind is ColumnType.FLOAT else kind  # what is too large for a float is seen after
    return pa.chunked_array([pa.array(parsed, arrow_type(wide))])


def _no_texts(values: pa.ChunkedArray, column: Column) -> list[RowError]:
    """The rows whose text PostgreSQL could not hold, or not in an index."""
    nul = "holds a NUL character, which no database of ours can store"
    problems = [RowError(row, column.name, nul) for row in _where(pc.match_substring(values, "\0"))]
    if column.is_indexed:
        too_long = pc.greater(pc.binary_length(values), MOST_INDEXED_BYTES)
        problems += [RowError(row, column.name, TOO_LONG) for row in _where(too_long)]
    return problems


def _out_of_time(values: pa.ChunkedArray, column: Column) -> list[RowError]:
    """The rows whose moment could not be read back."""
    bounds = [pa.scalar(moment, values.type) for moment in (EARLIEST_MOMENT, LATEST_MOMENT)]
    outside = pc.or_(pc.less(values, bounds[0]), pc.greater(values, bounds[1]))
    return [RowError(row, column.name, OUT_OF_TIME) for row in _where(outside)]


def _where(mask: pa.ChunkedArray) -> list[int]:
    if not pc.any(mask).as_py():
        return []
    return [row for row, is_so in enumerate(mask.to_pylist()) if is_so]


def misfits(values: pa.ChunkedArray, column: Column, *, text: bool = False) -> list[RowError]:
    """What `coerce` says of a column's rows, however many there are: an error keeps only the first."""
    return _checked(values, column, text=text)[1]


def _checked(values: pa.ChunkedArray, column: Column, *, text: bool) -> tuple[pa.ChunkedArray | None, list[RowError]]:
    """The values in the column's type (None where they don't fit), and what is wrong with which rows."""
    converted = _converted(values, column.type, text=text)
    if converted is None:
        return None, _misfits(values, column, text=text)
    if column.type is ColumnType.DATETIME:
        return converted, _out_of_time(converted, column)
    return converted, _no_texts(converted, column) if column.type is ColumnType.STRING else []


def _misfits(values: pa.ChunkedArray, column: Column, *, text: bool) -> list[RowError]:
    """The rows that keep a column from its type, each with what it holds."""
    rows = _bad_rows(values, column.type, text=text)
    if not rows:
        return [RowError(-1, column.name, f"is {values.type}, which does not fit the type {column.type}")]
    if pa.types.is_union(values.type):
        wrong = [values[row].as_py() for row in rows]
    else:
        refused = values.take(pa.array(rows, pa.int64()))
        if pa.types.is_temporal(refused.type):  # Python may have no such moment
            refused = refused.cast(f"int{refused.type.bit_width}")
        wrong = refused.to_pylist()
    cause = f"does not fit the type {column.type}"
    return [RowError(row, column.name, f"{_quoted(value)} {cause}") for row, value in zip(rows, wrong, strict=True)]


def _quoted(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


_MOST_SHOWN = 200
"""Letters of a value that are told to whoever gave it."""


def _bad_rows(values: pa.ChunkedArray, kind: ColumnType, *, text: bool) -> list[int]:
    """The rows that `_converted` can't convert, in their order: found by kinds, for there may be many of them."""
    if pa.types.is_union(values.type):
        groups = [(places, pa.chunked_array([group])) for places, group in by_kind(values.to_pylist())]
        return sorted(places[row] for places, group in groups for row in _bad_rows(group, kind, text=text))
    if _converted(values, kind, text=text) is not None:
        return []
    if not _may_become(values.type, kind, text=text):
        valid = pc.is_valid(values)
        if pa.types.is_floating(values.type):
            valid = pc.and_(valid, pc.invert(pc.is_nan(values).fill_null(True)))
        return [int(row) for row in np.flatnonzero(valid.to_numpy())]
    if _is_text(values.type):
        return [row for row, value in enumerate(values.to_pylist()) if not _is_parsed(value, kind)]
    bound = FORMS[kind].bound
    if bound and (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        return _no_integers(values, bound)
    middle = len(values) // 2
    parts = [(start, values.slice(start, length)) for start, length in ((0, middle), (middle, len(values) - middle))]
    return [start + row for start, part in parts for row in _bad_rows(part, kind, text=text)] if middle else [0]


def _no_integers(values: pa.ChunkedArray, bound: int) -> list[int]:
    numbers = values.fill_null(0).to_numpy()
    bad = (numbers < -bound) | (numbers >= bound)
    if pa.types.is_floating(values.type):
        bad |= (numbers != np.trunc(numbers)) & ~np.isnan(numbers)
    return [int(row) for row in np.flatnonzero(bad)]


_FLOAT_BOUND = 2.0**128 - 2.0**103
"""What rounds to infinity as a float."""


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_parsed(text: str | None, kind: ColumnType) -> bool:
    try:
        value = None if text is None else parse_text(text, kind)
    except REFUSALS:
        return False
    return kind is not ColumnType.FLOAT or value is None or math.isinf(value) or abs(value) < _FLOAT_BOUND
