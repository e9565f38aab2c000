"""Copies of a whole store in a folder, each of one moment, and their return into an empty store.

Of SQLite: the database file, by SQLite's online backup. Of PostgreSQL: our own tables by COPY, all from one snapshot;
the database may hold other programs' tables. Neither needs another program, and writers go on meanwhile.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Table, exc
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import DDLElement

from feedback_loop.errors import NotFound, Refused, Unavailable
from feedback_loop.private import new_file, new_folder
from feedback_loop.schema import fingerprint, table_name
from feedback_loop.store import migrate
from feedback_loop.store.engine import Store
from feedback_loop.store.model_tables import find_tables, model_keys
from feedback_loop.store.partitions import create_partition, partition_months
from feedback_loop.store.schema import PREFIX, metadata

FORMAT = 1
MANIFEST = "backup.json"
_SQLITE_FILE = "store.db"
_ZIPPED = 1
"""gzip's level: rows in COPY's format shrink to a third by it, faster than a disk writes."""


class File(msgspec.Struct, frozen=True):
    """A file of a backup; `rows`: of its table, on PostgreSQL."""

    digest: str
    size_bytes: int
    rows: int | None = None


class Backup(msgspec.Struct, frozen=True):
    """What `backup.json` says. `hash_key` is a fingerprint of the configured key of hashes, which is in no backup."""

    database: str
    revision: str
    made_by: str
    made_at: datetime
    hash_key: str
    files: dict[str, File]
    partitions: dict[str, list[datetime]] = {}
    views: dict[str, str] = {}
    format: int = FORMAT

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(file.size_bytes for file in self.files.values())


def make_backup(store: Store, folder: Path, now: datetime) -> Backup:
    """Copies the store into a new folder, as it is at one moment; the folder is there whole or not at all.

    Raises Refused where the folder is there already, Unavailable for a store that can't be read or is damaged (for
    PostgreSQL's at another revision too: its tables are not known), OSError where the disk takes no more.
    """
    revision = migrate.current(store)
    if revision is None or store.is_postgresql:
        revision = migrate.prepare(store)
    if folder.exists():
        raise Refused(f"{folder} is there already.", cure="Name a new folder: each backup has its own.")
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    new_folder(part)
    try:
        partitions: dict[str, list[datetime]] = {}
        views: dict[str, str] = {}
        if store.is_postgresql:
            with store.read() as connection:
                files = {_name(table): _copy_out(connection, table, part) for table in _tables(connection)}
                for table in _model_tables(connection):
                    partitions[table.name] = partition_months(connection, table)
                views = _views(connection)
        else:
            files = {_SQLITE_FILE: _sqlite_copy(store, part / _SQLITE_FILE)}
        made = Backup(
            store.kind,
            revision,
            version("feedback-loop"),
            now,
            fingerprint(store.secret),
            files,
            {name: months for name, months in partitions.items() if months},
            views,
        )
        new_file(part / MANIFEST)
        (part / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(made)))
        _sync(part)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return made


def read_backup(folder: Path) -> Backup:
    """What a backup says of itself, its files checked; raises NotFound, and Refused where it is damaged."""
    try:
        backup = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Backup)
    except FileNotFoundError as error:
        raise NotFound("backup", str(folder), cure=f"It is a folder with a {MANIFEST}.") from error
    except msgspec.DecodeError as error:
        raise _damaged(f"{folder / MANIFEST}: {error}") from error
    if backup.format != FORMAT:
        raise Refused(
            f"{folder} has the format {backup.format}; this version reads {FORMAT}.",
            cure=f"Restore it with the version that made it: pip install feedback-loop=={backup.made_by}.",
        )
    for name, file in backup.files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file() or _digest(path) != file.digest:
            raise _damaged(f"{path} is not what was written")
    return backup


def restore_backup(store: Store, folder: Path) -> Backup:
    """Brings a backup into a store that holds nothing, in one transaction: all of it is there, or nothing.

    Raises what `read_backup` raises, and Refused for a store that holds something, or a backup of another kind of
    database, revision or key of hashes.
    """
    backup = read_backup(folder)
    if backup.database != store.kind:
        cause = f"{folder} is of {backup.database}, {store.name} is {store.kind}."
        raise Refused(cause, cure=f"Restore it into {backup.database}: set store.url.")
    # A file of SQLite's is what it was, and can be upgraded afterwards.
    is_known = backup.revision <= migrate.head() if not store.is_postgresql else backup.revision == migrate.head()
    if not is_known:
        raise Refused(
            f"{folder} is at revision {backup.revision}; this version needs {migrate.head()}.",
            cure=f"Restore it with feedback-loop=={backup.made_by}, then upgrade: feedback-loop db upgrade.",
        )
    if backup.hash_key != fingerprint(store.secret):
        cause = f"The values of {folder} that are hashed have another key than the configured one."
        raise Refused(cause, cure="Set capture.hash_key to the key that was set when the backup was made.")
    if store.is_postgresql:
        _restore_postgresql(store, folder, backup)
    else:
        _restore_sqlite(store, folder / _SQLITE_FILE)
    return backup


def _damaged(cause: str) -> Refused:
    return Refused(f"The backup is damaged: {cause}.", cure="Take another one; nothing was written.")


def _refuse_filled(connection: Connection, name: str, *, others: bool) -> None:
    """Raises Refused where a row is in any table of ours; with `others` also where there is any other table."""
    tables = set(sa.inspect(connection).get_table_names())
    filled = [table for table in metadata.sorted_tables if table.name in tables and _has_rows(connection, table)]
    foreign = sorted(table for table in tables if not table.startswith(PREFIX)) if others else []
    if filled or foreign:
        what = ", ".join([*(table.name for table in filled), *foreign][:3])
        cause = f"{name} is not empty: there is something in {what}."
        raise Refused(cause, cure="Restore into a new database: set store.url to one that holds nothing.")


def _has_rows(connection: Connection, table: Table) -> bool:
    return connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None


# SQLite


def _sqlite_copy(store: Store, path: Path) -> File:
    new_file(path)
    with closing(store.engine.raw_connection()) as source, closing(sqlite3.connect(path)) as copy:
        driver: Any = source.driver_connection
        driver.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, with none beside it
        [trouble] = copy.execute("PRAGMA quick_check(1)").fetchone()
    if trouble != "ok":
        cause = f"The database {store.name} is damaged: {trouble}."
        raise Unavailable("database", cure="Restore an earlier backup; this one is not kept.", cause=cause)
    return File(_digest(path), path.stat().st_size)


def _restore_sqlite(store: Store, path: Path) -> None:
    with store.write() as connection:
        _refuse_filled(connection, store.name, others=True)
    reading = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    with closing(reading) as copy, closing(store.engine.raw_connection()) as target:
        driver: Any = target.driver_connection
        copy.backup(driver)
    store.close()


# PostgreSQL


def _name(table: Table) -> str:
    return f"{table.name}.copy.gz"


def _model_tables(connection: Connection) -> list[Table]:
    """The tables of all models, each once."""
    tables = []
    for model, _ in model_keys(connection):
        of_model = find_tables(connection, model)
        tables += [generation.table for generation in of_model.generations]
        tables += [of_model.outcomes, of_model.actions]
    return tables


def _tables(connection: Connection) -> list[Table]:
    return [*metadata.sorted_tables, *_model_tables(connection)]


def _views(connection: Connection) -> dict[str, str]:
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


def _copy_out(connection: Connection, table: Table, folder: Path) -> File:
    path = folder / _name(table)
    new_file(path)
    with (
        gzip.open(path, "wb", compresslevel=_ZIPPED) as file,
        _copying(connection, table, "TO STDOUT") as (copy, done),
    ):
        for block in copy:
            file.write(block)
    return File(_digest(path), path.stat().st_size, done())


def _copy_in(connection: Connection, table: Table, folder: Path, file: File) -> None:
    with gzip.open(folder / _name(table), "rb") as rows, _copying(connection, table, "FROM STDIN") as (copy, done):
        while block := rows.read(1 << 20):
            copy.write(block)
    if done() != file.rows:
        raise _damaged(f"{_name(table)} has {done():,} rows, not {file.rows:,}")


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
        what.format(names, sql.Identifier(table.name)), sql.SQL(direction)
    )
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            yield copy, lambda: cursor.rowcount
    except psycopg.Error as error:
        if driver.closed:
            connection.invalidate(error)
        raise exc.DBAPIError.instance(statement.as_string(), None, error, psycopg.Error) from error


def _restore_postgresql(store: Store, folder: Path, backup: Backup) -> None:
    with store.write() as connection:
        _refuse_filled(connection, store.name, others=False)
        migrate.upgrade_within(connection)
        for table in metadata.sorted_tables:
            _copy_in(connection, table, folder, backup.files[_name(table)])
        for table in _model_tables(connection):
            table.create(connection)
            for month in backup.partitions.get(table.name, ()):
                create_partition(connection, table, month)
            _copy_in(connection, table, folder, backup.files[_name(table)])
        for name, definition in backup.views.items():
            connection.execute(_View(name, definition))
        for table in _tables(connection):
            _go_on_counting(connection, table)


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
    quote = connection.dialect.identifier_preparer.quote
    sequence = sa.func.pg_get_serial_sequence(quote(table.name), numbered.name)
    most = sa.select(sa.func.max(numbered)).scalar_subquery()
    connection.execute(sa.select(sa.func.setval(sequence, sa.func.coalesce(most, 1), most.is_not(None))))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
