"""What the spools' accounts say: those of this host's folder beside the store's, and every difference in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from feedback_loop.capture.spool_file import SUFFIX, SpoolFile, blank_account
from feedback_loop.clock import format_moment
from feedback_loop.store.spool_accounts import SpoolAccount, SpoolState


@dataclass(frozen=True)
class Notice:
    """Something that a spool's account shows and somebody should know. `figure` changes when there is more of it."""

    kind: str
    figure: str
    words: str


def local_accounts(folder: Path, now: datetime) -> list[SpoolAccount]:
    """The accounts of the spools that lie in a folder; of one that can't be read, one that says so."""
    accounts: list[SpoolAccount] = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            with SpoolFile.open(path) as file:
                accounts += file.accounts(now)
        except sqlite3.Error:
            if path.exists():  # else a forwarder has just ended it
                accounts.append(blank_account(path, "", 0, now))
    return accounts


def put_aside(folder: Path) -> dict[str, dict[str, int]]:
    """Which models' rows the store refused for good, of those in the spools of a folder: how many, by cause."""
    by_model: dict[str, dict[str, int]] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            with SpoolFile.open(path) as file:
                for model, cause, rows in file.causes():
                    by_cause = by_model.setdefault(model, {})
                    words = cause.partition("\n")[0]  # what a database says further on may have rows in it
                    by_cause[words] = by_cause.get(words, 0) + rows
        except sqlite3.Error:
            continue  # its account says that it can't be read
    return by_model


def merge_accounts(stored: Iterable[SpoolAccount], local: Iterable[SpoolAccount]) -> list[SpoolAccount]:
    """All accounts by spool and model: a spool's own file knows more than the store, unless the spool has ended."""
    accounts = {(account.spool, account.model): account for account in stored}
    for account in local:
        older = accounts.get((account.spool, account.model))
        if older is None or older.state is SpoolState.OPEN:
            accounts[account.spool, account.model] = account
    return [accounts[key] for key in sorted(accounts)]


def notices(account: SpoolAccount, now: datetime, alert_after: timedelta) -> Iterator[Notice]:
    """What is not as it should be, the gravest first."""
    if account.state is SpoolState.DAMAGED:
        yield Notice("damaged", "", "its file is damaged; what could be read of it was stored")
    if account.missing:
        amount, what = abs(account.missing), "lost" if account.missing > 0 else "stored without being spooled"
        yield Notice("difference", f"{account.missing}", f"{amount:,} rows are {what}")
    unlogged = account.answered - account.spooled - account.dropped - account.unsampled
    if unlogged > 0:
        yield Notice("unlogged", f"{unlogged}", f"{unlogged:,} rows were answered and are in no account")
    if account.rejected:
        words = f"{account.rejected:,} rows were refused by the store as data; they are kept in the spool"
        yield Notice("rejected", f"{account.rejected}", words)
    if account.dropped:
        yield Notice("dropped", f"{account.dropped}", f"{account.dropped:,} rows were answered without being logged")
    if account.refused:
        words = f"{account.refused:,} rows were not answered, since they could not be logged"
        yield Notice("refused", f"{account.refused}", words)
    since = account.waiting_since
    if account.waiting and since is not None and now - since > alert_after:
        words = f"{account.waiting:,} rows have not reached the store, the first of them since {format_moment(since)}"
        yield Notice("waiting", since.isoformat(), words)
