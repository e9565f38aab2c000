"""Diagnoses as they were made, and whether they were right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select

from feedback_loop.clock import Window
from feedback_loop.store import watching_tables
from feedback_loop.store.engine import Store
from feedback_loop.store.records import insert_one


@dataclass(frozen=True)
class Diagnosis:
    """What was recommended for a version after a window, as of a moment, with the figures that speak for it.

    `was_right` is None until what followed has shown it.
    """

    model: str
    version: str
    incident_id: int | None
    window: Window
    as_of: datetime
    recommendation: str
    summary: str
    evidence: dict[str, Any]
    was_right: bool | None = None
    judged_because: str | None = None
    diagnosis_id: int = 0


def record_diagnosis(store: Store, made: Diagnosis) -> Diagnosis:
    """Keeps a diagnosis; returns it with its id."""
    values = {
        "model": made.model,
        "version": made.version,
        "incident_id": made.incident_id,
        "window_start": made.window.start,
        "window_end": made.window.end,
        "as_of": made.as_of,
        "recommendation": made.recommendation,
        "summary": made.summary,
        "evidence": made.evidence,
    }
    with store.write() as connection:
        identifier = insert_one(connection, watching_tables.diagnoses.insert().values(**values))
    return replace(made, diagnosis_id=identifier)


def load_diagnoses(store: Store, model: str, incident_id: int | None = None) -> list[Diagnosis]:
    """The diagnoses of a model (of one incident), oldest first."""
    table = watching_tables.diagnoses
    where = [table.c.model == model] + ([table.c.incident_id == incident_id] if incident_id is not None else [])
    with store.read() as connection:
        rows = connection.execute(select(table).where(*where).order_by(table.c.diagnosis_id)).all()
    return [_diagnosis(row) for row in rows]


def save_judgement(store: Store, diagnosis_id: int, *, right: bool, because: str) -> None:
    """Keeps whether a diagnosis was right; one that has been judged stays as it was judged."""
    table = watching_tables.diagnoses
    where = (table.c.diagnosis_id == diagnosis_id) & table.c.was_right.is_(None)
    with store.write() as connection:
        connection.execute(table.update().where(where).values(was_right=right, judged_because=because))


def _diagnosis(row: Row[Any]) -> Diagnosis:
    return Diagnosis(
        model=row.model,
        version=row.version,
        incident_id=row.incident_id,
        window=Window(row.window_start, row.window_end),
        as_of=row.as_of,
        recommendation=row.recommendation,
        summary=row.summary,
        evidence=row.evidence,
        was_right=row.was_right,
        judged_because=row.judged_because,
        diagnosis_id=row.diagnosis_id,
    )
