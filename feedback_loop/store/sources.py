"""How far each source of outcomes has been read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select

from feedback_loop.store import tables
from feedback_loop.store.engine import Store
from feedback_loop.store.records import insert_unless


def load_watermark(store: Store, model: str, source: str) -> Any:
    """The newest time, number or text that was taken in; None before the first poll."""
    table = tables.outcome_sources.c
    with store.read() as connection:
        kept = connection.execute(
            select(table.watermark).where(table.model == model, table.source == source)
        ).scalar_one_or_none()
    if kept is None:
        return None
    return datetime.fromisoformat(kept["value"]) if kept["is_time"] else kept["value"]


def save_watermark(store: Store, model: str, source: str, watermark: Any, now: datetime) -> None:
    """Keeps how far the source has been read."""
    table = tables.outcome_sources
    is_time = isinstance(watermark, datetime)
    value = {"is_time": is_time, "value": watermark.isoformat() if is_time else watermark}
    with store.write() as connection:
        insert = insert_unless(connection, table)
        insert = insert.values(model=model, source=source, watermark=value, taken_at=now)
        anew = {"watermark": insert.excluded.watermark, "taken_at": insert.excluded.taken_at}
        connection.execute(insert.on_conflict_do_update(index_elements=table.primary_key, set_=anew))
