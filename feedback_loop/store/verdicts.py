"""Verdicts and the incidents that they open: recorded together, so that neither is without the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, exc, false, select

from feedback_loop.clock import Window
from feedback_loop.errors import Refused
from feedback_loop.store import tables
from feedback_loop.store.engine import Store
from feedback_loop.store.records import as_record, insert_one, insert_unless


class State(StrEnum):
    """What a policy concludes."""

    OK = "ok"
    WARNING = "warning"
    DEGRADED = "degraded"
    INSUFFICIENT_DATA = "insufficient_data"


@dataclass(frozen=True)
class Verdict:
    """What the policy concluded from the cohort in `window`, with the evidence and the monitor's state after it."""

    model: str
    version: str
    decided_at: datetime
    window: Window
    state: State
    summary: str
    evidence: dict[str, Any]
    monitor: dict[str, Any]
    verdict_id: int | None = None


@dataclass(frozen=True)
class Incident:
    """A degradation from its opening to its end."""

    incident_id: int
    model: str
    version: str
    verdict_id: int
    title: str
    opened_at: datetime
    closed_at: datetime | None = None
    closed_because: str | None = None


@dataclass(frozen=True)
class Message:
    """What is to be told, once per subject."""

    subject: str
    title: str
    body: str


@dataclass(frozen=True)
class Alert:
    """One message about an incident, or about another subject (`spool:…`), on one route."""

    alert_id: int
    subject: str
    incident_id: int | None
    route: str
    title: str
    body: str
    state: str
    attempts: int
    next_attempt_at: datetime
    cause: str | None = None


def record_verdict(store: Store, verdict: Verdict, routes: Sequence[str] = ()) -> tuple[Verdict, Incident | None]:
    """Stores the verdict and, where it is degraded and no incident is open, opens one with an alert per route.

    All in one transaction. Raises Refused where another process has already judged this cohort.
    """
    try:
        with store.write() as connection:
            values = {
                "model": verdict.model,
                "version": verdict.version,
                "decided_at": verdict.decided_at,
                "window_start": verdict.window.start,
                "window_end": verdict.window.end,
                "state": str(verdict.state),
                "summary": verdict.summary,
                "evidence": verdict.evidence,
                "monitor": verdict.monitor,
            }
            identifier = insert_one(connection, tables.verdicts.insert().values(**values))
            saved = replace(verdict, verdict_id=identifier)
            opened = None
            if verdict.state is State.DEGRADED and _open_incident(connection, verdict.model) is None:
                opened = _open(connection, saved, routes)
            return saved, opened
    except exc.IntegrityError as error:
        raise Refused(
            f"The cohort {verdict.window} of {verdict.model} version {verdict.version} has been judged already.",
            cure="Another scheduler runs on this store; its verdict stands.",
        ) from error


def latest_verdict(store: Store, model: str, version: str | None = None) -> Verdict | None:
    """The verdict on the newest cohort (of one version)."""
    found = load_verdicts(store, model, version, newest=1)
    return found[0] if found else None


def load_verdicts(store: Store, model: str, version: str | None = None, newest: int | None = None) -> list[Verdict]:
    """Verdicts, newest first."""
    table = tables.verdicts
    where = [table.c.model == model] + ([table.c.version == version] if version is not None else [])
    with store.read() as connection:
        rows = connection.execute(select(table).where(*where).order_by(table.c.verdict_id.desc()).limit(newest)).all()
    return [_verdict(row) for row in rows]


def open_incident(store: Store, model: str) -> Incident | None:
    """The model's open incident."""
    with store.read() as connection:
        return _open_incident(connection, model)


def load_incidents(store: Store, model: str) -> list[Incident]:
    """All incidents of a model, oldest first."""
    table = tables.incidents
    with store.read() as connection:
        rows = connection.execute(select(table).where(table.c.model == model).order_by(table.c.incident_id)).all()
    return [as_record(Incident, row) for row in rows]


def close_incident(store: Store, incident_id: int, now: datetime, because: str) -> None:
    """Closes an incident; one that is closed stays as it was closed."""
    table = tables.incidents
    where = (table.c.incident_id == incident_id) & table.c.closed_at.is_(None)
    with store.write() as connection:
        connection.execute(table.update().where(where).values(closed_at=now, closed_because=because))


def raise_alert(store: Store, subject: str, title: str, body: str, routes: Sequence[str], now: datetime) -> int:
    """Has something else than an incident told, on each route once per subject; returns on how many it is new."""
    with store.write() as connection:
        return raise_in(connection, Message(subject, title, body), routes, now)


def raise_in(connection: Connection, message: Message, routes: Sequence[str], now: datetime) -> int:
    """The same within a transaction."""
    told = 0
    for route in routes:
        new = _new_alert(message.subject, route, message.title, message.body, now)
        insert = insert_unless(connection, tables.alerts).values(**new)
        ignoring = insert.on_conflict_do_nothing(index_elements=["subject", "route"])
        told += connection.execute(ignoring.execution_options(preserve_rowcount=True)).rowcount
    return told


def due_alerts(store: Store, now: datetime) -> list[Alert]:
    """The alerts whose next attempt is due, oldest first."""
    table = tables.alerts
    where = (table.c.state == "pending") & (table.c.next_attempt_at <= now)
    with store.read() as connection:
        rows = connection.execute(select(table).where(where).order_by(table.c.alert_id)).all()
    return [as_record(Alert, row) for row in rows]


def load_alerts(store: Store, incident_ids: Sequence[int], *, about: str = "") -> list[Alert]:
    """The alerts of these incidents, and those whose subject begins so."""
    table = tables.alerts
    also = table.c.subject.startswith(about, autoescape=True) if about else false()
    statement = select(table).where(table.c.incident_id.in_(incident_ids) | also).order_by(table.c.alert_id)
    with store.read() as connection:
        return [as_record(Alert, row) for row in connection.execute(statement)]


def save_attempt(store: Store, alert: Alert, *, sent_at: datetime | None) -> None:
    """Stores what became of an attempt: `alert` holds its new state."""
    table = tables.alerts
    values = {
        "state": alert.state,
        "attempts": alert.attempts,
        "next_attempt_at": alert.next_attempt_at,
        "cause": alert.cause,
        "sent_at": sent_at,
    }
    with store.write() as connection:
        connection.execute(table.update().where(table.c.alert_id == alert.alert_id).values(**values))


def _open(connection: Connection, verdict: Verdict, routes: Sequence[str]) -> Incident:
    title = f"{verdict.model} version {verdict.version} has become worse"
    values = {
        "model": verdict.model,
        "version": verdict.version,
        "verdict_id": verdict.verdict_id,
        "title": title,
        "opened_at": verdict.decided_at,
    }
    identifier = insert_one(connection, tables.incidents.insert().values(**values))
    subject = f"incident:{identifier}"
    for route in routes:
        alert = _new_alert(subject, route, title, verdict.summary, verdict.decided_at)
        connection.execute(tables.alerts.insert().values(**alert, incident_id=identifier))
    return Incident(identifier, verdict.model, verdict.version, verdict.verdict_id or 0, title, verdict.decided_at)


def _new_alert(subject: str, route: str, title: str, body: str, now: datetime) -> dict[str, Any]:
    return {
        "subject": subject,
        "route": route,
        "title": title,
        "body": body,
        "state": "pending",
        "attempts": 0,
        "next_attempt_at": now,
    }


def _open_incident(connection: Connection, model: str) -> Incident | None:
    table = tables.incidents
    row = connection.execute(select(table).where(table.c.model == model, table.c.closed_at.is_(None))).one_or_none()
    return as_record(Incident, row) if row is not None else None


def _verdict(row: Row[Any]) -> Verdict:
    return Verdict(
        model=row.model,
        version=row.version,
        decided_at=row.decided_at,
        window=Window(row.window_start, row.window_end),
        state=State(row.state),
        summary=row.summary,
        evidence=row.evidence,
        monitor=row.monitor,
        verdict_id=row.verdict_id,
    )
