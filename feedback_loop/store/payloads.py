"""Requests and answers that other servers log as separate events: the first of a pair waits here for the second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Column, Connection, Index, String, case, func, select

from feedback_loop.store.engine import Store
from feedback_loop.store.records import as_record, change, dialect_insert, many, one, remove, upsert
from feedback_loop.store.schema import Long, shared_table

PAGE = 100
"""Calls that are read at a time: their bodies may be large."""


@dataclass(frozen=True)
class Half:
    """A request or an answer, as its event brought it."""

    event: str
    is_request: bool
    body: bytes
    content_type: str = ""
    moment: datetime | None = None


@dataclass(frozen=True)
class Pair:
    """One call: its request, its answer, or both. The bodies are removed once it is done."""

    model: str
    event: str  # what the request and the answer of one call have in common
    request: bytes | None
    answer: bytes | None
    content_type: str | None  # of the request
    requested_at: datetime | None  # as the sender of the request says
    version: str | None  # that answered, if the sender says so
    received_at: datetime
    done_at: datetime | None  # stored for a while after that, so that an event that comes again is recognised

    @property
    def is_done(self) -> bool:
        """Whether it was logged, refused or erased."""
        return self.done_at is not None


pairs = shared_table("payloads", Pair, Index(None, "received_at"), key=["model", "event"])


@dataclass(frozen=True)
class ErasedPayloads:
    """How many waiting calls held an erased key (and were removed whole), and of how many no request can be read."""

    erased: int
    unread: int


@dataclass(frozen=True)
class PayloadAccount:
    """What became of a model's events: pairs `logged` and `refused`, halves `expired` and still `waiting`."""

    logged: Long = 0
    refused: Long = 0  # request and answer do not fit each other
    expired: Long = 0  # the other half never came
    waiting: int = 0


accounts = shared_table(
    "payload_accounts", PayloadAccount, Column("model", String), key=["model"], without=["waiting"]
)


def save_half(store: Store, model: str, half: Half, version: str | None, now: datetime) -> Pair:
    """Stores a half and returns its call as it is then. What is stored of the call already does not change."""
    values: dict[str, Any] = {"model": model, "event": half.event, "version": version, "received_at": now}
    if half.is_request:
        values |= {"request": half.body, "content_type": half.content_type, "requested_at": half.moment}
    else:
        values["answer"] = half.body
    with store.write() as connection:
        insert = dialect_insert(connection, pairs).values(values)
        # An update in any case, so that the row is returned; a call that is done gets no body again.
        stored_first = {
            name: case(
                (pairs.c.done_at.is_not(None), pairs.c[name]),
                else_=func.coalesce(pairs.c[name], insert.excluded[name]),
            )
            for name in values
            if name not in pairs.primary_key.columns
        }
        statement = insert.on_conflict_do_update(index_elements=pairs.primary_key, set_=stored_first)
        return as_record(Pair, connection.execute(statement.returning(*pairs.c)).one())


def finish(store: Store, pair: Pair, became: Literal["logged", "refused"], now: datetime) -> None:
    """Counts a pair, once, and removes its bodies."""
    with store.write() as connection:
        if _end(connection, pair, now):
            _count(connection, pair.model, became, 1)


def forget(store: Store, pair: Pair, now: datetime) -> None:
    """Removes an open call's bodies without counting it; events of it that come later are not stored either."""
    with store.write() as connection:
        _end(connection, pair, now)


def whole_pairs(store: Store, model: str, before: datetime) -> list[Pair]:
    """Up to 1000 open pairs with both halves received before a moment: what a crash has left unfinished."""
    both = pairs.c.request.is_not(None) & pairs.c.answer.is_not(None)
    return many(store, Pair, both, pairs.c.received_at < before, model=model, done_at=None, newest=1000)


def models_with_calls(store: Store) -> set[str]:
    """The models of which a call is in the store, open or done."""
    with store.read() as connection:
        return set(connection.execute(select(pairs.c.model).distinct()).scalars())


def open_requests(store: Store, model: str) -> Iterator[Pair]:
    """The open calls that have a request, by event; `PAGE` are read at a time."""
    has_request, last = pairs.c.request.is_not(None), ""
    while True:
        page = many(
            store, Pair, has_request, pairs.c.event > last, model=model, done_at=None, order_by="event", newest=PAGE
        )
        yield from page
        if len(page) < PAGE:
            return
        last = page[-1].event


def expire(store: Store, model: str, before: datetime) -> int:
    """Removes halves received before a moment, and counts them; removes calls that were done before it, too."""
    is_half = pairs.c.request.is_(None) | pairs.c.answer.is_(None)
    with store.write() as connection:
        expired = remove(connection, Pair, is_half, pairs.c.received_at < before, model=model, done_at=None)
        if expired:
            _count(connection, model, "expired", expired)
        remove(connection, Pair, pairs.c.done_at < before, model=model)
    return expired


def load_account(store: Store, model: str) -> PayloadAccount:
    """What became of a model's events so far."""
    waiting = select(func.count()).where(pairs.c.model == model, pairs.c.done_at.is_(None))
    with store.read() as connection:
        account = one(connection, PayloadAccount, model=model) or PayloadAccount()
        return replace(account, waiting=connection.execute(waiting).scalar_one())


def _end(connection: Connection, pair: Pair, now: datetime) -> int:
    ended = {"request": None, "answer": None, "done_at": now}
    return change(connection, Pair, ended, model=pair.model, event=pair.event, done_at=None)


def _count(connection: Connection, model: str, counter: str, by: int) -> None:
    row = {"model": model, "logged": 0, "refused": 0, "expired": 0} | {counter: by}
    upsert(connection, accounts, [row], changes=lambda new: {counter: accounts.c[counter] + new[counter]})
