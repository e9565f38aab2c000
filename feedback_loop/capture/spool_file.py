"""A spool's file: SQLite with the groups of rows that wait for the store, and the accounts of all that passed.

Whoever finds one can empty it, alive or dead its owner: the contracts of the rows are in it. The owner holds a lock
beside it for as long as it lives, so that an orphan can be told from a spool that is in use.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from feedback_loop.capture.groups import Group, checksum, repack, unpack
from feedback_loop.clock import EPOCH
from feedback_loop.errors import BadInput
from feedback_loop.private import new_file
from feedback_loop.schema import Contract
from feedback_loop.store.spool_accounts import SpoolAccount, SpoolState, outcomes_of

SUFFIX = ".spool"
DAMAGED = ".damaged"
WAL = "-wal"

BUSY_SECONDS = 30
"""How long one process waits for another that writes to the same spool."""

WAL_PAGES = 8192
"""An owner brings its write-ahead log to the database itself only when it is so long, for callers wait meanwhile."""

WAL_BYTES = 40 * 1024 * 1024
"""What is kept of the log's file once its content is in the database: to write over it is faster than to grow it."""

SETTLED_AT_ONCE = 64
"""So many groups are taken out in one transaction: an owner that comes meanwhile waits for it."""

SCHEMA = """
BEGIN;
CREATE TABLE contracts (id INTEGER PRIMARY KEY, body BLOB NOT NULL, schema BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE groups (seq INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, contract INTEGER NOT NULL,
    rows INTEGER NOT NULL, moment INTEGER NOT NULL, crc INTEGER NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE rejected (id INTEGER PRIMARY KEY, model TEXT NOT NULL, contract INTEGER NOT NULL,
    rows INTEGER NOT NULL, moment INTEGER NOT NULL, crc INTEGER NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL,
    cause TEXT NOT NULL);
CREATE TABLE accounts (model TEXT PRIMARY KEY, stored INTEGER NOT NULL DEFAULT 0, answered INTEGER NOT NULL,
    spooled INTEGER NOT NULL, refused INTEGER NOT NULL, dropped INTEGER NOT NULL, unsampled INTEGER NOT NULL);
CREATE INDEX outcomes ON groups (seq) WHERE substr(model, -9) = ':outcomes';
COMMIT;
"""
INSERT_CONTRACT = "INSERT INTO contracts (id, body, schema, crc) VALUES (?, ?, ?, ?)"
INSERT_GROUP = "INSERT INTO groups (model, contract, rows, moment, crc, size, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
ADD_TRACEPARENTS = "ALTER TABLE groups ADD COLUMN traceparents BLOB"  # of their requests, where these are traced
INSERT_TRACED = """
INSERT INTO groups (model, contract, rows, moment, crc, size, body, traceparents) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
SET_COUNTS = """
INSERT INTO accounts (model, answered, spooled, refused, dropped, unsampled) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (model) DO UPDATE SET answered = excluded.answered, spooled = excluded.spooled,
    refused = excluded.refused, dropped = excluded.dropped, unsampled = excluded.unsampled
"""
_CONTRACT = "SELECT id, body, schema, crc FROM contracts WHERE id = ?"
_IS_OUTCOMES = "substr(model, -9) = ':outcomes'"  # as the index has it
_COLUMNS = "SELECT seq, model, contract, rows, moment, crc, size, body FROM groups "
_READ = f"{_COLUMNS} WHERE seq <= ? AND model NOT IN (SELECT value FROM json_each(?))"  # noqa: S608 (our own words)
_READ_OUTCOMES = f"{_COLUMNS} WHERE {_IS_OUTCOMES} AND seq > ? ORDER BY seq LIMIT ?"
_NEWEST_OUTCOMES = f"SELECT max(moment) FROM groups WHERE {_IS_OUTCOMES}"  # noqa: S608 (our own words)
_OUTCOMES_WAIT = f"SELECT 1 FROM groups WHERE {_IS_OUTCOMES} AND model = ? LIMIT 1"  # noqa: S608 (likewise)
_COUNT_THOSE = """
SELECT model, sum(rows) FROM groups WHERE seq IN (SELECT value FROM json_each(?)) GROUP BY model
"""
_DELETE_THOSE = "DELETE FROM groups WHERE seq IN (SELECT value FROM json_each(?))"
_HAS_TRACEPARENTS = "SELECT 1 FROM pragma_table_info('groups') WHERE name = 'traceparents'"
_TRACEPARENTS = "SELECT traceparents FROM groups WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq"
_ADD_STORED = "UPDATE accounts SET stored = stored + ? WHERE model = ?"
_REJECT = """
INSERT INTO rejected (model, contract, rows, moment, crc, size, body, cause) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_RETRY = """
INSERT INTO groups (model, contract, rows, moment, crc, size, body)
SELECT model, contract, rows, moment, crc, size, body FROM rejected ORDER BY id
"""
_CAUSES = "SELECT model, cause, sum(rows) FROM rejected GROUP BY model, cause ORDER BY model, sum(rows) DESC"
_OF_MODEL = "SELECT {number}, model, contract, rows, moment, crc, size, body FROM {table} WHERE model = ?"
_ACCOUNTS = "SELECT model, stored, answered, spooled, refused, dropped, unsampled FROM accounts"
WAITING = "SELECT model, sum(rows), min(moment) FROM groups GROUP BY model"
REJECTED = "SELECT model, sum(rows) FROM rejected GROUP BY model"

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)  # ERROR: a table is missing
_PRIMARY = 0xFF  # of SQLite's error codes: the rest says more exactly what it was


@dataclass(frozen=True)
class FileContract:
    """A contract as the file has it."""

    contract: Contract
    schema: pa.Schema
    body: bytes
    number: int

    @property
    def values(self) -> tuple[int, bytes, bytes, int]:
        """What `INSERT_CONTRACT` wants."""
        schema = self.schema.serialize().to_pybytes()
        return self.number, self.body, schema, checksum(self.number, self.body, schema)


def microseconds(moment: datetime) -> int:
    """A moment as the file has it."""
    return (moment - EPOCH) // timedelta.resolution


def connect(
    path: Path, *, creates: bool = False, synchronous: str = "FULL", waits: bool = True
) -> sqlite3.Connection:
    """The file, opened; one that is not there is made only if asked for. To be used under a lock."""
    if creates:
        new_file(path)
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={'rwc' if creates else 'rw'}",
        uri=True,
        isolation_level=None,
        timeout=BUSY_SECONDS if waits else 0,
        check_same_thread=False,
    )
    if creates:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """All that is done in the block, or nothing."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends it itself after some errors
            connection.execute("ROLLBACK")
        raise


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the error says that the file is no whole database, rather than that it can't be written just now."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY in _DAMAGE


class SpoolFile:
    """One spool, opened to be emptied or looked at. `guard` keeps the owner in the same process from writing."""

    def __init__(self, path: Path, connection: sqlite3.Connection, guard: AbstractContextManager[Any]) -> None:
        self.path = path
        self.name = path.name.removesuffix(SUFFIX)
        self._connection = connection
        self._guard = guard
        self._contracts: dict[int, tuple[Contract, pa.Schema]] = {}

    @classmethod
    @contextmanager
    def open(cls, path: Path, guard: AbstractContextManager[Any] | None = None) -> Iterator[SpoolFile]:
        """The file at that place; raises sqlite3.Error."""
        # What is taken out is in the store already: to lose that in a power cut means to store it once more, in vain.
        with closing(connect(path, synchronous="NORMAL")) as connection:
            yield cls(path, connection, guard or nullcontext())

    def version(self) -> int:
        """A number that is another one once anybody else has committed."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else writes to it within the block; raises sqlite3.OperationalError where somebody does just now."""
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            with self._guard, transaction(self._connection):
                yield
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")

    def last(self) -> int:
        """The number of the newest group that waits, 0 where none does."""
        return int(self._connection.execute("SELECT coalesce(max(seq), 0) FROM groups").fetchone()[0])

    def waits_since(self, moment: datetime) -> bool:
        """Whether a group of that moment or before still waits."""
        first = self._connection.execute("SELECT moment FROM groups ORDER BY seq LIMIT 1").fetchone()
        return first is not None and first[0] <= microseconds(moment)

    def read(
        self,
        until: int,
        most_rows: int,
        *,
        without: Iterable[str] = (),
        newest_first: bool = False,
        has_outcomes: bool = False,
    ) -> Iterator[Group]:
        """Groups up to a number, but for those of some models, in order, as many as have at least so many rows: those
        of predictions, or all.
        """
        rows, models = 0, msgspec.json.encode(list(without)).decode()
        statement = _READ + ("" if has_outcomes else f" AND NOT {_IS_OUTCOMES}")
        statement += " ORDER BY seq DESC" if newest_first else " ORDER BY seq"
        with closing(self._connection.execute(statement, (until, models))) as cursor:
            for row in cursor:
                group = _group(row)
                yield group
                rows += group.rows
                if rows >= most_rows:
                    return

    def newest_outcomes(self) -> int | None:
        """The moment of the newest group of outcomes that waits."""
        newest: int | None = self._connection.execute(_NEWEST_OUTCOMES).fetchone()[0]
        return newest

    def outcomes_wait(self, account: str) -> bool:
        """Whether a group of outcomes of that account waits."""
        return self._connection.execute(_OUTCOMES_WAIT, (account,)).fetchone() is not None

    def read_outcomes(self, most_groups: int) -> Iterator[Group]:
        """All groups of outcomes in their order; so many are in memory at a time."""
        last = 0
        while rows := self._connection.execute(_READ_OUTCOMES, (last, most_groups)).fetchall():
            yield from map(_group, rows)
            last = rows[-1][0]

    def load_contracts(self, numbers: Iterable[int]) -> None:
        """Reads what `unpack` needs for groups of these contracts; one that is not as it was written stays out."""
        for number in set(numbers) - set(self._contracts):
            row = self._connection.execute(_CONTRACT, (number,)).fetchone()
            if row is not None and checksum(*row[:3]) == row[3]:
                contract = msgspec.json.decode(row[1], type=Contract)
                self._contracts[number] = contract, pa.ipc.read_schema(pa.py_buffer(row[2]))

    def unpack(self, groups: Sequence[Group]) -> tuple[Contract, pa.Table]:
        """The rows of groups of one contract; raises BadInput where they are not what was written."""
        number = groups[0].contract
        if number not in self._contracts:
            raise BadInput.of("contract", f"{number} is not in the spool")
        contract, schema = self._contracts[number]
        return contract, unpack(contract, schema, groups)

    def traceparents(self, groups: Sequence[Group]) -> list[bytes]:
        """Of the requests of groups, as far as they were noted and the file has a place for them."""
        if self._connection.execute(_HAS_TRACEPARENTS).fetchone() is None:
            return []
        numbers = msgspec.json.encode([group.seq for group in groups]).decode()
        noted = self._connection.execute(_TRACEPARENTS, (numbers,))
        return [text for (text,) in noted if isinstance(text, bytes)]  # in a torn file anything can stand there

    def settle(self, groups: Sequence[Group], rejected: Sequence[tuple[Group, str]] = ()) -> int:
        """Takes groups out: their rows are stored, but for the rejected, which are put aside with their cause.

        Returns how many rows were stored by that: of groups that another has taken out before, none.
        """
        return sum(
            self._settle(groups[start : start + SETTLED_AT_ONCE], rejected)
            for start in range(0, len(groups), SETTLED_AT_ONCE)
        )

    def _settle(self, groups: Sequence[Group], rejected: Sequence[tuple[Group, str]]) -> int:
        numbers = msgspec.json.encode([group.seq for group in groups]).decode()
        with self._guard, transaction(self._connection):
            stored = dict(self._connection.execute(_COUNT_THOSE, (numbers,)).fetchall())
            if rejected and stored:  # settled one by one: the group is there, or another has settled it
                self._connection.executemany(_REJECT, [(*group.values, cause) for group, cause in rejected])
                stored[groups[0].model] -= sum(group.rows for group, _ in rejected)
            self._connection.executemany(_ADD_STORED, [(rows, model) for model, rows in stored.items()])
            self._connection.execute(_DELETE_THOSE, (numbers,))
        return sum(stored.values())

    def erase(self, model: str, kept: Callable[[pa.Table], pa.Table]) -> int:
        """Leaves of each group of a model, waiting or rejected, predictions or outcomes, the rows that `kept` gives
        back; returns how many go.

        They count as stored: they have left the spool. Groups whose bytes can't be read stay as they are. Nothing is
        left of what was deleted, now or before, in the file or its log; raises sqlite3.Error where a reader is in the
        way of that.
        """
        with self._guard:
            erased = sum(self._erase(account, kept) for account in (model, outcomes_of(model)))
            self._connection.execute("PRAGMA temp_store = MEMORY")  # the new file is not made in another folder
            self._connection.execute("VACUUM")  # pages that are free still hold the rows that once were in them
            is_busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_busy:
            raise sqlite3.OperationalError("somebody reads it, so its log can't be emptied")
        return erased

    def _erase(self, model: str, kept: Callable[[pa.Table], pa.Table]) -> int:
        erased = 0
        with transaction(self._connection):
            for table, number in (("groups", "seq"), ("rejected", "id")):
                for row in self._connection.execute(
                    _OF_MODEL.format(table=table, number=number), (model,)
                ).fetchall():
                    group = Group(*row)
                    self.load_contracts([group.contract])
                    try:
                        rows = self.unpack([group])[1]
                    except BadInput:
                        continue
                    left = kept(rows)
                    if left.num_rows < rows.num_rows:
                        erased += rows.num_rows - left.num_rows
                        self._replace(table, number, group, left)
            self._connection.execute(_ADD_STORED, (erased, model))
        return erased

    def _replace(self, table: str, number: str, group: Group, rows: pa.Table) -> None:
        if not rows.num_rows:
            self._connection.execute(f"DELETE FROM {table} WHERE {number} = ?", (group.seq,))  # noqa: S608 (our names)
            return
        new = repack(group, rows)
        change = f"UPDATE {table} SET rows = ?, crc = ?, size = ?, body = ? WHERE {number} = ?"  # noqa: S608 (likewise)
        self._connection.execute(change, (new.rows, new.crc, new.size, new.body, group.seq))

    def causes(self) -> list[tuple[str, str, int]]:
        """Why rows were put aside: model, cause and how many."""
        return self._connection.execute(_CAUSES).fetchall()

    def retry_rejected(self) -> int:
        """Makes what was rejected wait again; returns how many rows."""
        with self._guard, transaction(self._connection):
            rows = self._connection.execute("SELECT coalesce(sum(rows), 0) FROM rejected").fetchone()[0]
            self._connection.execute(_RETRY)
            self._connection.execute("DELETE FROM rejected")
        return int(rows)

    def accounts(self, now: datetime, state: SpoolState = SpoolState.OPEN) -> list[SpoolAccount]:
        """What went which way, for each model; all of one moment. Of a damaged one, nothing is said to wait."""
        is_whole = state is not SpoolState.DAMAGED  # else what waits may not be readable
        with transaction(self._connection, "DEFERRED"):
            counts = [row for row in self._connection.execute(_ACCOUNTS) if _is_account(row)]
            waiting = self._connection.execute(WAITING).fetchall() if is_whole else []
            rejected = dict(self._connection.execute(REJECTED).fetchall() if is_whole else [])
        waits = {model: (rows, EPOCH + timedelta(microseconds=moment)) for model, rows, moment in waiting}
        accounts = []
        for model, stored, answered, spooled, refused, dropped, unsampled in counts:
            rows, since = waits.get(model, (0, None))
            accounts.append(
                replace(
                    blank_account(self.path, model, spooled, now),
                    answered=answered,
                    stored=stored,
                    refused=refused,
                    dropped=dropped,
                    unsampled=unsampled,
                    waiting=rows,
                    rejected=rejected.get(model, 0),
                    waiting_since=since,
                    state=state,
                )
            )
        return accounts

    def check(self) -> None:
        """Reads all of the file; raises sqlite3.DatabaseError where SQLite finds it damaged."""
        answer = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if answer != "ok":
            raise sqlite3.DatabaseError(f"quick_check says: {answer}")


def blank_account(path: Path, model: str, rows: int, now: datetime) -> SpoolAccount:
    """The account of a damaged spool of which nothing is known but how many rows could be read."""
    nothing = dict.fromkeys(("answered", "stored", "refused", "dropped", "unsampled", "waiting", "rejected"), 0)
    return SpoolAccount(
        spool=path.name.removesuffix(SUFFIX),
        model=model,
        host=path.name.rsplit("-", 2)[0],  # its name says so
        spooled=rows,
        waiting_since=None,
        state=SpoolState.DAMAGED,
        updated_at=now,
        **nothing,
    )


def _group(row: Sequence[Any]) -> Group:
    group = Group(*row)
    if not isinstance(group.rows, int):  # SQLite checks no types, and reads what it can of a torn page
        raise sqlite3.DatabaseError(f"the group {group.seq} has {group.rows!r} rows")
    return group


def _is_account(row: Sequence[Any]) -> bool:
    """Whether each value is of its column's type; in a torn file it may not be."""
    return isinstance(row[0], str) and all(isinstance(count, int) for count in row[1:])
