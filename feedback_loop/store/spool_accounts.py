"""The spools' accounts: how many rows each process answered, made durable and got into the store, by model."""

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
"""What only ever grows in an account."""


OUTCOMES = ":outcomes"
"""What follows a model's name where its outcomes have an account of their own. MLflow's names have no colon."""


def outcomes_of(model: str) -> str:
    """The name of the account of a model's outcomes, beside the one of its predictions."""
    return model + OUTCOMES


def is_of_outcomes(account: str) -> bool:
    """Whether an account of that name counts outcomes, and not predictions."""
    return account.endswith(OUTCOMES)


def model_of(account: str) -> str:
    """The model whose rows an account of that name counts."""
    return account.removesuffix(OUTCOMES)


class SpoolState(StrEnum):
    """What has become of a spool."""

    OPEN = "open"
    ENDED = "ended"  # all of it is in the store
    DAMAGED = "damaged"


@dataclass(frozen=True)
class SpoolAccount:
    """What became of the predictions (or outcomes: `outcomes_of`) of one model in one process; all numbers are rows.

    Whatever happens, `answered` is at most `spooled` + `dropped` + `unsampled`, and `spooled` is `stored` + `waiting`
    + `rejected`.
    """

    spool: str
    model: str
    host: str
    answered: Long  # whose answer left
    spooled: Long  # that were durable before it did
    stored: Long  # of the spool, in the store
    refused: Long  # not answered, since they could not be logged
    dropped: Long  # answered without being logged, as on_full = "drop" wants
    unsampled: Long  # that sampling left out
    waiting: Long  # in the spool and not in the store yet
    rejected: Long  # that the store refused as data: they are kept in the spool
    waiting_since: datetime | None  # when the first of the waiting rows was predicted
    state: SpoolState
    updated_at: datetime

    @property
    def missing(self) -> int:
        """Rows that were durable once and are neither stored nor anywhere in the spool; below zero: too many are."""
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
    """Keeps the last accounts of a spool whose file is about to go; returns them as they are kept.

    What had been told before counts: where the file has forgotten rows (it was torn), the spool is `damaged`.
    """
    known = {each.model: each for each in load_accounts(store, spool=spool)}
    last = {each.model: each for each in accounts}
    ended = [_last_of(known.get(model), last.get(model), now) for model in sorted({*known, *last})]
    save_accounts(store, ended)
    return ended


def load_accounts(store: Store, *, model: str | None = None, spool: str | None = None) -> list[SpoolAccount]:
    """The accounts of all spools that were ever forwarded (of a model, of one spool), by spool and model.

    A model's predictions and outcomes have one each.
    """
    table = spool_accounts
    where: list[ColumnElement[bool]] = []
    if model is not None:
        where.append(table.c.model.in_([model, outcomes_of(model)]))
    if spool is not None:
        where.append(table.c.spool == spool)
    return many(store, SpoolAccount, *where, order_by=("spool", "model"))


def _last_of(known: SpoolAccount | None, last: SpoolAccount | None, now: datetime) -> SpoolAccount:
    if known is None or last is None:
        only = last or known
        assert only is not None  # one of both named the model
        if last is not None:
            return only
        return replace(only, waiting=0, rejected=0, waiting_since=None, state=SpoolState.DAMAGED, updated_at=now)
    most = {name: max(getattr(known, name), getattr(last, name)) for name in COUNTERS}
    state = SpoolState.DAMAGED if known.spooled > last.spooled else last.state
    return replace(last, **most, state=state, updated_at=now)
