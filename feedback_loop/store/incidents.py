"""Incidents: a degradation from its opening to its end, with what people did about it.

A verdict and the incident that it opens or closes are stored in one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, ForeignKeyConstraint, Index, Integer, func, or_, select

from feedback_loop.clock import format_moment
from feedback_loop.errors import NotFound, Refused
from feedback_loop.store.alerts import RECOVERED, Alert, Message, alerts, end_in, raise_in
from feedback_loop.store.conclusions import State, Verdict, verdicts
from feedback_loop.store.engine import Store
from feedback_loop.store.records import Source, add, as_record, as_row, change, insert_if_new, many, one
from feedback_loop.store.schema import PREFIX, shared_table


@dataclass(frozen=True)
class Incident:
    """A degradation from its opening to its end.

    `recovery` is the state of the test of recovery. All verdicts from `verdict_id` to `closed_verdict_id` are about
    this incident.
    """

    incident_id: int
    model: str
    version: str
    verdict_id: int
    title: str
    opened_at: datetime
    closed_at: datetime | None = None
    closed_because: str | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    silenced_until: datetime | None = None
    recovery: dict[str, Any] | None = None
    closed_verdict_id: int | None = None


incidents = shared_table(
    "incidents",
    Incident,
    ForeignKeyConstraint(["verdict_id"], [verdicts.c.verdict_id]),
    key=["incident_id"],
)
incidents_open = Index(
    f"uq_{PREFIX}incidents_open",
    incidents.c.model,
    unique=True,  # a model has at most one open incident: further degraded verdicts belong to it
    sqlite_where=incidents.c.closed_at.is_(None),
    postgresql_where=incidents.c.closed_at.is_(None),
)


@dataclass(frozen=True)
class IncidentEvent:
    """What somebody did about an incident: `acknowledged`, `silenced`, or `closed` it by hand."""

    at: datetime
    kind: str
    told: str  # by whom, until when, why


incident_events = shared_table(
    "incident_events",
    IncidentEvent,
    Column("event_id", Integer),
    Column("incident_id", Integer, nullable=False),
    ForeignKeyConstraint(["incident_id"], [incidents.c.incident_id]),
    Index(None, "incident_id"),
    key=["event_id"],
)


@dataclass(frozen=True)
class Ended:
    """When an incident was closed, and whether by hand."""

    closed_at: datetime
    by_hand: bool


@dataclass(frozen=True)
class Followed:
    """What a look says about the open incident: the state of the test of recovery, and why it closes, if it does.

    Without `incident_id` it is the first state of the incident that this look may open.
    """

    incident_id: int | None
    recovery: dict[str, Any] | None
    closes: str | None = None


def record_verdict(
    store: Store, verdict: Verdict, routes: Sequence[str] = (), followed: Followed | None = None
) -> tuple[Verdict, Incident | None]:
    """Stores a verdict; if it is degraded and no incident is open, opens one with an alert per route.

    Stores what the look says about the open incident (`followed`), too, which may close it. One transaction. Raises
    Refused if another process has judged this cohort already.
    """
    with store.write() as connection:
        identifier = insert_if_new(connection, verdicts, as_row(verdict), "model", "version", "window_end")
        if identifier is None:
            raise Refused(
                f"The cohort {verdict.window} of {verdict.model} version {verdict.version} has been judged already.",
                cure="Another scheduler runs on this store; its verdict stands.",
            )
        saved, opened = replace(verdict, verdict_id=identifier), None
        if followed is not None and followed.incident_id is not None:
            follow_in(connection, followed, identifier, verdict.decided_at)
        elif verdict.state is State.DEGRADED:
            opened = begin_in(
                connection,
                model=verdict.model,
                version=verdict.version,
                verdict_id=identifier,
                why=verdict.summary,
                recovery=followed.recovery if followed is not None else None,
                routes=routes,
                now=verdict.decided_at,
            )
        return saved, opened


def open_incident(source: Source, model: str) -> Incident | None:
    """The model's open incident, if there is one."""
    return one(source, Incident, model=model, closed_at=None)


def load_incident(source: Source, incident_id: int) -> Incident:
    """The incident with that id; raises NotFound."""
    incident = one(source, Incident, incident_id=incident_id)
    if incident is None:
        raise NotFound("incident", str(incident_id), cure="List them: feedback-loop incidents list --all.")
    return incident


def load_incidents(store: Store, model: str) -> list[Incident]:
    """All incidents of a model, oldest first."""
    return many(store, Incident, model=model, order_by="incident_id")


def load_events(store: Store, incident_id: int) -> list[IncidentEvent]:
    """What people did about an incident, oldest first."""
    return many(store, IncidentEvent, incident_id=incident_id, order_by="event_id")


def ended_at(store: Store, verdict_id: int) -> Ended | None:
    """How the incident ended whose last verdict was this one; None if there is none."""
    table, events = incidents, incident_events
    by_hand = (events.c.incident_id == table.c.incident_id) & (events.c.kind == "closed")
    statement = (
        select(table.c.closed_at, events.c.event_id.is_not(None).label("by_hand"))
        .outerjoin(events, by_hand)
        .where(table.c.closed_verdict_id == verdict_id)
        .order_by(table.c.incident_id.desc())
        .limit(1)
    )
    with store.read() as connection:
        row = connection.execute(statement).one_or_none()
    return as_record(Ended, row) if row is not None else None


def closed_by_hand(store: Store, model: str) -> list[tuple[datetime, datetime]]:
    """The incidents that were closed by hand, oldest first: the moment of the last verdict, and of the closing."""
    table, events = incidents, incident_events
    statement = (
        select(verdicts.c.decided_at, table.c.closed_at)
        .join(table, table.c.closed_verdict_id == verdicts.c.verdict_id)
        .join(events, (events.c.incident_id == table.c.incident_id) & (events.c.kind == "closed"))
        .where(table.c.model == model)
        .order_by(table.c.incident_id)
    )
    with store.read() as connection:
        return [(row.decided_at, row.closed_at) for row in connection.execute(statement)]


def acknowledge(store: Store, incident_id: int, by: str, now: datetime) -> Incident:
    """Stores who looks after an incident, in place of whoever did before. Raises NotFound and Refused."""
    return _change(
        store, incident_id, now, "acknowledged", f"by {by}", {"acknowledged_at": now, "acknowledged_by": by}
    )


def silence(store: Store, incident_id: int, until: datetime | None, now: datetime) -> Incident:
    """Delays an incident's alerts until a moment; None ends the delay. Raises NotFound and Refused."""
    note = f"until {format_moment(until)}" if until is not None else "no longer"
    return _change(store, incident_id, now, "silenced", note, {"silenced_until": until})


def close_incident(store: Store, incident_id: int, because: str, now: datetime) -> Incident:
    """Closes an incident by hand, without an alert. Raises NotFound and Refused."""
    same = verdicts.c.model == incidents.c.model
    newest = select(func.max(verdicts.c.verdict_id)).where(same).scalar_subquery()
    values = {"closed_at": now, "closed_because": because, "closed_verdict_id": newest}
    return _change(store, incident_id, now, "closed", because, values)


def due_alerts(store: Store, now: datetime) -> list[Alert]:
    """The alerts whose next attempt is due, oldest first, without those of silenced incidents."""
    table = alerts
    not_silenced = or_(incidents.c.silenced_until.is_(None), incidents.c.silenced_until <= now)
    where = (table.c.state == "pending") & (table.c.next_attempt_at <= now) & not_silenced
    statement = select(table).outerjoin(incidents, table.c.incident_id == incidents.c.incident_id).where(where)
    with store.read() as connection:
        return [as_record(Alert, row) for row in connection.execute(statement.order_by(table.c.alert_id))]


def begin_in(
    connection: Connection,
    *,
    model: str,
    version: str,
    verdict_id: int,
    why: str,
    recovery: dict[str, Any] | None,
    routes: Sequence[str],
    now: datetime,
) -> Incident | None:
    """Opens an incident with an alert on each route, within its verdict's transaction; None if one is open."""
    title = f"{model} version {version} has become worse"
    values: dict[str, Any] = {"model": model, "version": version, "verdict_id": verdict_id, "title": title}
    values |= {"opened_at": now, "recovery": recovery}
    is_open = incidents.c.closed_at.is_(None)
    identifier = insert_if_new(connection, incidents, values, "model", where=is_open)
    if identifier is None:
        return None
    fields = {"model": model, "model_version": version, "incident": str(identifier)}
    raise_in(connection, Message(f"incident:{identifier}", title, why, identifier, fields), routes, now)
    return Incident(incident_id=identifier, **values)


def follow_in(connection: Connection, followed: Followed, verdict_id: int, now: datetime) -> None:
    """Stores what a look says about its incident, within its verdict's transaction; may close it.

    If somebody has closed it meanwhile, this verdict becomes its last one.
    """
    assert followed.incident_id is not None
    key = {"incident_id": followed.incident_id}
    values: dict[str, Any] = {"recovery": followed.recovery}
    if followed.closes is not None:
        values |= {"closed_at": now, "closed_because": followed.closes, "closed_verdict_id": verdict_id}
    if not change(connection, Incident, values, **key, closed_at=None):
        change(connection, Incident, {"closed_verdict_id": verdict_id}, **key)
    elif followed.closes is not None:
        incident = load_incident(connection, followed.incident_id)
        subject, title = f"incident:{incident.incident_id}{RECOVERED}", f"{incident.model} has recovered"
        fields = {"model": incident.model, "model_version": incident.version, "incident": str(incident.incident_id)}
        message = Message(subject, title, f"{followed.closes}.", incident.incident_id, fields)
        end_in(connection, incident.incident_id, silenced=_is_silenced(incident, now), recovered=message, now=now)


def _change(store: Store, incident_id: int, now: datetime, kind: str, note: str, values: dict[str, Any]) -> Incident:
    """Changes an open incident and records the event; returns it. Raises NotFound, and Refused if it is closed."""
    with store.write() as connection:
        is_open = change(connection, Incident, values, incident_id=incident_id, closed_at=None)
        incident = load_incident(connection, incident_id)
        if not is_open:
            raise Refused(
                f"Incident {incident_id} of {incident.model} was closed on "
                f"{format_moment(incident.closed_at or now)}: {incident.closed_because}.",
                cure=f"What happened: feedback-loop incidents show {incident_id}.",
            )
        add(connection, IncidentEvent(now, kind, note), incident_id=incident_id)
        if incident.closed_at is not None:
            end_in(connection, incident_id, silenced=_is_silenced(incident, now), recovered=None, now=now)
    return incident


def _is_silenced(incident: Incident, now: datetime) -> bool:
    return incident.silenced_until is not None and incident.silenced_until > now
