"""What versions are called here: a registered model that is made anew counts from 1 again, and these are others."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from feedback_loop.store import tables
from feedback_loop.store.engine import Store
from feedback_loop.store.records import insert_unless


class VersionNames:
    """Names of versions by their number and when they were made: `1`, and `1.2` for the second that bore it.

    By these names everything is kept: bundles, rows, figures, promotions. Thread-safe; what is known is remembered.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str, datetime], str] = {}

    def name(self, model: str, number: str, created_at: datetime) -> str:
        """The name of a version, which it has from its first look on. Raises Unavailable."""
        key = (model, number, created_at)
        while key not in self._known:
            self._look(model)
            if key not in self._known:
                before = sum(1 for known in self._known if known[:2] == (model, number))
                self._take(key, f"{number}.{before + 1}" if before else number)
                self._look(model)  # somebody else may have been faster
        return self._known[key]

    def _look(self, model: str) -> None:
        table = tables.model_versions
        with self._store.read() as connection:
            for row in connection.execute(select(table).where(table.c.model == model)):
                self._known[model, row.number, row.created_at] = row.version

    def _take(self, key: tuple[str, str, datetime], name: str) -> None:
        table, (model, number, created_at) = tables.model_versions, key
        with self._store.write() as connection:
            insert = insert_unless(connection, table)
            values = {"model": model, "version": name, "number": number, "created_at": created_at}
            connection.execute(insert.values(**values).on_conflict_do_nothing())
