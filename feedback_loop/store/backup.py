"""Copies of a whole store in a folder, each of one moment, and their return into an empty store.

Of SQLite: the database file and that of the studies, by SQLite's online backup. Of PostgreSQL: our own tables and the
studies' by COPY, all from one snapshot; the database may hold other programs' tables. Neither needs another program,
and writers go on meanwhile.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Table

from feedback_loop.errors import Refused, Unavailable
from feedback_loop.private import new_file, new_folder
from feedback_loop.schema import fingerprint
from feedback_loop.store import migrate
from feedback_loop.store.backup_files import MANIFEST, Backup, File, damaged, digest_of, read_backup
from feedback_loop.store.backup_postgresql import bring_in, copy_tables, partitions_of, studies_of, views_of
from feedback_loop.store.engine import Store
from feedback_loop.store.schema import PREFIX, metadata
from feedback_loop.store.studies import study_file, study_tables

_SQLITE_FILE, _STUDIES_FILE = "store.db", "studies.db"


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
        studies: list[str] = []
        if store.is_postgresql:
            with store.read() as connection:
                files = copy_tables(connection, part)
                partitions, views, studies = (
                    partitions_of(connection),
                    views_of(connection),
                    studies_of(connection),
                )
        else:
            files = _copy_sqlite(store, part)
        made = Backup(
            store.kind,
            revision,
            version("feedback-loop"),
            now,
            fingerprint(store.secret),
            files,
            partitions,
            views,
            studies,
        )
        new_file(part / MANIFEST)
        (part / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(made)))
        _sync(part)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return made


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
        with store.write() as connection:
            _refuse_filled(connection, store.name, others=False)
            if tables := study_tables(connection).sorted_tables:
                raise _not_empty(store.name, tables[0].fullname)
            bring_in(connection, folder, backup)
    else:
        _restore_sqlite(store, folder, backup)
    return backup


def _refuse_filled(connection: Connection, name: str, *, others: bool) -> None:
    """Raises Refused where a row is in any table of ours; with `others` also where there is any other table."""
    tables = set(sa.inspect(connection).get_table_names())
    filled = [table for table in metadata.sorted_tables if table.name in tables and _has_rows(connection, table)]
    foreign = sorted(table for table in tables if not table.startswith(PREFIX)) if others else []
    if filled or foreign:
        raise _not_empty(name, ", ".join([*(table.name for table in filled), *foreign][:3]))


def _not_empty(name: str, what: str) -> Refused:
    cause = f"{name} is not empty: there is something in {what}."
    return Refused(cause, cure="Restore into a new database: set store.url to one that holds nothing.")


def _has_rows(connection: Connection, table: Table) -> bool:
    return connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None


# SQLite


def _copy_sqlite(store: Store, folder: Path) -> dict[str, File]:
    with closing(store.engine.raw_connection()) as source:
        driver: Any = source.driver_connection
        files = {_SQLITE_FILE: _sqlite_copy(driver, folder / _SQLITE_FILE, store.name)}
    studies = study_file(store)
    if studies.is_file() and studies.stat().st_size:
        with closing(sqlite3.connect(studies)) as source:
            files[_STUDIES_FILE] = _sqlite_copy(source, folder / _STUDIES_FILE, str(studies))
    return files


def _sqlite_copy(source: sqlite3.Connection, path: Path, name: str) -> File:
    new_file(path)
    with closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, with none beside it
        [trouble] = copy.execute("PRAGMA quick_check(1)").fetchone()
    if trouble != "ok":
        cause = f"The database {name} is damaged: {trouble}."
        raise Unavailable("database", cure="Restore an earlier backup; this one is not kept.", cause=cause)
    return File(digest_of(path), path.stat().st_size)


def _restore_sqlite(store: Store, folder: Path, backup: Backup) -> None:
    path = folder / _SQLITE_FILE
    if path.name not in backup.files:
        raise damaged(f"it has no {path.name}")
    with store.write() as connection:
        _refuse_filled(connection, store.name, others=True)
    reading = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    with closing(reading) as copy, closing(store.engine.raw_connection()) as target:
        _check_sqlite(copy, path, backup)
        # Before the store, which is empty as long as it is not whole: a restore that is cut off is made again.
        _restore_studies(study_file(store), folder, backup)
        driver: Any = target.driver_connection
        copy.backup(driver)
    store.close()


def _restore_studies(target: Path, folder: Path, backup: Backup) -> None:
    file = backup.files.get(_STUDIES_FILE)
    if target.is_file() and target.stat().st_size and (file is None or digest_of(target) != file.digest):
        raise _not_empty(str(target.parent), target.name)
    if file is not None:
        part = target.with_name(f".{target.name}.{os.getpid()}")
        new_file(part)
        shutil.copyfile(folder / _STUDIES_FILE, part)
        part.replace(target)


def _check_sqlite(copy: sqlite3.Connection, path: Path, backup: Backup) -> None:
    """Raises Refused for a file that is not the store that its manifest tells of."""
    try:
        [trouble] = copy.execute("PRAGMA quick_check(1)").fetchone()
        revisions = copy.execute(f"SELECT version_num FROM {migrate.VERSION_TABLE}").fetchall()  # noqa: S608  # our own
    except sqlite3.DatabaseError as error:
        raise damaged(f"{path} is no store: {error}") from error
    if trouble != "ok" or revisions != [(backup.revision,)]:
        raise damaged(f"{path} is not at revision {backup.revision}" if trouble == "ok" else f"{path}: {trouble}")


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
