"""Leases: one run at a time works on a thing, by the database's own time, and each of its writes proves it.

A lease is of one run, not of a process or a thread: each taking has a number above all before it (its fence). Time
is the database's, never a client's, and not the loop's clock either: a lease is about processes that live or have
died, whatever day a replay or a test plays. While it is held it is renewed; every write made under it renews it too,
within its own transaction, and is undone where somebody else has taken the lease since.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    Column("fence", BigInteger, nullable=False),  # counts takings: each run's is above all before it
    Column("expires_at", Moment, nullable=False),  # by the database's own time
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Lease:
    """The right to work on something, as one run has it; a later run's has a higher `fence`."""

    name: str
    fence: int
    holder: str


def this_process() -> str:
    """How this process is named to people who ask who holds a lease."""
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
) -> Iterator[Lease]:
    """Holds a lease for as long as the block takes; raises `refuse` (with `busy` and who it is) while another has it.

    Raises LeaseLost in the block, at its next access to the store, once the lease could not be renewed in time or is
    somebody else's: what that access would have written is undone.
    """
    lease = take_lease(store, name, holder or this_process(), length)
    if lease is None:
        cure = "It is a scheduler or a command; try again when it is done. One that was killed has it until then."
        raise refuse(f"{busy} ({_held(store, name)}).", cure=cure)
    kept = _Kept(store, lease, length)
    renewal = threading.Thread(target=kept.renew, name=f"lease {name}", daemon=True)
    renewal.start()
    try:
        with store.guarded(kept.check, kept.prove):
            yield lease
    finally:
        kept.done.set()
        renewal.join()
        try:
            drop_lease(store, lease)
        except Unavailable as error:  # nobody is kept from it for longer than it lasts
            _log.warning("lease not given back", lease=name, cause=error.cause)


def take_lease(store: Store, name: str, holder: str, length: timedelta) -> Lease | None:
    """Takes a lease that nobody holds; None while anybody does, this very thread as well."""
    table = leases
    with store.write() as connection:
        insert_new(connection, table, {"name": name, "holder": "", "fence": 0, "expires_at": _moment(connection)})
        is_free = (table.c.name == name) & (table.c.expires_at <= _moment(connection))
        taken = {"holder": holder, "fence": table.c.fence + 1, "expires_at": _moment(connection, length)}
        fence = connection.execute(
            table.update().where(is_free).values(**taken).returning(table.c.fence)
        ).scalar_one_or_none()
    return Lease(name, fence, holder) if fence is not None else None


def renew_in(connection: Connection, lease: Lease, length: timedelta) -> bool:
    """Renews a lease within a transaction, which then proves that it was held; False where it is another's by now."""
    later = {"expires_at": _moment(connection, length)}
    return connection.execute(leases.update().where(_is(lease)).values(**later)).rowcount == 1


def drop_lease(store: Store, lease: Lease) -> None:
    """Gives a lease back, if it is still this run's."""
    with store.write() as connection:
        connection.execute(leases.update().where(_is(lease)).values(expires_at=_moment(connection)))


@dataclass
class _Kept:
    """A lease while it is held: renewed in the background, and known to be lost as soon as it is."""

    store: Store
    lease: Lease
    length: timedelta
    done: threading.Event = field(default_factory=threading.Event)
    lost: threading.Event = field(default_factory=threading.Event)
    until: float = 0.0

    def __post_init__(self) -> None:
        self.until = time.monotonic() + self.length.total_seconds()

    def renew(self) -> None:
        """Renews it three times as often as need be, until it is done or lost."""
        while not self.done.wait(self.length.total_seconds() / 3) and not self.lost.is_set():
            begins = time.monotonic()
            try:
                with self.store.write() as connection:
                    self._renewed(begins, is_held=renew_in(connection, self.lease, self.length))
            except Unavailable as error:  # the next may go through; the lease outlasts one that fails
                _log.warning("lease not renewed", lease=self.lease.name, cause=error.cause)

    def check(self) -> None:
        """Raises LeaseLost once it is known to be lost, or can't be known to be held any more."""
        if self.lost.is_set() or time.monotonic() > self.until:
            raise LeaseLost(self.lease.name)

    def prove(self, connection: Connection) -> None:
        """Renews it within a transaction; raises LeaseLost, which undoes it."""
        self._renewed(time.monotonic(), is_held=renew_in(connection, self.lease, self.length))
        if self.lost.is_set():
            raise LeaseLost(self.lease.name)

    def _renewed(self, begins: float, *, is_held: bool) -> None:
        if is_held:
            self.until = max(self.until, begins + self.length.total_seconds())
        else:
            self.lost.set()
            _log.error("lease lost", lease=self.lease.name, fence=self.lease.fence)


def _is(lease: Lease) -> Any:
    return (leases.c.name == lease.name) & (leases.c.fence == lease.fence)


def holder_of(store: Store, name: str) -> str | None:
    """Who holds a lease now; None where nobody does."""
    table = leases
    with store.read() as connection:
        held = select(table.c.holder).where(table.c.name == name, table.c.expires_at > _moment(connection))
        return connection.execute(held).scalar_one_or_none()


def _held(store: Store, name: str) -> str:
    """Who holds a lease and, unless it is renewed, until when."""
    table = leases
    with store.read() as connection:
        holder, until = connection.execute(
            select(table.c.holder, table.c.expires_at).where(table.c.name == name)
        ).one()
    return f"{holder}, until {format_moment(until.replace(microsecond=0))} unless it is renewed"


def _moment(connection: Connection, later: timedelta = timedelta()) -> Any:
    """The database's time in SQL, so much later; not a transaction's beginning, which may have waited for a lock."""
    if connection.dialect.name == "postgresql":
        return func.clock_timestamp() + literal(later, Interval)
    return func.strftime("%Y-%m-%d %H:%M:%f000", "now", f"{later.total_seconds():+.3f} seconds")
