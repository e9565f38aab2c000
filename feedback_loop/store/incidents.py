"""Incidents: a degradation from its opening to its end, with who took note of it, and what was done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from feedback_loop.clock import format_moment
from feedback_loop.errors import NotFound, Refused
from feedback_loop.store import tables
from feedback_loop.store.alerts import RECOVERED, Message, end_in, raise_in
from feedback_loop.store.engine import Store
from feedback_loop.store.records import as_record, insert_if_new


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


@dataclass(frozen=True)
class IncidentEvent:
    """What somebody did about an incident: it was `acknowledged`, `silenced`, or `closed` by hand."""

    at: datetime
    kind: str
    told: str


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


def open_incident(store: Store, model: str) -> Incident | None:
    """The model's open incident."""
    with store.read() as connection:
        return open_in(connection, model)


def load_incident(store: Store, incident_id: int) -> Incident:
    """One incident; raises NotFound."""
    with store.read() as connection:
        return _load(connection, incident_id)


def load_incidents(store: Store, model: str) -> list[Incident]:
    """All incidents of a model, oldest first."""
    table = tables.incidents
    with store.read() as connection:
        rows = connection.execute(select(table).where(table.c.model == model).order_by(table.c.incident_id)).all()
    return [as_record(Incident, row) for row in rows]


def load_events(store: Store, incident_id: int) -> list[IncidentEvent]:
    """What was done about an incident by hand, in the order it was recorded."""
    table = tables.incident_events
    statement = select(table).where(table.c.incident_id == incident_id).order_by(table.c.event_id)
    with store.read() as connection:
        return [as_record(IncidentEvent, row) for row in connection.execute(statement)]


def ended_at(store: Store, verdict_id: int) -> Ended | None:
    """How the incident ended that was closed when this was the newest verdict; None where none was."""
    table, events = tables.incidents, tables.incident_events
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
    table, events, verdicts = tables.incidents, tables.incident_events, tables.verdicts
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
    verdicts, table = tables.verdicts, tables.incidents
    newest = select(func.max(verdicts.c.verdict_id)).where(verdicts.c.model == table.c.model).scalar_subquery()
    values = {"closed_at": now, "closed_because": because, "closed_verdict_id": newest}
    return _changed(store, incident_id, now, "closed", because, values)


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
    is_open = tables.incidents.c.closed_at.is_(None)
    identifier = insert_if_new(connection, tables.incidents, values, "model", where=is_open)
    if identifier is None:
        return None
    fields = {"model": model, "model_version": version, "incident": str(identifier)}
    raise_in(connection, Message(f"incident:{identifier}", title, why, identifier, fields), routes, now)
    return Incident(incident_id=identifier, **values)


def follow_in(connection: Connection, followed: Followed, verdict_id: int, now: datetime) -> None:
    """Keeps what a look says about its incident, within the transaction of its verdict; closes it if need be.

    Where somebody has closed it meanwhile it stays closed, and this verdict is the last that is about it.
    """
    table = tables.incidents
    own = table.c.incident_id == followed.incident_id
    values: dict[str, Any] = {"recovery": followed.recovery}
    if followed.closes is not None:
        values |= {"closed_at": now, "closed_because": followed.closes, "closed_verdict_id": verdict_id}
    is_open = connection.execute(table.update().where(own, table.c.closed_at.is_(None)).values(**values)).rowcount
    if not is_open:
        connection.execute(table.update().where(own).values(closed_verdict_id=verdict_id))
    elif followed.closes is not None:
        incident = as_record(Incident, connection.execute(select(table).where(own)).one())
        subject, title = f"incident:{incident.incident_id}{RECOVERED}", f"{incident.model} has recovered"
        fields = {"model": incident.model, "model_version": incident.version, "incident": str(incident.incident_id)}
        message = Message(subject, title, f"{followed.closes}.", incident.incident_id, fields)
        end_in(connection, incident.incident_id, silenced=_is_silenced(incident, now), recovered=message, now=now)


def open_in(connection: Connection, model: str) -> Incident | None:
    """The model's open incident, within a transaction."""
    table = tables.incidents
    row = connection.execute(select(table).where(table.c.model == model, table.c.closed_at.is_(None))).one_or_none()
    return as_record(Incident, row) if row is not None else None


def _changed(store: Store, incident_id: int, now: datetime, kind: str, told: str, values: dict[str, Any]) -> Incident:
    """The incident after a change, which is on record; one that is closed changes no more."""
    table = tables.incidents
    where = (table.c.incident_id == incident_id) & table.c.closed_at.is_(None)
    with store.write() as connection:
        is_open = connection.execute(table.update().where(where).values(**values)).rowcount
        incident = _load(connection, incident_id)
        if not is_open:
            raise Refused(
                f"Incident {incident_id} of {incident.model} was closed on "
                f"{format_moment(incident.closed_at or now)}: {incident.closed_because}.",
                cure=f"What happened: feedback-loop incidents show {incident_id}.",
            )
        event = {"incident_id": incident_id, "at": now, "kind": kind, "told": told}
        connection.execute(tables.incident_events.insert().values(**event))
        if incident.closed_at is not None:
            end_in(connection, incident_id, silenced=_is_silenced(incident, now), recovered=None, now=now)
    return incident


def _is_silenced(incident: Incident, now: datetime) -> bool:
    return incident.silenced_until is not None and incident.silenced_until > now


def _load(connection: Connection, incident_id: int) -> Incident:
    table = tables.incidents
    row = connection.execute(select(table).where(table.c.incident_id == incident_id)).one_or_none()
    if row is None:
        raise NotFound("incident", str(incident_id), cure="List them: feedback-loop incidents list --all.")
    return as_record(Incident, row)
