"""Outcomes in the spools: durable there while the store is away, and brought to it in their order once it is back.

A correction must come after what it corrects, whichever process took which. So outcomes of all spools of a host go to
the store in the order of their moments, and one that comes while others of its model wait waits behind them.
"""

from __future__ import annotations

import heapq
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog

from feedback_loop.capture import salvage
from feedback_loop.capture.drain import MOST_ROWS, PASSES, Backoffs, Drained
from feedback_loop.capture.groups import Group
from feedback_loop.capture.quiet import Quiet
from feedback_loop.capture.sink import Part
from feedback_loop.capture.spool import Spool
from feedback_loop.capture.spool_file import SUFFIX, SpoolFile
from feedback_loop.clock import Clock
from feedback_loop.schema import Contract
from feedback_loop.store import Store
from feedback_loop.store.outcomes import append_spooled
from feedback_loop.store.spool_accounts import outcomes_of

MOST_GROUPS = 200
"""So many groups of each spool are in memory at a time."""

_TIMED = b"timed"

_log = structlog.get_logger(__name__)

Guarded = tuple[Path, AbstractContextManager[Any] | None]
"""A spool, and what keeps its owner from writing where that is this process."""


def spool_outcomes(spool: Spool, contract: Contract, rows: pa.Table, now: datetime, *, timed: bool) -> None:
    """Makes outcomes durable in a spool (rows and `timed` as `feedback_loop.store.outcomes` has them).

    Raises Unavailable where it takes none.
    """
    marked = rows.replace_schema_metadata({_TIMED: b"1" if timed else b"0"})
    spool.append_all([Part(contract, marked.schema, marked, are_outcomes=True)], now)


def outcomes_wait(folder: Path, model: str, quiet: Quiet) -> bool:
    """Whether outcomes of a model wait in a spool of the folder, as far as that can be read.

    Those that held no outcomes and are `quiet` since are not opened.
    """
    paths = [*folder.glob(f"*{SUFFIX}")]
    quiet.keep({*paths})
    for path in paths:
        if quiet.has(path):
            continue
        try:
            with SpoolFile.open(path) as file:
                version = file.version()
                if file.outcomes_wait(outcomes_of(model)):
                    return True
                if file.newest_outcomes() is None:
                    quiet.note(file, version)
        except sqlite3.Error:
            if path.exists():  # else a forwarder has just ended it
                return True
    return False


@dataclass(frozen=True)
class _Waiting:
    """A group of outcomes in its file."""

    file: SpoolFile
    group: Group

    @property
    def kind(self) -> tuple[str, str, int]:
        """What those have in common that are stored together."""
        return self.file.name, self.group.model, self.group.contract


class OutcomeForwarder:
    """Brings outcomes to the store: each group once, and whole or not at all."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def forward(
        self,
        spools: Iterable[Guarded],
        quiet: Quiet,
        done: Drained,
        backoffs: Backoffs,
        resting: set[str],
        until: float | None,
    ) -> None:
        """Moves what waits in these spools, but for the models that rest, which `backoffs` is told of.

        Spools that are `quiet` are not opened.
        """
        with _in_order(spools, quiet) as waiting:
            for batch in _batches(waiting):
                account = batch[0].group.model
                if until is not None and time.monotonic() > until:
                    return
                if account in done.held or account in resting:
                    continue
                with backoffs.attempt(account, done):
                    self._forward(batch, done)

    def save(self, file: SpoolFile, group: Group) -> int:
        """Stores one group, of a damaged file; returns how many of its rows were not taken before."""
        file.load_contracts([group.contract])
        return self._append([_Waiting(file, group)])

    def _forward(self, batch: Sequence[_Waiting], done: Drained) -> None:
        """Stores groups together; where that is refused, each by itself, and puts those aside that are no good."""
        rejected: list[tuple[Group, str]] = []
        try:
            self._append(batch)
        except PASSES:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, it must not keep back what comes behind)
            if len(batch) > 1:
                for waiting in batch:
                    self._forward([waiting], done)
                return
            group = batch[0].group
            rejected = [(group, str(error))]
            _log.error("outcomes rejected", spool=batch[0].file.name, account=group.model, causes=[str(error)])
            done.rejected += group.rows
        done.stored += batch[0].file.settle([waiting.group for waiting in batch], rejected)

    def _append(self, batch: Sequence[_Waiting]) -> int:
        file = batch[0].file
        contract, first = file.unpack([batch[0].group])
        timed = (first.schema.metadata or {}).get(_TIMED) == b"1"
        groups = {waiting.group.seq: file.unpack([waiting.group])[1] for waiting in batch}
        return append_spooled(self._store, contract, file.name, groups, self._clock(), timed=timed).received


@contextmanager
def _in_order(spools: Iterable[Guarded], quiet: Quiet) -> Iterator[Iterator[_Waiting]]:
    """The groups that wait, in the order in which they were acknowledged.

    First the newest moment of all spools is taken, then what each has until then is read: what was acknowledged
    before any of these was in its file by then. So none is overtaken by one that came later to another file. A quiet
    spool may have been written meanwhile: then it is read like the others.
    """
    with ExitStack() as stack:
        files: list[SpoolFile] = []
        unopened, newest = [], 0
        for path, guard in spools:
            if quiet.has(path):
                unopened.append((path, guard))
            else:
                newest = max(newest, _open(path, guard, stack, files))
        for path, guard in unopened:
            if newest and not quiet.has(path):
                _open(path, guard, stack, files)
        yield heapq.merge(*(_until(file, newest) for file in files), key=lambda waiting: waiting.group.moment)


def _open(path: Path, guard: AbstractContextManager[Any] | None, stack: ExitStack, files: list[SpoolFile]) -> int:
    """Adds a spool to the files; returns the moment of its newest outcomes, or 0."""
    try:
        salvage.refuse_empty(path)
        file = stack.enter_context(SpoolFile.open(path, guard))
        moment = file.newest_outcomes()
    except (sqlite3.Error, OSError):
        return 0  # it was just ended; else its visit says what is wrong, and saves the rest
    files.append(file)
    return moment or 0


def _until(file: SpoolFile, newest: int) -> Iterator[_Waiting]:
    try:
        for group in file.read_outcomes(MOST_GROUPS):
            if group.moment > newest:
                return
            file.load_contracts([group.contract])
            yield _Waiting(file, group)
    except sqlite3.DatabaseError as error:
        if file.path.exists():  # else another forwarder has just ended it
            _log.warning("outcomes not read", spool=file.name, cause=str(error))


def _batches(waiting: Iterable[_Waiting]) -> Iterator[list[_Waiting]]:
    """Groups that follow each other and are stored together: of one contract, of one spool."""
    for _, same in groupby(waiting, key=lambda item: item.kind):
        batch, rows = [], 0
        for item in same:
            batch.append(item)
            rows += item.group.rows
            if rows >= MOST_ROWS:
                yield batch
                batch, rows = [], 0
        if batch:
            yield batch
