"""Incidents: what needs a person, from its opening to its end, with what people did about it.

A degraded verdict opens one, in its own transaction, and recovery closes it. A rollback and an adapter that stays
held open one of their own, with evidence in place of a verdict: `raise_incident`, `end_incident`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Connection, ForeignKeyConstraint, Index, Integer, func, or_, select

from feedback_loop.clock import Window, format_moment
from feedback_loop.errors import NotFound, Refused
from feedback_loop.store.alerts import RECOVERED, Alert, Message, Routes, alerts, end_in, raise_in
from feedback_loop.store.conclusions import State, Verdict, verdicts
from feedback_loop.store.engine import Store
from feedback_loop.store.records import Source, add, as_record, as_row, change, insert_if_new, many, one, transaction
from feedback_loop.store.schema import PREFIX, shared_table


class Cause(StrEnum):
    """What opened an incident."""

    VERDICT = "verdict"
    ROLLBACK = "rollback"
    ADAPTER = "adapter"


@dataclass(frozen=True)
class Incident:
    """What needs a person, from its opening to its end.

    One by a verdict: `recovery` is the state of the test of recovery, and all verdicts from `verdict_id` to
    `closed_verdict_id` are about it. One by another cause has `evidence` in their place: its `summary`, and figures.
    """

    incident_id: int
    model: str
    version: str
    verdict_id: int | None
    title: str
    opened_at: datetime
    closed_at: datetime | None = None
    closed_because: str | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    silenced_until: datetime | None = None
    recovery: dict[str, Any] | None = None
    closed_verdict_id: int | None = None
    cause: Cause = Cause.VERDICT
    evidence: dict[str, Any] | None = None

    @property
    def words(self) -> str:
        """What a report of its time says of it."""
        return f"Incident {self.incident_id}, since {format_moment(self.opened_at)}: {self.title}."


incidents = shared_table(
    "incidents",
    Incident,
    ForeignKeyConstraint(["verdict_id"], [verdicts.c.verdict_id]),
    key=["incident_id"],
)
incidents_open = Index(
    f"uq_{PREFIX}incidents_open",
    incidents.c.model,
    incidents.c.cause,
    unique=True,  # a model has at most one open incident by each cause: further degraded verdicts belong to it
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
    store: Store, verdict: Verdict, routes: Routes = (), followed: Followed | None = None
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


def open_incident(source: Source, model: str, cause: Cause = Cause.VERDICT) -> Incident | None:
    """The model's open incident by this cause, if there is one."""
    return one(source, Incident, model=model, cause=cause, closed_at=None)


def open_incidents(source: Source, model: str) -> list[Incident]:
    """The model's open incidents, oldest first."""
    return many(source, Incident, model=model, closed_at=None, order_by="incident_id")


def raise_incident(
    source: Source,
    *,
    model: str,
    version: str,
    cause: Cause,
    title: str,
    summary: str,
    evidence: Mapping[str, Any],
    routes: Routes,
    now: datetime,
) -> Incident | None:
    """Opens an incident that no verdict has opened, with an alert on each route; None if one by this cause is open.

    It stays open until `end_incident`, or until a person closes it.
    """
    values = {"model": model, "version": version, "cause": cause, "title": title, "opened_at": now}
    with transaction(source, writes=True) as connection:
        return _open_in(connection, {**values, "evidence": {"summary": summary, **evidence}}, summary, routes, now)


def end_incident(source: Source, model: str, cause: Cause, because: str, now: datetime) -> Incident | None:
    """Closes the model's open incident by this cause, and says so on the routes that it was told on.

    Not for one by a verdict, which recovery closes. None where none is open.
    """
    with transaction(source, writes=True) as connection:
        incident = open_incident(connection, model, cause)
        closed = {"closed_at": now, "closed_because": because}
        if incident is None or not change(
            connection, Incident, closed, incident_id=incident.incident_id, closed_at=None
        ):
            return None
        _tell_end_in(connection, incident, f"{incident.title}: over", because, now)
        return replace(incident, closed_at=now, closed_because=because)


def load_incident(source: Source, incident_id: int) -> Incident:
    """The incident with that id; raises NotFound."""
    incident = one(source, Incident, incident_id=incident_id)
    if incident is None:
        raise NotFound("incident", str(incident_id), cure="List them: feedback-loop incidents list --all.")
    return incident


def load_incidents(store: Store, model: str) -> list[Incident]:
    """All incidents of a model, oldest first."""
    return many(store, Incident, model=model, order_by="incident_id")


def incidents_within(store: Store, model: str, window: Window, as_of: datetime) -> list[Incident]:
    """The incidents of a model that were open within a window, and had opened by a moment; oldest first."""
    opened = (incidents.c.opened_at < window.end) & (incidents.c.opened_at <= as_of)
    closed = incidents.c.closed_at.is_(None) | (incidents.c.closed_at > window.start)
    return many(store, Incident, opened & closed, model=model, order_by="incident_id")


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


def silence(store: Store, incident_id: int, until: datetime | None, now: datetime, by: str = "") -> Incident:
    """Delays an incident's alerts until a moment; None ends the delay. Raises NotFound and Refused."""
    note = f"until {format_moment(until)}" if until is not None else "no longer"
    note = f"{note}, by {by}" if by else note
    return _change(store, incident_id, now, "silenced", note, {"silenced_until": until})


def close_incident(store: Store, incident_id: int, because: str, now: datetime, by: str = "") -> Incident:
    """Closes an incident by hand, without an alert. Raises NotFound and Refused."""
    same = (verdicts.c.model == incidents.c.model) & (incidents.c.cause == Cause.VERDICT)
    newest = select(func.max(verdicts.c.verdict_id)).where(same).scalar_subquery()
    values = {"closed_at": now, "closed_because": because, "closed_verdict_id": newest}
    return _change(store, incident_id, now, "closed", f"{because} (by {by})" if by else because, values)


def note(store: Store, incident_id: int, kind: str, words: str, now: datetime) -> None:
    """Records what somebody did about an incident besides."""
    with store.write() as connection:
        add(connection, IncidentEvent(now, kind, words), incident_id=incident_id)


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
    routes: Routes,
    now: datetime,
) -> Incident | None:
    """Opens an incident with an alert on each route, within its verdict's transaction; None if one is open."""
    title = f"{model} version {version} has become worse"
    values: dict[str, Any] = {"model": model, "version": version, "verdict_id": verdict_id, "title": title}
    return _open_in(connection, {**values, "opened_at": now, "recovery": recovery}, why, routes, now)


def _open_in(
    connection: Connection, values: dict[str, Any], why: str, routes: Routes, now: datetime
) -> Incident | None:
    """Opens an incident with an alert on each route, within a transaction; None if one by its cause is open."""
    values = {"verdict_id": None, "cause": Cause.VERDICT, **values}
    is_open = incidents.c.closed_at.is_(None)
    identifier = insert_if_new(connection, incidents, values, "model", "cause", where=is_open)
    if identifier is None:
        return None
    incident = Incident(incident_id=identifier, **values)
    message = Message(f"incident:{identifier}", incident.title, why, identifier, _fields(incident), incident.model)
    raise_in(connection, message, routes, now)
    return incident


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
        _tell_end_in(connection, incident, f"{incident.model} has recovered", f"{followed.closes}.", now)


def _tell_end_in(connection: Connection, incident: Incident, title: str, body: str, now: datetime) -> None:
    """Ends an incident's alerts with the news that it is over, within the transaction that closes it."""
    number = incident.incident_id
    message = Message(f"incident:{number}{RECOVERED}", title, body, number, _fields(incident), incident.model)
    end_in(connection, number, silenced=_is_silenced(incident, now), recovered=message, now=now)


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


def _fields(incident: Incident) -> dict[str, str]:
    about = {"model": incident.model, "model_version": incident.version, "incident": str(incident.incident_id)}
    return about if incident.cause is Cause.VERDICT else {**about, "cause": incident.cause}


def _is_silenced(incident: Incident, now: datetime) -> bool:
    return incident.silenced_until is not None and incident.silenced_until > now
