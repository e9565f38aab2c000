"""The fence between what is written and what is asked `as_of` a moment, so that an answer never changes later.

Writers stamp their rows with the moment that `enter` gives them. Whoever asks what is known up to a moment first
closes the fence there: it waits for the writers that are under way, and those who come after get a later moment. So
no row appears behind a moment that was asked for, however late its transaction commits and however wrong a clock is:
neither an evaluation `as_of` then nor a watermark can miss it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Column, Connection, String, func, select

from feedback_loop.store.engine import Store
from feedback_loop.store.schema import Moment, shared_table

_PREFIX = "feedback_loop.fence:"

fences = shared_table(
    "fences",
    None,
    Column("model", String, primary_key=True),
    # Up to here everything was asked for: what is learned from now on is recorded after it.
    Column("asked_until", Moment, nullable=False),
)


def enter(connection: Connection, model: str, now: datetime) -> datetime:
    """The moment that rows written in this transaction are recorded with: now, or just after what was asked for.

    The transaction must be one of `Store.write`. Any number of writers may be inside at once.
    """
    if connection.dialect.name == "postgresql":  # SQLite lets one transaction write at a time anyway
        connection.execute(select(func.pg_advisory_xact_lock_shared(_lock(model))))
    asked = asked_in(connection, model)
    return now if asked is None else max(now, asked + timedelta.resolution)


def close(store: Store, model: str, moment: datetime) -> datetime:
    """Makes what is known at a moment final. Returns it, or the later one that was asked for before.

    A clock that was set back makes nothing unknown that was known already.
    """
    with store.write() as connection:
        shut(connection, model)
        asked = asked_in(connection, model)
        if asked is None:
            connection.execute(fences.insert().values(model=model, asked_until=moment))
        elif asked < moment:
            connection.execute(fences.update().where(fences.c.model == model).values(asked_until=moment))
    return moment if asked is None else max(moment, asked)


def shut(connection: Connection, model: str) -> None:
    """Waits for the writers that are inside, and keeps others out until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_lock(model))))


def asked_until(store: Store, model: str) -> datetime | None:
    """The newest moment as of which the model was asked about."""
    with store.read() as connection:
        return asked_in(connection, model)


def asked_in(connection: Connection, model: str) -> datetime | None:
    """The same within a transaction: after `enter` it stays so until the transaction ends."""
    asked: datetime | None = connection.execute(
        select(fences.c.asked_until).where(fences.c.model == model)
    ).scalar_one_or_none()
    return asked


def _lock(model: str) -> object:
    return func.hashtextextended(_PREFIX + model, 0)
