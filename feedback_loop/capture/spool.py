"""The spool: rows are durable on this host's disk before anybody is answered, whether the store is there or not."""

from __future__ import annotations

import os
import secrets
import socket
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import structlog

from feedback_loop.capture import locks, spool_file
from feedback_loop.capture.groups import Group, pack
from feedback_loop.capture.sink import Counts, Gauges, Part
from feedback_loop.capture.spool_file import FileContract
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.errors import Unavailable
from feedback_loop.private import new_folder
from feedback_loop.schema import Contract

SPOOL = "spool"
"""The service that is unavailable where a spool takes no rows."""

LEFT_FREE = 16 * 1024 * 1024
"""Bytes of its disk that a spool leaves alone: without room, what is stored could not be taken out of it either."""

MOST_CONTRACTS = 100  # are remembered as they were given: a process has one per version
_OUTCOMES = LogSettings()  # an outcome that is acknowledged is durable, however predictions are logged
_log = structlog.get_logger(__name__)


@dataclass
class _Entry:
    """A group on its way into the file: its thread waits until it is `done`, or there is a `cause` why not."""

    group: Group
    is_fast: bool  # acknowledged before it is on the disk
    in_file: FileContract
    drops: bool  # what is not taken is counted, and no error
    traceparents: bytes
    done: bool = False
    cause: str = ""


@dataclass
class _File:
    path: Path
    connection: sqlite3.Connection
    probe: sqlite3.Connection  # that waits for nobody
    lock: int
    contracts: set[int] = field(default_factory=set)  # those that are in it
    synchronous: str = "FULL"
    used: int = 0  # bytes, when it was last looked at
    added: int = 0  # bytes since


class Spool:
    """One process's spool. Thread-safe: whoever comes while a commit is under way shares the next one.

    Its file is made with the first rows, and a new one if that is damaged or taken away; those of one server have its
    `mark` (letters and digits) in their names. `log_of` says how a model's rows are logged, `traceparents` (where it
    is traced) the requests of those at hand, which are noted beside them.
    """

    def __init__(
        self,
        folder: Path,
        settings: CaptureSettings,
        log_of: Callable[[str], LogSettings],
        mark: str = "",
        traceparents: Callable[[], bytes] | None = None,
    ) -> None:
        self.folder = folder
        self.mark = mark
        self.guard = threading.Lock()
        """Held while the file is written to."""
        self._settings = settings
        self._log_of = log_of
        self._traceparents = traceparents
        self._waiting: deque[_Entry] = deque()
        self._counts: dict[str, Counts] = {}
        self._counting = threading.Lock()
        self._are_saved = True
        self._contracts: dict[tuple[int, str], FileContract] = {}
        self._numbers: dict[tuple[bytes, bytes], int] = {}
        self._file: _File | None = None
        self._is_closed = False

    @property
    def path(self) -> Path | None:
        """Where its file is, once there is one."""
        file = self._file
        return file.path if file is not None else None

    def append(
        self, contract: Contract, rows: pa.Table, now: datetime, *, waits: bool = True, counts: bool = True
    ) -> int:
        """Takes rows of `prediction_schema(contract)`; on return they are durable, as the model's `log.durability`
        wants it (with `waits` false they get to the disk with those of others). Returns how many were taken: none
        where nothing is logged.

        Raises Unavailable where the spool is full or can't be written and `log.on_full` is `refuse`; else such rows
        are counted as dropped. Who asks with `counts` false says itself what became of rows that were not taken.
        """
        return self.append_all([Part(contract, rows.schema, rows)], now, waits=waits, counts=counts)

    def append_all(self, parts: Sequence[Part], now: datetime, *, waits: bool = True, counts: bool = True) -> int:
        """The same for rows of several contracts, also as plain values: all of them are taken, or none."""
        moment, entries = spool_file.microseconds(now), []
        noted = self._traceparents() if self._traceparents is not None else b""
        for part in parts:
            model = part.account
            log = _OUTCOMES if part.are_outcomes else self._log_of(model)
            if log.durability == "off":
                self.count(model, unsampled=part.count)
            elif part.count:
                in_file = self._in_file(part.contract, part.schema, model)
                group = pack(model, in_file.number, part.rows, moment)
                is_fast = log.durability == "buffered" or not waits
                entries.append(_Entry(group, is_fast, in_file, log.on_full == "drop", noted))
        if not entries:
            return 0
        self._waiting.extend(entries)  # in one step: whoever commits has all of them before it, or none
        with self.guard:
            if not all(entry.done or entry.cause for entry in entries):
                self._commit_waiting()
        refused = [entry for entry in entries if not entry.done and not entry.drops]
        for entry in entries:
            if not entry.done and (entry.drops or counts):
                rows = entry.group.rows
                self.count(entry.group.model, dropped=rows * entry.drops, refused=rows * (not entry.drops))
        if refused:
            cause = f"The spool takes no rows: {refused[0].cause}."
            raise Unavailable(SPOOL, cause, cure="See: feedback-loop spool status.")
        return sum(entry.group.rows for entry in entries if entry.done)

    def is_free(self) -> bool:
        """Whether rows would be taken without waiting for whoever else writes or empties the file."""
        if not self.guard.acquire(blocking=False):
            return False
        try:
            if self._file is not None:
                self._file.probe.execute("BEGIN IMMEDIATE")
                self._file.probe.execute("ROLLBACK")
        except sqlite3.Error as error:
            return error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY  # the commit will say what else is wrong
        finally:
            self.guard.release()
        return True

    def count(self, model: str, *, answered: int = 0, refused: int = 0, dropped: int = 0, unsampled: int = 0) -> None:
        """Adds rows to a model's accounts; they are on the disk with the next commit or `flush`."""
        with self._counting:
            counts = self._counts.setdefault(model, Counts())
            counts.answered += answered
            counts.refused += refused
            counts.dropped += dropped
            counts.unsampled += unsampled
            self._are_saved = False

    def counts(self) -> dict[str, Counts]:
        """The accounts of this process, by model."""
        with self._counting:
            return {model: replace(counts) for model, counts in self._counts.items()}

    def gauges(self) -> Gauges:
        """What waits; nothing where there is no file yet. Raises Unavailable."""
        with self.guard:
            if self._file is None:
                return Gauges({}, {}, {}, {}, None)
            ask = self._file.connection.execute
            try:
                with spool_file.transaction(self._file.connection, "DEFERRED"):  # all of one moment
                    stored = dict(ask("SELECT model, stored FROM accounts").fetchall())
                    rejected = dict(ask(spool_file.REJECTED).fetchall())
                    waiting = {model: (rows, first) for model, rows, first in ask(spool_file.WAITING).fetchall()}
            except sqlite3.Error as error:
                raise Unavailable(SPOOL, f"It can't be read: {error}.") from error
            spooled = {model: counts.spooled for model, counts in self.counts().items()}
        waits = {model: waiting.get(model, (0, 0))[0] for model in stored}
        refused = {model: rejected.get(model, 0) for model in stored}
        return Gauges(
            waiting=waits,
            stored=stored,
            rejected=refused,
            missing={model: spooled[model] - stored[model] - waits[model] - refused[model] for model in stored},
            waiting_since=min((first for _, first in waiting.values()), default=None),
        )

    def flush(self) -> None:
        """Brings the accounts to the disk. Where that can't be done now, a later call or commit does it."""
        with self.guard:
            if self._are_saved:
                return
            try:
                file = self._file or self._open()
                with spool_file.transaction(file.connection):
                    self._save_counts(file, {})
            except (sqlite3.Error, OSError) as error:
                _log.warning("accounts not saved", counts=self.counts(), cause=self._look_at(error))

    def trouble(self) -> str | None:
        """Why rows would not be taken now, found out by writing; None where they would."""
        with self.guard:
            try:
                file = self._file or self._open()
                self._refuse_if_full(file, 0)
                with spool_file.transaction(file.connection):
                    file.connection.execute("PRAGMA user_version = 1")  # nobody reads it
            except (sqlite3.Error, OSError, _Full) as error:
                return self._look_at(error)
        return None

    def retire(self, path: Path) -> None:
        """Gives a file up that turned out damaged, for whoever drains the folder to save what is in it."""
        with self.guard:
            if self._file is not None and self._file.path == path:
                self._let_go(self._file)

    def close(self) -> None:
        """Brings the accounts to the disk and gives the file up; nothing can be appended after."""
        if not self._is_closed:
            self.flush()
        with self.guard:
            self._is_closed = True
            if self._file is not None:
                self._let_go(self._file)

    def _commit_waiting(self) -> None:  # the rest is done by the thread that holds the guard, for all that wait
        entries = []
        while self._waiting:
            entries.append(self._waiting.popleft())
        try:
            self._write(entries)
        except (sqlite3.Error, OSError, _Full) as error:
            cause = self._look_at(error)
            for entry in entries:
                entry.cause = cause
        except BaseException as error:
            for entry in entries:
                entry.cause = repr(error)
            raise
        else:
            for entry in entries:
                entry.done = True

    def _write(self, entries: list[_Entry]) -> None:
        file = self._file or self._open()
        self._refuse_if_full(file, sum(len(entry.group.body) + len(entry.traceparents) for entry in entries))
        synchronous = "NORMAL" if all(entry.is_fast for entry in entries) else "FULL"
        if file.synchronous != synchronous:
            file.connection.execute(f"PRAGMA synchronous = {synchronous}")
            file.synchronous = synchronous
        new = {entry.in_file.number: entry.in_file for entry in entries if entry.in_file.number not in file.contracts}
        rows: dict[str, int] = {}
        for entry in entries:
            rows[entry.group.model] = rows.get(entry.group.model, 0) + entry.group.rows
        with spool_file.transaction(file.connection):
            for in_file in new.values():
                file.connection.execute(spool_file.INSERT_CONTRACT, in_file.values)
            if self._traceparents is None:
                file.connection.executemany(spool_file.INSERT_GROUP, [entry.group.values for entry in entries])
            else:
                traced = [(*entry.group.values, entry.traceparents) for entry in entries]
                file.connection.executemany(spool_file.INSERT_TRACED, traced)
            self._save_counts(file, rows)
        file.contracts |= set(new)
        with self._counting:
            for model, count in rows.items():
                self._counts[model].spooled += count
            spooled = {model: counts.spooled for model, counts in self._counts.items() if counts.spooled}
        try:
            locks.write_mark(file.lock, spooled)
        except OSError as error:  # the rows are durable: they are acknowledged, whatever is noted beside them
            _log.warning("mark not written", spool=file.path.name, cause=str(error))

    def _save_counts(self, file: _File, spooled: dict[str, int]) -> None:
        with self._counting:
            for model in spooled:
                self._counts.setdefault(model, Counts())
            changed = self._counts if not self._are_saved else {model: self._counts[model] for model in spooled}
            values = [
                (model, c.answered, c.spooled + spooled.get(model, 0), c.refused, c.dropped, c.unsampled)
                for model, c in changed.items()
            ]
            self._are_saved = True
        file.connection.executemany(spool_file.SET_COUNTS, values)

    def _refuse_if_full(self, file: _File, size: int) -> None:
        try:
            disk = os.statvfs(file.path)
        except FileNotFoundError:
            self._let_go(file)
            raise
        if disk.f_bavail * disk.f_frsize < LEFT_FREE:
            raise _Full(f"its disk has less than {LEFT_FREE:,} bytes left")
        if file.used + file.added + size > self._settings.max_bytes:
            ask = file.connection.execute
            pages = ask("PRAGMA page_count").fetchone()[0] - ask("PRAGMA freelist_count").fetchone()[0]
            file.used, file.added = pages * ask("PRAGMA page_size").fetchone()[0], 0
            if file.used + size > self._settings.max_bytes:
                raise _Full(f"{file.used:,} bytes wait in it, capture.max_bytes is {self._settings.max_bytes:,}")
        file.added += size

    def _look_at(self, error: Exception) -> str:
        """What went wrong, in words; a file that is damaged is given up."""
        self._are_saved = False
        if isinstance(error, sqlite3.Error) and spool_file.is_damage(error) and self._file is not None:
            self._let_go(self._file)
            return f"its file is damaged ({error}), a new one is made"
        return str(error)

    def _let_go(self, file: _File) -> None:
        self._file = None
        with self._counting:
            self._counts = {}
        file.connection.close()
        file.probe.close()
        os.close(file.lock)

    def _open(self) -> _File:
        """Makes the file, under another name at first: one that is called a spool is whole."""
        if self._is_closed:
            raise OSError("it is closed")
        if not self.folder.exists():
            new_folder(self.folder)
            locks.sync(self.folder.parent)
        host = "".join(letter if letter.isalnum() else "_" for letter in socket.gethostname())
        lock = None
        while lock is None:  # a forwarder that looks for what was left half made may take a new lock for such
            path = self.folder / f"{host}-{os.getpid()}-{self.mark}{secrets.token_hex(4)}{spool_file.SUFFIX}"
            new, lock = path.with_suffix(".new"), locks.take_lock(locks.lock_of(path), creates=True)
        try:
            with closing(spool_file.connect(new, creates=True)) as connection:
                connection.executescript(spool_file.SCHEMA)
                if self._traceparents is not None:
                    connection.execute(spool_file.ADD_TRACEPARENTS)
            new.rename(path)
            locks.sync(self.folder)
            self._file = _File(path, spool_file.connect(path), spool_file.connect(path, waits=False), lock)
            self._file.connection.execute(f"PRAGMA wal_autocheckpoint = {spool_file.WAL_PAGES}")
        except BaseException:
            for left in (new, path, locks.lock_of(path)):
                left.unlink(missing_ok=True)
            os.close(lock)
            raise
        return self._file

    def _in_file(self, contract: Contract, schema: pa.Schema, account: str) -> FileContract:
        in_file = self._contracts.get((id(contract), account))
        if (
            in_file is not None
            and in_file.contract is contract
            and (in_file.schema is schema or in_file.schema.equals(schema, check_metadata=True))
        ):
            return in_file
        body = msgspec.json.encode(contract)
        with self._counting:
            number = self._numbers.setdefault((body, schema.serialize().to_pybytes()), len(self._numbers) + 1)
            if len(self._contracts) >= MOST_CONTRACTS:
                self._contracts.clear()
            made = self._contracts[id(contract), account] = FileContract(contract, schema, body, number)
        return made


@dataclass(frozen=True)
class SpoolView:
    """A spool whose rows nobody waits for (`waits` is false), or of which the caller itself says what became of rows
    that were not taken (`counts` is false). See `Spool.append`.
    """

    spool: Spool
    waits: bool = True
    counts: bool = True

    def append(self, contract: Contract, rows: pa.Table, now: datetime) -> int:
        """As `Spool.append`."""
        return self.spool.append(contract, rows, now, waits=self.waits, counts=self.counts)

    def append_all(self, parts: Sequence[Part], now: datetime) -> int:
        """As `Spool.append_all`."""
        return self.spool.append_all(parts, now, waits=self.waits, counts=self.counts)

    def is_free(self) -> bool:
        """As `Spool.is_free`."""
        return self.spool.is_free()


class _Full(Exception):
    """There is no room; it comes back when the forwarder has made some."""
