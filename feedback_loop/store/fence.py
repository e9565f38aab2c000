"""The fence: no row is recorded at a moment that was read `as_of`, so that what was read never changes.

Writers record their rows with the moment that `enter` returns. Whoever reads `as_of` a moment first closes the fence
there: that waits for writers at work, and later writers get a later moment. This holds however late a transaction
commits and however wrong a clock is; neither an evaluation nor a watermark can miss a row.
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
    # The newest moment at which the fence was closed: rows are recorded after it.
    Column("asked_until", Moment, nullable=False),
)


def enter(connection: Connection, model: str, now: datetime) -> datetime:
    """The moment to record this transaction's rows with: now, or just after the fence if it was closed later.

    The transaction must be one of `Store.write`. Any number of writers may be inside at once.
    """
    if connection.dialect.name == "postgresql":  # SQLite lets one transaction write at a time anyway
        connection.execute(select(func.pg_advisory_xact_lock_shared(_lock(model))))
    asked = asked_in(connection, model)
    return now if asked is None else max(now, asked + timedelta.resolution)


def close(store: Store, model: str, moment: datetime) -> datetime:
    """Closes the fence at a moment and returns it, or the later moment at which it was closed before.

    So a clock that is set back does not hide rows that were read already.
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
    """Waits for the writers inside, and keeps others out until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_lock(model))))


def asked_until(store: Store, model: str) -> datetime | None:
    """The newest moment at which the model's fence was closed."""
    with store.read() as connection:
        return asked_in(connection, model)


def asked_in(connection: Connection, model: str) -> datetime | None:
    """The same within a transaction; after `enter` it does not change until the transaction ends."""
    asked: datetime | None = connection.execute(
        select(fences.c.asked_until).where(fences.c.model == model)
    ).scalar_one_or_none()
    return asked


def _lock(model: str) -> object:
    return func.hashtextextended(_PREFIX + model, 0)
