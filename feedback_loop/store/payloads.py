"""Requests and answers that others' servers log as events of their own: each waits here for its other half."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Column, Connection, Index, LargeBinary, String, and_, case, func, select

from feedback_loop.store.engine import Store
from feedback_loop.store.records import insert_unless, one
from feedback_loop.store.schema import Long, Moment, shared_table

_t = shared_table(
    "payloads",
    None,
    Column("model", String, primary_key=True),
    Column("event", String, primary_key=True),  # what the request and the answer of one call have in common
    Column("request", LargeBinary),  # the bodies, until both are there and logged
    Column("answer", LargeBinary),
    Column("content_type", String),  # of the request
    Column("requested_at", Moment),  # when its sender says that the request was made
    Column("version", String),  # that answered, where the sender said so
    Column("received_at", Moment, nullable=False),
    Column("done_at", Moment),  # kept for a while, so that an event that comes again is known
    Index(None, "received_at"),
)

_PAGE = 100
"""Bodies may be large: so many are in memory at once."""


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
    """What is known of one call: its request, its answer, or both."""

    model: str
    event: str
    request: bytes | None
    answer: bytes | None
    content_type: str
    requested_at: datetime
    version: str | None
    is_done: bool


@dataclass(frozen=True)
class ErasedPayloads:
    """Calls that waited and held an erased key (they are gone whole), and those whose request could not be read."""

    erased: int
    unread: int


@dataclass(frozen=True)
class PayloadAccount:
    """What became of a model's events: pairs `logged` and `refused`, halves `expired` and still `waiting`."""

    logged: Long = 0
    refused: Long = 0  # they do not fit each other
    expired: Long = 0  # their other half never came
    waiting: int = 0


_accounts = shared_table(
    "payload_accounts", PayloadAccount, Column("model", String), key=["model"], without=["waiting"]
)


def keep_half(store: Store, model: str, half: Half, version: str | None, now: datetime) -> Pair:
    """Makes a half durable and says what is there of its call by now. One that is there already stays as it was."""
    values: dict[str, Any] = {"model": model, "event": half.event, "version": version, "received_at": now}
    if half.is_request:
        values |= {"request": half.body, "content_type": half.content_type, "requested_at": half.moment}
    else:
        values["answer"] = half.body
    with store.write() as connection:
        insert = insert_unless(connection, _t).values(values)
        # The row is written in any case, so that it comes back; one that is done gets no body again.
        keep = {
            name: case(
                (_t.c.done_at.is_not(None), _t.c[name]), else_=func.coalesce(_t.c[name], insert.excluded[name])
            )
            for name in values
            if name not in ("model", "event")
        }
        statement = insert.on_conflict_do_update(index_elements=["model", "event"], set_=keep).returning(*_t.c)
        return _pair(connection.execute(statement).one())


def finish(store: Store, pair: Pair, became: Literal["logged", "refused"], now: datetime) -> None:
    """Counts a pair, once, and lets go of its bodies."""
    with store.write() as connection:
        open_still = and_(_t.c.model == pair.model, _t.c.event == pair.event, _t.c.done_at.is_(None))
        done = connection.execute(_t.update().where(open_still).values(request=None, answer=None, done_at=now))
        if done.rowcount:
            _count(connection, pair.model, became, 1)


def whole_pairs(store: Store, model: str, before: datetime) -> list[Pair]:
    """Pairs both of whose halves were there at that moment and that were not finished: a crash came between."""
    both = and_(_t.c.request.is_not(None), _t.c.answer.is_not(None), _t.c.received_at < before)
    with store.read() as connection:
        rows = connection.execute(select(_t).where(_t.c.model == model, _t.c.done_at.is_(None), both).limit(1000))
        return [_pair(row) for row in rows]


def open_requests(store: Store, model: str) -> Iterator[Pair]:
    """The calls whose request is here and that are not finished, a few at a time."""
    waiting = and_(_t.c.model == model, _t.c.done_at.is_(None), _t.c.request.is_not(None))
    last = ""
    while True:
        with store.read() as connection:
            some = select(_t).where(waiting, _t.c.event > last).order_by(_t.c.event).limit(_PAGE)
            pairs = [_pair(row) for row in connection.execute(some)]
        yield from pairs
        if len(pairs) < _PAGE:
            return
        last = pairs[-1].event


def forget(store: Store, pair: Pair, now: datetime) -> None:
    """Lets go of an open call's bodies, uncounted; what else comes of it is not kept either."""
    with store.write() as connection:
        open_still = and_(_t.c.model == pair.model, _t.c.event == pair.event, _t.c.done_at.is_(None))
        connection.execute(_t.update().where(open_still).values(request=None, answer=None, done_at=now))


def expire(store: Store, model: str, before: datetime) -> int:
    """Gives up halves that were received before that moment and counts them; forgets calls that are done so long."""
    old = and_(_t.c.model == model, _t.c.received_at < before)
    half = _t.c.request.is_(None) | _t.c.answer.is_(None)
    with store.write() as connection:
        expired = connection.execute(_t.delete().where(old, _t.c.done_at.is_(None), half)).rowcount
        if expired:
            _count(connection, model, "expired", expired)
        connection.execute(_t.delete().where(_t.c.model == model, _t.c.done_at < before))
    return expired


def load_account(store: Store, model: str) -> PayloadAccount:
    """What became of a model's events so far."""
    waiting = select(func.count()).where(_t.c.model == model, _t.c.done_at.is_(None))
    with store.read() as connection:
        known = one(connection, PayloadAccount, model=model) or PayloadAccount()
        return replace(known, waiting=connection.execute(waiting).scalar_one())


def _count(connection: Connection, model: str, what: str, by: int) -> None:
    counts = {"logged": 0, "refused": 0, "expired": 0} | {what: by}
    insert = insert_unless(connection, _accounts).values(model=model, **counts)
    more = {what: _accounts.c[what] + by}
    connection.execute(insert.on_conflict_do_update(index_elements=["model"], set_=more))


def _pair(row: Any) -> Pair:
    return Pair(
        model=row.model,
        event=row.event,
        request=row.request,
        answer=row.answer,
        content_type=row.content_type or "",
        requested_at=row.requested_at or row.received_at,
        version=row.version,
        is_done=row.done_at is not None,
    )
