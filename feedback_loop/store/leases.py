"""Leases: one run at a time works on a thing, and each of its writes proves that it still holds the lease.

A lease belongs to one run, not to a process or a thread; its fence is a number higher than that of all before it. It
expires by the database's time, not by a client's or the loop's clock: it is about processes that live or have died,
whatever day a rehearsal or a test plays. A background thread renews it. Every write under it renews it too, in its
own transaction, and is rolled back if another run has taken the lease since.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import BigInteger, Column, Connection, Interval, String, func, literal, select

from feedback_loop.clock import format_moment
from feedback_loop.errors import LeaseLost, Refused, Unavailable
from feedback_loop.store.engine import Store
from feedback_loop.store.records import insert_new
from feedback_loop.store.schema import Moment, shared_table

leases = shared_table(
    "leases",
    None,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("fence", BigInteger, nullable=False),  # one higher with each run that takes the lease
    Column("expires_at", Moment, nullable=False),  # by the database's own time
)

RENEW_SECONDS = 5.0
"""A lease is renewed at least so often, and what a person asks of its run is noticed so soon."""

GRACE_SECONDS = 1.0
"""So long a lease in SQLite that has run out is left to its run. SQLite has one writer at a time, which may have kept
the renewal waiting; once it has ended, a renewal that waits is made within a tenth of a second.
"""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Lease:
    """A lease as one run holds it; a later run's has a higher `fence`."""

    name: str
    fence: int
    holder: str


def this_process() -> str:
    """The name of this process as the holder of a lease."""
    return f"{socket.gethostname()}:{os.getpid()}"


@contextmanager
def hold(
    store: Store,
    name: str,
    length: timedelta,
    *,
    busy: str,
    holder: str = "",
    refuse: type[Refused] = Refused,
    renewed: Callable[[], object] = lambda: None,
) -> Iterator[Lease]:
    """Holds a lease for the duration of the block; raises `refuse` (with `busy` and the holder) if another has it.

    Once the lease could not be renewed in time, or another run has it, the block's next access to the store raises
    LeaseLost, and what it would have written is rolled back. `renewed` is called, in a thread of its own, after each
    renewal: every few seconds.
    """
    lease = take_lease(store, name, holder or this_process(), length)
    if lease is None:
        cure = "It is a scheduler or a command; try again when it is done. One that was killed has it until then."
        raise refuse(f"{busy} ({_holder_and_end(store, name)}).", cure=cure)
    renewal = _Renewal(store, lease, length, renewed)
    thread = threading.Thread(target=renewal.run, name=f"lease {name}", daemon=True)
    thread.start()
    try:
        with store.guarded(renewal.check, renewal.prove):
            yield lease
    finally:
        renewal.done.set()
        thread.join()
        try:
            drop_lease(store, lease)
        except Unavailable as error:  # it expires by itself
            _log.warning("lease not given back", lease=name, cause=error.cause)


def take_lease(store: Store, name: str, holder: str, length: timedelta) -> Lease | None:
    """Takes a lease that nobody holds; None if anybody does, even this thread.

    On SQLite one that has run out is taken only if its run, free to write, has not renewed it for `GRACE_SECONDS`.
    """
    unrenewed = None
    while True:
        begins = time.monotonic()
        with store.write() as connection:
            new = {"name": name, "holder": "", "fence": 0, "expires_at": _moment(connection)}
            insert_new(connection, leases, new)
            before, unrenewed = unrenewed, None if store.is_postgresql else _unrenewed(connection, name)
            could_write = time.monotonic() - begins < GRACE_SECONDS
            if unrenewed is None or (unrenewed == before and could_write):
                return _take(connection, name, holder, length)
        time.sleep(GRACE_SECONDS)


def _unrenewed(connection: Connection, name: str) -> Any:
    """What tells a lease that has run out, and was not given back, from all others; None for another."""
    ran_out = (leases.c.name == name) & (leases.c.holder != "") & (leases.c.expires_at <= _moment(connection))
    return connection.execute(select(leases.c.fence, leases.c.expires_at).where(ran_out)).one_or_none()


def _take(connection: Connection, name: str, holder: str, length: timedelta) -> Lease | None:
    is_free = (leases.c.name == name) & (leases.c.expires_at <= _moment(connection))
    taken = {"holder": holder, "fence": leases.c.fence + 1, "expires_at": _moment(connection, length)}
    take = leases.update().where(is_free).values(**taken).returning(leases.c.fence)
    fence = connection.execute(take).scalar_one_or_none()
    return Lease(name, fence, holder) if fence is not None else None


def renew_in(connection: Connection, lease: Lease, length: timedelta) -> bool:
    """Renews a lease within a transaction; False if another run has taken it."""
    later = {"expires_at": _moment(connection, length)}
    return connection.execute(leases.update().where(_is(lease)).values(**later)).rowcount == 1


def drop_lease(store: Store, lease: Lease) -> None:
    """Gives a lease back, if this run still has it."""
    with store.write() as connection:
        connection.execute(leases.update().where(_is(lease)).values(holder="", expires_at=_moment(connection)))


@dataclass
class _Renewal:
    """Renews a lease in the background and notices when it is lost."""

    store: Store
    lease: Lease
    length: timedelta
    renewed: Callable[[], object]
    done: threading.Event = field(default_factory=threading.Event)
    lost: threading.Event = field(default_factory=threading.Event)
    until: float = 0.0

    def __post_init__(self) -> None:
        self.until = time.monotonic() + self.length.total_seconds()

    def run(self) -> None:
        """Renews the lease every third of its length or more often, until `done` or `lost` is set."""
        often = min(self.length.total_seconds() / 3, RENEW_SECONDS)
        pause = often
        while not self.done.wait(pause) and not self.lost.is_set():
            pause = often if self._renew() else min(often, GRACE_SECONDS / 4)  # who waited in vain waits again

    def _renew(self) -> bool:
        begins = time.monotonic()
        try:
            with self.store.write() as connection:
                self._note(begins, is_held=renew_in(connection, self.lease, self.length))
            self.renewed()
        except Unavailable as error:  # the lease lasts until the next attempts
            _log.warning("lease not renewed", lease=self.lease.name, cause=error.cause)
            return False
        return True

    def check(self) -> None:
        """Raises LeaseLost if the lease is lost: another has it, or it was not renewed in time and can't be now."""
        if time.monotonic() > self.until and not self.lost.is_set():
            Context().run(self._renew)  # a context without guards: this is called by one
        if self.lost.is_set() or time.monotonic() > self.until:
            raise LeaseLost(self.lease.name)

    def prove(self, connection: Connection) -> None:
        """Renews the lease within a transaction; raises LeaseLost, which rolls it back."""
        self._note(time.monotonic(), is_held=renew_in(connection, self.lease, self.length))
        if self.lost.is_set():
            raise LeaseLost(self.lease.name)

    def _note(self, begins: float, *, is_held: bool) -> None:
        if is_held:
            self.until = max(self.until, begins + self.length.total_seconds())
        else:
            self.lost.set()
            _log.error("lease lost", lease=self.lease.name, fence=self.lease.fence)


def _is(lease: Lease) -> Any:
    """Still that run's: no later one has it, nor was it given back, after which a late write would renew it."""
    return (leases.c.name == lease.name) & (leases.c.fence == lease.fence) & (leases.c.holder == lease.holder)


def holder_of(store: Store, name: str) -> str | None:
    """Who holds a lease now, if anybody does."""
    table = leases
    with store.read() as connection:
        holder = select(table.c.holder).where(table.c.name == name, table.c.expires_at > _moment(connection))
        return connection.execute(holder).scalar_one_or_none()


def _holder_and_end(store: Store, name: str) -> str:
    """Who holds a lease, and until when unless it is renewed, as text."""
    table = leases
    with store.read() as connection:
        holder, until = connection.execute(
            select(table.c.holder, table.c.expires_at).where(table.c.name == name)
        ).one()
    return f"{holder}, until {format_moment(until.replace(microsecond=0))} unless it is renewed"


def _moment(connection: Connection, later: timedelta = timedelta()) -> Any:
    """The database's present time plus a duration, in SQL; not the transaction's start, which may be long ago."""
    if connection.dialect.name == "postgresql":
        return func.clock_timestamp() + literal(later, Interval)
    return func.strftime("%Y-%m-%d %H:%M:%f000", "now", f"{later.total_seconds():+.3f} seconds")
