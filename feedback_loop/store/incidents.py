"""Incidents: a degradation from its opening to its end, with who took note of it, and what was done about it.

A verdict is recorded together with the incident that it opens or closes: neither is without the other.
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

    `recovery` is the state of the test of recovery. Of the verdicts from `verdict_id` to `closed_verdict_id` all are
    about this incident, also those that were degraded on top.
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
    unique=True,  # a model has one open incident at the most: what comes on top belongs to it
    sqlite_where=incidents.c.closed_at.is_(None),
    postgresql_where=incidents.c.closed_at.is_(None),
)


@dataclass(frozen=True)
class IncidentEvent:
    """What somebody did about an incident: it was `acknowledged`, `silenced`, or `closed` by hand."""

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

    Without an incident it is the state that one starts from, if this look opens it.
    """

    incident_id: int | None
    recovery: dict[str, Any] | None
    closes: str | None = None


def record_verdict(
    store: Store, verdict: Verdict, routes: Sequence[str] = (), followed: Followed | None = None
) -> tuple[Verdict, Incident | None]:
    """Stores the verdict and, where it is degraded and no incident is open, opens one with an alert per route.

    What the same look says about the incident that is open (`followed`) is kept with it: it may close. All in one
    transaction. Raises Refused where another process has already judged this cohort.
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


def open_incident(store: Store, model: str) -> Incident | None:
    """The model's open incident."""
    return open_in(store, model)


def load_incident(store: Store, incident_id: int) -> Incident:
    """One incident; raises NotFound."""
    return _load(store, incident_id)


def load_incidents(store: Store, model: str) -> list[Incident]:
    """All incidents of a model, oldest first."""
    return many(store, Incident, model=model, order_by="incident_id")


def load_events(store: Store, incident_id: int) -> list[IncidentEvent]:
    """What was done about an incident by hand, in the order it was recorded."""
    return many(store, IncidentEvent, incident_id=incident_id, order_by="event_id")


def ended_at(store: Store, verdict_id: int) -> Ended | None:
    """How the incident ended that was closed when this was the newest verdict; None where none was."""
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
    """When incidents of a model were closed by hand, oldest first; before each, the moment of the newest verdict."""
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
    """Takes note of who looks after it; by somebody else later, it is handed over. Raises NotFound and Refused."""
    return _changed(
        store, incident_id, now, "acknowledged", f"by {by}", {"acknowledged_at": now, "acknowledged_by": by}
    )


def silence(store: Store, incident_id: int, until: datetime | None, now: datetime) -> Incident:
    """Holds its alerts back until a moment; None: no longer. Raises NotFound and Refused."""
    told = f"until {format_moment(until)}" if until is not None else "no longer"
    return _changed(store, incident_id, now, "silenced", told, {"silenced_until": until})


def close_incident(store: Store, incident_id: int, because: str, now: datetime) -> Incident:
    """Closes it by hand, which nobody is told of. Raises NotFound and Refused."""
    same = verdicts.c.model == incidents.c.model
    newest = select(func.max(verdicts.c.verdict_id)).where(same).scalar_subquery()
    values = {"closed_at": now, "closed_because": because, "closed_verdict_id": newest}
    return _changed(store, incident_id, now, "closed", because, values)


def due_alerts(store: Store, now: datetime) -> list[Alert]:
    """The alerts whose next attempt is due, oldest first; those of a silenced incident wait."""
    table = alerts
    told = or_(incidents.c.silenced_until.is_(None), incidents.c.silenced_until <= now)
    where = (table.c.state == "pending") & (table.c.next_attempt_at <= now) & told
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
    """Opens an incident with an alert on each route, within the transaction of its verdict; None: one is open."""
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
    """Keeps what a look says about its incident, within the transaction of its verdict; closes it if need be.

    Where somebody has closed it meanwhile it stays closed, and this verdict is the last that is about it.
    """
    assert followed.incident_id is not None
    own = {"incident_id": followed.incident_id}
    values: dict[str, Any] = {"recovery": followed.recovery}
    if followed.closes is not None:
        values |= {"closed_at": now, "closed_because": followed.closes, "closed_verdict_id": verdict_id}
    if not change(connection, Incident, values, **own, closed_at=None):
        change(connection, Incident, {"closed_verdict_id": verdict_id}, **own)
    elif followed.closes is not None:
        incident = _load(connection, followed.incident_id)
        subject, title = f"incident:{incident.incident_id}{RECOVERED}", f"{incident.model} has recovered"
        fields = {"model": incident.model, "model_version": incident.version, "incident": str(incident.incident_id)}
        message = Message(subject, title, f"{followed.closes}.", incident.incident_id, fields)
        end_in(connection, incident.incident_id, silenced=_is_silenced(incident, now), recovered=message, now=now)


def open_in(source: Source, model: str) -> Incident | None:
    """The model's open incident, within a transaction."""
    return one(source, Incident, model=model, closed_at=None)


def _changed(store: Store, incident_id: int, now: datetime, kind: str, told: str, values: dict[str, Any]) -> Incident:
    """The incident after a change, which is on record; one that is closed changes no more."""
    with store.write() as connection:
        is_open = change(connection, Incident, values, incident_id=incident_id, closed_at=None)
        incident = _load(connection, incident_id)
        if not is_open:
            raise Refused(
                f"Incident {incident_id} of {incident.model} was closed on "
                f"{format_moment(incident.closed_at or now)}: {incident.closed_because}.",
                cure=f"What happened: feedback-loop incidents show {incident_id}.",
            )
        add(connection, IncidentEvent(now, kind, told), incident_id=incident_id)
        if incident.closed_at is not None:
            end_in(connection, incident_id, silenced=_is_silenced(incident, now), recovered=None, now=now)
    return incident


def _is_silenced(incident: Incident, now: datetime) -> bool:
    return incident.silenced_until is not None and incident.silenced_until > now


def _load(source: Source, incident_id: int) -> Incident:
    incident = one(source, Incident, incident_id=incident_id)
    if incident is None:
        raise NotFound("incident", str(incident_id), cure="List them: feedback-loop incidents list --all.")
    return incident
