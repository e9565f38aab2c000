"""One database: SQLite (embedded) or PostgreSQL (server), its transactions and its errors."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event, exc, make_url, text

from feedback_loop.errors import ConfigError, FeedbackLoopError, Refused, Unavailable
from feedback_loop.private import new_file
from feedback_loop.safe_text import without_secrets

POOLED = 5
"""So many of a process's connections stay open."""

MOST_CONNECTIONS = 40
"""A scheduler's eight chains have one or two each, and one that renews the lease, which must not wait for theirs."""

BUSY_SECONDS = 30
"""How long a writer on SQLite waits for another one."""

_WRITES = "feedback_loop_writes"

Transaction = Connection
"""A connection within a transaction, as other rooms name it."""


class ConstraintViolated(Refused):
    """A constraint was violated; `is_unique`: there is such a row already."""

    def __init__(self, cause: str, *, is_unique: bool) -> None:
        super().__init__(cause)
        self.is_unique = is_unique


class Store:
    """A database by its URL. Thread-safe; connects with the first transaction.

    `secret` is the key of the hashes in it (of hashed columns and erased keys).
    """

    def __init__(self, url: str, secret: bytes = b"") -> None:
        try:
            parsed = make_url(url)
        except exc.ArgumentError as error:
            raise ConfigError(
                "store.url is no database URL.",
                cure="Write sqlite:///file.db or postgresql://user@host/name.",
                key="store.url",
            ) from error
        backend = parsed.get_backend_name()
        if backend not in ("sqlite", "postgresql"):
            raise ConfigError(
                f"The store can't be {backend}.", cure="Use sqlite:///… or postgresql://….", key="store.url"
            )
        if backend == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.url = parsed
        self.secret = secret
        self.is_postgresql = backend == "postgresql"
        self._engine: Engine | None = None
        self._making = threading.Lock()

    @property
    def name(self) -> str:
        """The URL without secrets."""
        return without_secrets(self.url.render_as_string(hide_password=False))

    @property
    def kind(self) -> str:
        """The name of the database's product."""
        return "PostgreSQL" if self.is_postgresql else "SQLite"

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine, created on first use."""
        with self._making:  # of two that threads made at once, one would never be closed
            if self._engine is None:
                self._engine = _make_engine(self)
            return self._engine

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection in a transaction that only reads; all its reads see one snapshot. Raises Unavailable."""
        self.check()
        # On SQLite a transaction always is one snapshot.
        options = {"isolation_level": "REPEATABLE READ"} if self.is_postgresql else {}
        with self._translated(), self.engine.execution_options(**options).begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection in a transaction that is durable once the block ends.

        Raises Unavailable, ConstraintViolated, and Refused for values that the database can't hold. On SQLite the
        write lock is taken at the start: a transaction that reads first could otherwise fail when it writes.
        """
        self.check()
        with self._translated(), self.engine.execution_options(**{_WRITES: True}).begin() as connection:
            yield connection
            for guard in self._guards():
                guard.prove(connection)

    @contextmanager
    def guarded(self, check: Callable[[], None], prove: Callable[[Connection], None]) -> Iterator[None]:
        """In the block this thread calls `check` before each access, and `prove` before each commit.

        What they raise is passed on, and nothing is written.
        """
        token = _GUARDS.set((*_GUARDS.get(), _Guard(self, check, prove)))
        try:
            yield
        finally:
            _GUARDS.reset(token)

    def flush(self) -> None:
        """Empties SQLite's write-ahead log, which still holds deleted rows, into the file. Raises Unavailable."""
        if not self.is_postgresql:
            connection = self.engine.raw_connection()
            is_busy = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            connection.close()
            if is_busy:
                cause = f"Somebody reads the database {self.name}, so its write-ahead log can't be emptied."
                raise Unavailable("database", cause, cure="Try again.")

    def close(self) -> None:
        """Closes all connections, those in use once they are given back; the store can still be used."""
        with self._making:
            engine, self._engine = self._engine, None
        if engine is not None:
            event.listen(engine.pool, "checkin", lambda _, entry: entry.invalidate())
            engine.dispose()

    def _guards(self) -> list[_Guard]:
        return [guard for guard in _GUARDS.get() if guard.store is self]

    def check(self) -> None:
        """Raises what ends this thread's work (a lost lease, a person who cancelled it), as any access does."""
        for guard in self._guards():
            guard.check()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError as error:
            cause = f"The database refused: {_first_line(error)}."  # without the URL: callers may see it
            raise ConstraintViolated(cause, is_unique=breaks_uniqueness(error)) from error
        except exc.DBAPIError as error:
            if not _may_heal(error):
                raise Refused(f"The database can't hold that: {_first_line(error)}.") from error
            raise self._unavailable(error) from error
        except exc.TimeoutError as error:  # all connections are in use: some thread's statements take long
            cause = f"None of {MOST_CONNECTIONS} connections to the database {self.name} was free in time."
            raise Unavailable("database", cause, cure="The same call may go through later.") from error
        except exc.StatementError as error:
            if isinstance(error.orig, FeedbackLoopError):  # raised by a column type of ours, wrapped by SQLAlchemy
                raise error.orig from error
            raise

    def _unavailable(self, error: exc.DBAPIError) -> Unavailable:
        message = _first_line(error)
        cure = "Check that it runs and that the URL is right; the same call may go through later."
        if "no such table" in message or "does not exist" in message:
            cure = "Its tables are missing or old: feedback-loop db upgrade."
        elif "permission denied" in message:
            cure = "Its role has not that right: see docs/databases.md for the roles of owner, writer and reader."
        elif "locked" in message:
            cure = f"Another process held its write lock for {BUSY_SECONDS} s; try again."
        elif "malformed" in message or "not a database" in message:
            cure = "Its file is damaged: restore it from a backup. Nothing was written to it."
        elif "full" in message or "No space" in message:
            cure = "Free disk space; nothing of this call was stored."
        return Unavailable("database", f"The database {self.name} refused: {message}.", cure=cure)


@dataclass(frozen=True)
class _Guard:
    store: Store
    check: Callable[[], None]
    prove: Callable[[Connection], None]


_GUARDS: ContextVar[tuple[_Guard, ...]] = ContextVar("guards", default=())


def prefer_indexes(connection: Connection) -> None:
    """Makes PostgreSQL use indexes in this transaction, whatever its statistics of a growing table say.

    They are older than the newest rows. By them it may scan a whole table for a few rows, or even for each of them,
    which is right at the size that it knows, and slower every day. And it brings no more than eight tables into
    another order, unless it is told: with outcomes and actions there are more, and the few rows that are wanted would
    be picked last.
    """
    if connection.dialect.name == "postgresql":
        for setting in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit", "geqo"):
            connection.execute(text(f"SET LOCAL {setting} = off"))
        for setting in ("from_collapse_limit", "join_collapse_limit"):
            connection.execute(text(f"SET LOCAL {setting} = 20"))


def _begin_wal(cursor: sqlite3.Cursor) -> None:
    """Sets WAL mode. SQLite does not wait here for other processes that do the same to a new file, so we do."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.005)
        else:
            return


UNPREPARED: dict[str, Any] = {"prepare_threshold": None}
"""For psycopg: what is prepared is a connection's, and a pooler (PgBouncer) gives each transaction another one."""

_HEALS = ("08", "25", "26", "28", "3D", "40", "53", "55", "57", "58", "XX", "42501", "42P01", "42703")
"""Beginnings of SQLSTATEs that time or an operator mends: connections, rights, conflicts, resources, missing tables.
All others are about the statement and its values."""

_NEVER_HEALS = (
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
)
"""SQLite's codes for errors of the statement or its values; all others are about the file and its users."""


def _may_heal(error: exc.DBAPIError) -> bool:
    """Whether the same statement may succeed later."""
    state, code = getattr(error.orig, "sqlstate", None), getattr(error.orig, "sqlite_errorcode", None)
    if state is not None:
        return str(state).startswith(_HEALS)
    if code is not None:
        is_missing = str(error.orig).startswith(("no such table", "no such column"))
        return code & 0xFF not in _NEVER_HEALS or is_missing
    return isinstance(error, exc.OperationalError | exc.InterfaceError)  # the driver's own errors: a lost connection


def breaks_uniqueness(error: exc.IntegrityError) -> bool:
    """Whether the error is a duplicate row in a unique index."""
    if isinstance(error.orig, sqlite3.Error):
        return error.orig.sqlite_errorname in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY")
    return getattr(error.orig, "sqlstate", None) == "23505"


def _first_line(error: exc.DBAPIError) -> str:
    return (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0]


def _make_private(database: str | None) -> None:
    """Creates a SQLite file that only its owner may read; SQLite gives its write-ahead log the same mode."""
    if database and database != ":memory:" and not database.startswith("file:") and Path(database).parent.is_dir():
        new_file(Path(database))


def _make_engine(store: Store) -> Engine:
    pooled: dict[str, Any] = {"poolclass": QueuePool, "pool_size": POOLED, "max_overflow": MOST_CONNECTIONS - POOLED}
    if store.is_postgresql:
        try:
            return create_engine(store.url, pool_pre_ping=True, connect_args=UNPREPARED, **pooled)
        except ImportError as error:
            raise ConfigError(
                "PostgreSQL needs a driver that is not installed.",
                cure="pip install 'feedback-loop[postgres]'.",
                key="store.url",
            ) from error
    is_file = store.url.database not in (None, "", ":memory:")  # in memory, each thread has its own
    engine = create_engine(store.url, connect_args={"timeout": BUSY_SECONDS}, **(pooled if is_file else {}))
    _make_private(store.url.database)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        # No BEGIN by the driver: it would come too late for the write lock.
        connection.isolation_level = None
        cursor = connection.cursor()
        _begin_wal(cursor)
        # In WAL mode a lesser setting may lose acknowledged commits at a power failure.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        # Deleted content is overwritten in the file at once: an erasure can't do so later.
        cursor.execute("PRAGMA secure_delete = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
