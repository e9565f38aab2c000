"""What is left of a spool whose owner is gone: whether it is an orphan, what of it can be read, where it goes."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import structlog

from feedback_loop.capture import locks, spool_file
from feedback_loop.capture.groups import Group, is_intact
from feedback_loop.capture.locks import read_mark
from feedback_loop.capture.spool_file import SpoolFile
from feedback_loop.clock import Clock
from feedback_loop.store.spool_accounts import SpoolAccount, SpoolState

_EVERY = 2**62

_log = structlog.get_logger(__name__)


def refuse_empty(path: Path) -> None:
    """SQLite would take an empty file for a new one, and do away with the log beside it."""
    if not path.stat().st_size:
        raise sqlite3.DatabaseError("the file is empty")


@contextmanager
def owned(path: Path) -> Iterator[bool]:
    """Whether the spool's owner is gone; if so, nobody else takes it for an orphan within the block.

    One without a lock file is nobody's orphan: whoever removed the file, the owner may live.
    """
    descriptor = locks.take_lock(locks.lock_of(path), creates=False)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def delete(path: Path) -> None:
    """Removes a spool, its lock last: as long as there is one, it is held."""
    new = path.with_suffix(".new")
    for base in (path, new):
        for suffix in ("", spool_file.WAL, "-shm", "-journal"):
            base.with_name(base.name + suffix).unlink(missing_ok=True)
    locks.lock_of(path).unlink(missing_ok=True)


def keep_damaged(path: Path) -> None:
    """Keeps a spool's file under another name, where no forwarder looks for it any more."""
    for old in (path, path.with_name(path.name + spool_file.WAL)):
        if old.exists():
            old.rename(old.with_name(old.name.replace(spool_file.SUFFIX, spool_file.SUFFIX + spool_file.DAMAGED)))
    delete(path)


def as_marked(path: Path, accounts: list[SpoolAccount], now: datetime) -> list[SpoolAccount]:
    """The accounts, with all rows that the owner noted as spooled: where its log was torn off, a file knows less."""
    by_model = {account.model: account for account in accounts}
    for model, spooled in read_mark(path).items():
        account = by_model.get(model) or spool_file.blank_account(path, model, 0, now)
        if account.spooled < spooled:
            by_model[model] = replace(account, spooled=spooled, state=SpoolState.DAMAGED)
    return list(by_model.values())


def last_accounts(
    path: Path,
    own: list[SpoolAccount],
    in_store: list[SpoolAccount],
    saved: Counter[str],
    new: Counter[str],
    now: datetime,
) -> list[SpoolAccount]:
    """The last accounts of a damaged spool: what it says itself, else what the store was told of it before.

    `saved` rows were read from it and are in the store, `new` of them were not before. To what the file says it
    stored come all that were in it still; to what the store was told, which may be later, only those that are new.
    """
    marked, by_file = read_mark(path), {account.model: account for account in own}
    by_store = {account.model: account for account in in_store}
    last = []
    for model in sorted({*marked, *by_file, *by_store, *saved} or {""}):
        account = (
            by_file.get(model) or by_store.get(model) or spool_file.blank_account(path, model, saved[model], now)
        )
        rows = new[model] if model in by_store and model not in by_file else saved[model]
        spooled = max(account.spooled, marked.get(model, 0))
        last.append(
            replace(
                account,
                spooled=spooled,
                stored=min(account.stored + rows, spooled),
                waiting=0,
                rejected=0,
                waiting_since=None,
                state=SpoolState.DAMAGED,
            )
        )
    return last


def readable(file: SpoolFile) -> Iterator[Group]:
    """The groups before the first damage, and those behind the last."""
    for newest_first in (False, True):
        try:
            for group in file.read(_EVERY, _EVERY, newest_first=newest_first, has_outcomes=True):
                if is_intact(group):
                    yield group
                else:
                    _log.error("group lost", spool=file.name, group=group.seq, cause="its checksum is wrong")
        except sqlite3.DatabaseError as error:
            _log.warning("spool unreadable", spool=file.name, newest_first=newest_first, cause=str(error))


def readable_accounts(file: SpoolFile, clock: Clock) -> list[SpoolAccount]:
    """The accounts of a damaged file, none where they can't be read."""
    try:
        return file.accounts(clock(), SpoolState.DAMAGED)
    except sqlite3.DatabaseError as error:
        _log.warning("accounts unreadable", spool=file.name, cause=str(error))
        return []
