"""Reads query results as Arrow tables, and inserts Arrow tables into database tables, each id once."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from itertools import chain
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Column, Connection, MetaData, Select, Table, exc, select
from sqlalchemy.dialects import postgresql

from feedback_loop.store.engine import breaks_uniqueness
from feedback_loop.store.schema import Identifier

CHUNK_ROWS = 20_000

CONSTANT_ROWS = 500
"""From so many rows on, values that all rows share are written into the statement, which costs parsing it again."""

CONSTANT_LENGTH = 1_000
"""Longer texts are not written into the statement: the driver keeps the last 128 statements."""

VALUE_ROWS = 4_000
"""Rows that are converted to Python values at a time."""

UTC_MOMENT = pa.timestamp("us", "UTC")


def fetch_arrow(connection: Connection, statement: Select[Any], types: Mapping[str, pa.DataType]) -> pa.Table:
    """The result of a statement: the columns named in `types`, in that order and with those Arrow types.

    Reads the driver's rows in chunks, without SQLAlchemy's conversion of each value. (ADBC would be faster, but its
    SQLite is a second copy of the library in this process, which breaks SQLite's locks: ADR 2.)
    """
    result = connection.execute(statement)  # not streamed: SQLAlchemy would consume the first row
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


def insert_rows(connection: Connection, table: Table, rows: pa.Table, unique: str | None) -> int:
    """Inserts rows (columns named as in the table) except those whose `unique` column is in it; returns how many.

    Without `unique` a row that is there already violates a constraint.
    """
    if not rows.num_rows:
        return 0
    if connection.dialect.name == "postgresql":
        return _copy(connection, table, rows, unique)
    return _executemany(connection, table, rows, unique)


def _copy(connection: Connection, table: Table, rows: pa.Table, unique: str | None) -> int:
    """Binary COPY into the table itself; if a row is there already, which is rare, through a staging table."""
    try:
        with connection.begin_nested():
            _copy_into(connection, table, _as_stored(table, rows))
        return int(rows.num_rows)
    except exc.IntegrityError as error:
        if unique is None or not breaks_uniqueness(error):
            raise
    staging = Table(
        f"staging_{hashlib.blake2b(f'{table.name} {rows.schema}'.encode(), digest_size=8).hexdigest()}",
        MetaData(),
        *(Column(name, table.c[name].type) for name in rows.column_names),
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DELETE ROWS",
    )
    staging.create(connection, checkfirst=True)  # one per session, empty at the start of each transaction
    _copy_into(connection, staging, _as_stored(table, rows))
    new = select(*(staging.c[name] for name in rows.column_names))
    insert = postgresql.insert(table).from_select(rows.column_names, new)
    insert = insert.on_conflict_do_nothing(index_elements=[unique])  # COPY has no ON CONFLICT
    return connection.execute(insert.execution_options(preserve_rowcount=True)).rowcount


def _copy_into(connection: Connection, table: Table, rows: pa.Table) -> None:
    import psycopg
    from pgpq import ArrowToPostgresBinaryEncoder
    from psycopg import sql

    # The driver's own quoting: SQLAlchemy's doubles each %, as for a statement with parameters.
    names = sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
    encoder = ArrowToPostgresBinaryEncoder(rows.schema)
    driver: Any = connection.connection.driver_connection
    copying = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(table.name), names)
    statement = copying.as_string()
    try:
        with driver.cursor().copy(statement) as copy:
            copy.write(encoder.write_header())
            for batch in rows.combine_chunks().to_batches():  # a batch has a fixed cost
                copy.write(encoder.write_batch(batch))
            copy.write(encoder.finish())
    except psycopg.Error as error:  # as SQLAlchemy would have wrapped it
        if driver.closed:
            connection.invalidate(error)
        raise exc.DBAPIError.instance(statement, None, error, psycopg.Error) from error


def _as_stored(table: Table, rows: pa.Table) -> pa.Table:
    """The rows with the exact types of the table's columns: COPY converts nothing."""
    for place, field in enumerate(rows.schema):
        values = rows.column(place)
        if isinstance(table.c[field.name].type, Identifier):
            rows = rows.set_column(place, field.name, _as_uuids(values))
        elif pa.types.is_float32(field.type):
            rows = rows.set_column(place, field.name, values.cast(pa.float64()))
    return rows


def _as_uuids(texts: pa.ChunkedArray) -> pa.Array:
    """Identifiers as 16 bytes each."""
    if texts.null_count:
        return pa.array([None if text is None else UUID(text).bytes for text in texts.to_pylist()], pa.binary(16))
    plain_bytes = bytes.fromhex("".join(texts.to_pylist()).replace("-", ""))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(texts), [None, pa.py_buffer(plain_bytes)])


def _executemany(connection: Connection, table: Table, rows: pa.Table, unique: str | None) -> int:
    constants = _constants(rows) if rows.num_rows >= CONSTANT_ROWS else {}
    # Not by SQLAlchemy's compiler: it takes parts of a constant, such as `%(value_0)s`, for parameters of its own.
    quote = connection.dialect.identifier_preparer.quote
    into = f"INSERT INTO {quote(table.name)} ({', '.join(map(quote, rows.column_names))})"
    statement = f"{into} VALUES ({', '.join(constants.get(name, '?') for name in rows.column_names)})"
    if unique is not None:
        statement += f" ON CONFLICT ({quote(unique)}) DO NOTHING"
    changes = "SELECT total_changes()"  # executemany's row count includes the rows that were there
    before = connection.exec_driver_sql(changes).scalar_one()
    # Without SQLAlchemy's conversion of each value: Arrow has done it by column. A few rows at a time: their values
    # are still in the processor's cache when SQLite reads them.
    parts = rows.drop_columns(list(constants)).to_batches(max_chunksize=VALUE_ROWS)
    values = chain.from_iterable(zip(*map(plain, part.columns), strict=True) for part in parts)
    driver: Any = connection.connection.driver_connection
    try:
        driver.executemany(statement, values)  # takes an iterator: the rows are not all in memory at once
    except sqlite3.Error as error:  # as SQLAlchemy would have wrapped it, but without the constants: they are data
        raise exc.DBAPIError.instance(into, None, error, sqlite3.Error) from error
    return int(connection.exec_driver_sql(changes).scalar_one() - before)


def _constants(rows: pa.Table) -> dict[str, str]:
    """The texts and nulls that all rows share, as SQL: passing a text to SQLite costs as much as storing it.

    Numbers are cheap to pass, and SQLite may parse a long fraction less exactly than Python.
    """
    constants: dict[str, str] = {}
    for name, values in zip(rows.column_names, rows.columns, strict=True):
        if values.null_count == rows.num_rows:
            constants[name] = "NULL"
        elif values.null_count or not (pa.types.is_string(values.type) or pa.types.is_timestamp(values.type)):
            continue
        elif values[0] == values[-1] and pc.all(pc.equal(values, values[0])).as_py():
            [text] = plain(values.slice(0, 1))
            if len(text) <= CONSTANT_LENGTH and "\0" not in text:  # it would end the statement
                constants[name] = "'" + text.replace("'", "''") + "'"
    return constants


def plain(values: pa.ChunkedArray | pa.Array) -> list[Any]:
    """A column as Python values for SQLite's driver."""
    kind = values.type
    if not values.null_count and (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        plain: list[Any] = values.to_numpy().tolist()
        return plain  # twice as fast as Arrow's `to_pylist`
    if pa.types.is_timestamp(kind):
        # Arrow's text of microseconds is that of a Moment, and 30 times as fast as `strftime`.
        values = values.cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us")).cast(pa.string())
    return list(values.to_pylist())
