"""Accounts of spools: how many rows of each model a process answered, made durable and brought into the store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, and_

from feedback_loop.store.engine import Store
from feedback_loop.store.records import NewRow, as_row, many, upsert
from feedback_loop.store.schema import Long, shared_table

COUNTERS = ("answered", "spooled", "stored", "refused", "dropped", "unsampled")
"""The counts of an account that never decrease."""


OUTCOMES = ":outcomes"
"""Suffix of the account name of a model's outcomes. MLflow's model names have no colon."""


def outcomes_of(model: str) -> str:
    """The account name of a model's outcomes; that of its predictions is the model's name."""
    return model + OUTCOMES


def is_of_outcomes(account: str) -> bool:
    """Whether an account of that name counts outcomes rather than predictions."""
    return account.endswith(OUTCOMES)


def model_of(account: str) -> str:
    """The model whose rows an account of that name counts."""
    return account.removesuffix(OUTCOMES)


class SpoolState(StrEnum):
    """The state of a spool."""

    OPEN = "open"
    ENDED = "ended"  # all its rows are in the store
    DAMAGED = "damaged"


@dataclass(frozen=True)
class SpoolAccount:
    """What became of the predictions (or outcomes: `outcomes_of`) of one model in one process, in rows.

    Always: `answered` <= `spooled` + `dropped` + `unsampled`, and `spooled` = `stored` + `waiting` + `rejected`.
    """

    spool: str
    model: str
    host: str
    answered: Long  # whose answer was sent
    spooled: Long  # durable before the answer was sent
    stored: Long  # from the spool into the store
    refused: Long  # not answered, because they could not be logged
    dropped: Long  # answered without being logged (on_full = "drop")
    unsampled: Long  # left out by sampling
    waiting: Long  # in the spool, not yet in the store
    rejected: Long  # refused by the store as data: they stay in the spool
    waiting_since: datetime | None  # when the oldest waiting row was predicted
    state: SpoolState
    updated_at: datetime

    @property
    def missing(self) -> int:
        """Rows that were durable and are neither stored nor in the spool; negative if there are too many."""
        return self.spooled - self.stored - self.waiting - self.rejected


spool_accounts = shared_table("spool_accounts", SpoolAccount, key=["spool", "model"])


def save_accounts(store: Store, accounts: Iterable[SpoolAccount]) -> None:
    """Stores accounts. One that is older than what is stored changes nothing; those of an ended spool are final."""
    stored = spool_accounts.c

    def is_newer(new: NewRow) -> ColumnElement[bool]:
        grown = (stored[counter] <= new[counter] for counter in ("answered", "spooled", "stored"))
        return and_(stored.state == SpoolState.OPEN, *grown)

    with store.write() as connection:
        upsert(connection, spool_accounts, [as_row(account) for account in accounts], where=is_newer)


def end_accounts(store: Store, spool: str, accounts: Iterable[SpoolAccount], now: datetime) -> list[SpoolAccount]:
    """Stores the last accounts of a spool whose file is about to be deleted; returns them as stored.

    Where the store has seen more rows than the file has (it was torn), the spool is `damaged`.
    """
    stored = {account.model: account for account in load_accounts(store, spool=spool)}
    last = {account.model: account for account in accounts}
    ended = [_merged(stored.get(model), last.get(model), now) for model in sorted({*stored, *last})]
    save_accounts(store, ended)
    return ended


def load_accounts(store: Store, *, model: str | None = None, spool: str | None = None) -> list[SpoolAccount]:
    """The accounts of spools (of a model's predictions and outcomes, of one spool), by spool and model."""
    table = spool_accounts
    where: list[ColumnElement[bool]] = []
    if model is not None:
        where.append(table.c.model.in_([model, outcomes_of(model)]))
    if spool is not None:
        where.append(table.c.spool == spool)
    return many(store, SpoolAccount, *where, order_by=("spool", "model"))


def _merged(stored: SpoolAccount | None, last: SpoolAccount | None, now: datetime) -> SpoolAccount:
    if stored is None:
        assert last is not None  # one of both has the model
        return last
    if last is None:
        return replace(stored, waiting=0, rejected=0, waiting_since=None, state=SpoolState.DAMAGED, updated_at=now)
    counters = {name: max(getattr(stored, name), getattr(last, name)) for name in COUNTERS}
    state = SpoolState.DAMAGED if stored.spooled > last.spooled else last.state
    return replace(last, **counters, state=state, updated_at=now)
