"""Alerts: what is to be told, once per subject on each route, and what became of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, false, or_, select

from feedback_loop.store import tables
from feedback_loop.store.engine import Store
from feedback_loop.store.records import as_record, insert_unless

RECOVERED = ":recovered"
"""How the subject of the second alert about an incident, or about a job, ends: that it is over."""


@dataclass(frozen=True)
class Message:
    """What is to be told, once per subject; `incident_id` is of the incident that it is about, if any.

    `fields` say the same to programs: `model`, `model_version`, `incident`, `recommendation`, if there are any.
    """

    subject: str
    title: str
    body: str
    incident_id: int | None = None
    fields: dict[str, str] = field(default_factory=dict)


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
    sent_at: datetime | None = None
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What it is about: the subject's first word (incident, spool, serving, stream, drift, quality, outcomes)."""
        return self.subject.partition(":")[0]


def raise_alert(store: Store, subject: str, title: str, body: str, routes: Sequence[str], now: datetime) -> int:
    """Has something else than an incident told, on each route once per subject; returns on how many it is new."""
    with store.write() as connection:
        return raise_in(connection, Message(subject, title, body), routes, now)


def raise_in(connection: Connection, message: Message, routes: Sequence[str], now: datetime) -> int:
    """The same within a transaction."""
    told = 0
    for route in routes:
        new = {**vars(message), "route": route, "state": "pending", "attempts": 0, "next_attempt_at": now}
        insert = insert_unless(connection, tables.alerts).values(**new)
        ignoring = insert.on_conflict_do_nothing(index_elements=["subject", "route"])
        told += connection.execute(ignoring.execution_options(preserve_rowcount=True)).rowcount
    return told


def tell_recovered(store: Store, about: str, still: Collection[str], now: datetime) -> int:
    """Has told of each subject that begins so and is not there `still` that it is over, once, where it was told.

    Returns how many messages are new.
    """
    known = load_alerts(store, [], about=about)
    over = {each.subject.removesuffix(RECOVERED) for each in known if each.subject.endswith(RECOVERED)}
    told = 0
    for each in known:
        if each.state != "dropped" and each.subject not in over | {*still} and not each.subject.endswith(RECOVERED):
            title, body = f"{each.title}: no more", f"It is well again. What was told: {each.body}"
            told += raise_alert(store, each.subject + RECOVERED, title, body, [each.route], now)
    return told


def due_alerts(store: Store, now: datetime) -> list[Alert]:
    """The alerts whose next attempt is due, oldest first; those of a silenced incident wait."""
    table, incidents = tables.alerts, tables.incidents
    told = or_(incidents.c.silenced_until.is_(None), incidents.c.silenced_until <= now)
    where = (table.c.state == "pending") & (table.c.next_attempt_at <= now) & told
    statement = select(table).outerjoin(incidents, table.c.incident_id == incidents.c.incident_id).where(where)
    with store.read() as connection:
        return [as_record(Alert, row) for row in connection.execute(statement.order_by(table.c.alert_id))]


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


def end_in(
    connection: Connection, incident_id: int, *, silenced: bool, recovered: Message | None, now: datetime
) -> None:
    """What becomes of an incident's alerts when it closes, within a transaction.

    Of one that is `silenced` those that were held back are dropped, with the reason: what is over need not be told.
    That it has `recovered` is told on each route that its opening was told on, or still will be.
    """
    table = tables.alerts
    own = table.c.incident_id == incident_id
    if silenced:
        cause = "the incident was closed while it was silenced"
        held = own & (table.c.state == "pending")
        connection.execute(table.update().where(held).values(state="dropped", cause=cause))
    if recovered is not None:
        told = select(table.c.route).where(own, table.c.state != "dropped").order_by(table.c.alert_id)
        raise_in(connection, recovered, connection.execute(told).scalars().all(), now)
