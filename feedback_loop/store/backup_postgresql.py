"""A backup of PostgreSQL: our own tables and the studies' by COPY, from one snapshot, and back in one transaction."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Table, exc
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import DDLElement

from feedback_loop.private import new_file
from feedback_loop.schema import table_name
from feedback_loop.store import migrate
from feedback_loop.store.backup_files import Backup, File, damaged, digest_of
from feedback_loop.store.model_tables import find_tables, model_keys
from feedback_loop.store.partitions import create_partition, partition_months
from feedback_loop.store.schema import metadata
from feedback_loop.store.studies import make_schema, study_tables

_ZIPPED = 1
"""gzip's level: rows in COPY's format shrink to a third by it, faster than a disk writes."""

_OF_VALUES = ("22", "23")
"""Beginnings of the SQLSTATEs by which PostgreSQL says that these are no rows of that table."""


def copy_tables(connection: Connection, folder: Path) -> dict[str, File]:
    """Writes each of our tables, and of the studies', into a file of its own."""
    return {_name(table): _copy_out(connection, table, folder) for table in _tables(connection)}


def bring_in(connection: Connection, folder: Path, backup: Backup) -> None:
    """Makes the tables of a backup and fills them; raises Refused where a file is not of its table, or of none."""
    migrate.upgrade_within(connection)
    for table in metadata.sorted_tables:
        _copy_in(connection, table, folder, backup)
    for table in _model_tables(connection):
        table.create(connection)
        for month in backup.partitions.get(table.name, ()):
            create_partition(connection, table, month)
        _copy_in(connection, table, folder, backup)
    for name, definition in backup.views.items():
        connection.execute(_View(name, definition))
    if backup.studies:
        make_schema(connection)
        for statement in backup.studies:
            connection.exec_driver_sql(statement)
        for table in study_tables(connection).sorted_tables:
            _copy_in(connection, table, folder, backup)
    tables = _tables(connection)
    if foreign := backup.files.keys() - {_name(table) for table in tables}:
        raise damaged(f"{min(foreign)} is of no table that it tells of")
    for table in tables:
        _go_on_counting(connection, table)


def partitions_of(connection: Connection) -> dict[str, list[datetime]]:
    """The months that tables have partitions of."""
    months = {table.name: partition_months(connection, table) for table in _model_tables(connection)}
    return {name: of_table for name, of_table in months.items() if of_table}


def views_of(connection: Connection) -> dict[str, str]:
    """The views of labelled predictions, as PostgreSQL writes them."""
    names = [
        table_name("labelled", model, generation.number)
        for model, _ in model_keys(connection)
        for generation in find_tables(connection, model).generations
    ]
    there = set(sa.inspect(connection).get_view_names())
    quote = connection.dialect.identifier_preparer.quote
    view = sa.func.to_regclass(sa.bindparam("name"))
    definition = sa.select(sa.func.pg_get_viewdef(view))
    return {
        name: connection.execute(definition, {"name": quote(name)}).scalar_one() for name in names if name in there
    }


def _name(table: Table) -> str:
    return f"{table.fullname}.copy.gz"


def _model_tables(connection: Connection) -> list[Table]:
    """The tables of all models, each once."""
    tables = []
    for model, _ in model_keys(connection):
        of_model = find_tables(connection, model)
        tables += [generation.table for generation in of_model.generations]
        tables += [of_model.outcomes, of_model.actions]
    return tables


def _tables(connection: Connection) -> list[Table]:
    return [*metadata.sorted_tables, *_model_tables(connection), *study_tables(connection).sorted_tables]


def studies_of(connection: Connection) -> list[str]:
    """The statements that make the studies' tables anew, with their types and indexes."""
    statements: list[str] = []
    dialect = connection.dialect

    def note(statement: Any, *_: object) -> None:
        statements.append(str(statement.compile(dialect=dialect)))

    study_tables(connection).create_all(sa.create_mock_engine("postgresql+psycopg://", note), checkfirst=False)
    return statements


def _copy_out(connection: Connection, table: Table, folder: Path) -> File:
    path = folder / _name(table)
    new_file(path)
    with (
        gzip.open(path, "wb", compresslevel=_ZIPPED) as file,
        _copying(connection, table, "TO STDOUT") as (copy, done),
    ):
        for block in copy:
            file.write(block)
    return File(digest_of(path), path.stat().st_size, done())


def _copy_in(connection: Connection, table: Table, folder: Path, backup: Backup) -> None:
    name = _name(table)
    file = backup.files.get(name)
    if file is None:
        raise damaged(f"it has no {name}")
    try:
        with gzip.open(folder / name, "rb") as rows, _copying(connection, table, "FROM STDIN") as (copy, done):
            while block := rows.read(1 << 20):
                copy.write(block)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise damaged(f"{name} is cut off or no gzip: {error}".rstrip(".")) from error
    except exc.DBAPIError as error:
        if not str(getattr(error.orig, "sqlstate", "")).startswith(_OF_VALUES):
            raise
        raise damaged(f"{name} has no rows of {table.name}: {str(error.orig).splitlines()[0]}") from error
    if done() != file.rows:
        raise damaged(f"{name} has {done():,} rows, not {file.rows}")


@contextmanager
def _copying(connection: Connection, table: Table, direction: str) -> Iterator[Any]:
    """COPY of a table's columns, and what says at the end how many rows; errors as SQLAlchemy would wrap them."""
    import psycopg
    from psycopg import sql

    driver: Any = connection.connection.driver_connection
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
    # The rows of a partitioned table are copied out by a query alone.
    what = sql.SQL("(SELECT {} FROM {})" if direction.startswith("TO") else "{1} ({0})")
    statement = sql.SQL("COPY {} {} (FORMAT BINARY)").format(
        what.format(names, sql.Identifier(*table.fullname.split("."))), sql.SQL(direction)
    )
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            yield copy, lambda: cursor.rowcount
    except psycopg.Error as error:
        if driver.closed:
            connection.invalidate(error)
        raise exc.DBAPIError.instance(statement.as_string(), None, error, psycopg.Error) from error


class _View(DDLElement):
    def __init__(self, name: str, definition: str) -> None:
        self.name = name
        self.definition = definition


@compiles(_View, "postgresql")
def _create_view(element: _View, compiler: Any, **_: object) -> str:
    # Each % is doubled, as in every statement that the driver is given parameters with.
    return f"CREATE VIEW {compiler.preparer.quote(element.name)} AS " + element.definition.replace("%", "%%")


def _go_on_counting(connection: Connection, table: Table) -> None:
    """The next number that the database gives to a row is beyond those that are there."""
    numbered = table.autoincrement_column
    if numbered is None:
        return
    name = connection.dialect.identifier_preparer.format_table(table)
    sequence = sa.func.pg_get_serial_sequence(name, numbered.name)
    most = sa.select(sa.func.max(numbered)).scalar_subquery()
    connection.execute(sa.select(sa.func.setval(sequence, sa.func.coalesce(most, 1), most.is_not(None))))
