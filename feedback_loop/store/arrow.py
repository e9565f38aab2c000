"""Rows of a database as Arrow columns, without a Python object per row surviving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, Select

CHUNK_ROWS = 20_000

UTC_MOMENT = pa.timestamp("us", "UTC")


def fetch_arrow(connection: Connection, statement: Select[Any], types: Mapping[str, pa.DataType]) -> pa.Table:
    """The statement's result with its columns in the given Arrow types, by name and in their order.

    It reads the driver's rows in chunks, past SQLAlchemy's conversion of every value. (ADBC would be faster, but
    its SQLite is a second copy of the library in this process, which breaks SQLite's locks: ADR 2.)
    """
    result = connection.execute(statement)  # not streamed: SQLAlchemy would take the first row off the cursor
    positions = {name: place for place, name in enumerate(result.keys())}
    schema = pa.schema(list(types.items()))
    batches = []
    cursor: Any = result.cursor
    while rows := cursor.fetchmany(CHUNK_ROWS):
        columns = list(zip(*rows, strict=True))
        arrays = [_column(columns[positions[name]], kind) for name, kind in types.items()]
        batches.append(pa.record_batch(arrays, schema=schema))
    result.close()
    return pa.Table.from_batches(batches, schema=schema)


def _column(values: tuple[Any, ...], kind: pa.DataType) -> pa.Array:
    sample = next((value for value in values if value is not None), None)
    if kind == UTC_MOMENT and isinstance(sample, str):
        naive = pc.cast(pa.array(values, pa.string()), pa.timestamp("us"))
        return pc.assume_timezone(naive, "UTC")
    if pa.types.is_boolean(kind) and isinstance(sample, int) and not isinstance(sample, bool):
        return pa.array(values, pa.int8()).cast(pa.bool_())
    if pa.types.is_string(kind) and not isinstance(sample, str | None):
        return pa.array([None if value is None else str(value) for value in values], kind)
    return pa.array(values, kind)
