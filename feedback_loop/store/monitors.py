"""The monitors of drift: what each has taken in of its version's windows, changed together with what it has told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from feedback_loop.store import watching_tables
from feedback_loop.store.alerts import Message, raise_in
from feedback_loop.store.engine import Store
from feedback_loop.store.records import as_record, insert_unless


@dataclass(frozen=True)
class DriftMonitor:
    """The state of a version's monitor, after all windows that end by `until`."""

    model: str
    version: str
    until: datetime
    state: dict[str, Any]


def load_monitor(store: Store, model: str, version: str) -> DriftMonitor | None:
    """The monitor of a version; None before its first window."""
    table = watching_tables.drift_monitors
    with store.read() as connection:
        row = connection.execute(
            select(table).where(table.c.model == model, table.c.version == version)
        ).one_or_none()
    return as_record(DriftMonitor, row) if row is not None else None


def advance_monitor(
    store: Store,
    after: DriftMonitor,
    before: datetime | None,
    messages: Iterable[Message],
    routes: Sequence[str],
    now: datetime,
) -> int | None:
    """Keeps the monitor's state after another window, and what it has to tell; returns how many alerts are new.

    All in one transaction, and only if its windows were taken in up to `before` (None: not one): None where another
    process has meanwhile done so.
    """
    table = watching_tables.drift_monitors
    key = {"model": after.model, "version": after.version}
    values = {"until": after.until, "state": after.state}
    with store.write() as connection:
        if before is None:
            insert = insert_unless(connection, table).values(**key, **values)
            kept = insert.on_conflict_do_nothing(index_elements=table.primary_key)
            done = connection.execute(kept.execution_options(preserve_rowcount=True)).rowcount
        else:
            where = [table.c[name] == value for name, value in key.items()]
            done = connection.execute(table.update().where(*where, table.c.until == before).values(**values)).rowcount
        if not done:
            return None
        return sum(raise_in(connection, message, routes, now) for message in messages)
