"""Alerts: what is to be told, once per subject on each route, and what became of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, ForeignKeyConstraint, UniqueConstraint, false, select

from feedback_loop.store.engine import Store
from feedback_loop.store.records import change, insert_new, many
from feedback_loop.store.schema import PREFIX, shared_table

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
    state: str  # pending | sent | given_up | dropped
    attempts: int
    next_attempt_at: datetime
    cause: str | None = None
    sent_at: datetime | None = None
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What it is about: the subject's first word (`AlertKind` in the configuration has them all)."""
        return self.subject.partition(":")[0]


alerts = shared_table(
    "alerts",
    Alert,
    ForeignKeyConstraint(["incident_id"], [f"{PREFIX}incidents.incident_id"]),
    UniqueConstraint("subject", "route"),  # told once on each route
    key=["alert_id"],
)


def raise_alert(store: Store, subject: str, title: str, body: str, routes: Sequence[str], now: datetime) -> int:
    """Has something else than an incident told, on each route once per subject; returns on how many it is new."""
    with store.write() as connection:
        return raise_in(connection, Message(subject, title, body), routes, now)


def raise_in(connection: Connection, message: Message, routes: Sequence[str], now: datetime) -> int:
    """The same within a transaction."""
    told = 0
    for route in routes:
        new = {**vars(message), "route": route, "state": "pending", "attempts": 0, "next_attempt_at": now}
        told += insert_new(connection, alerts, new, "subject", "route")
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


def load_alerts(store: Store, incident_ids: Sequence[int], *, about: str = "") -> list[Alert]:
    """The alerts of these incidents, and those whose subject begins so."""
    also = alerts.c.subject.startswith(about, autoescape=True) if about else false()
    return many(store, Alert, alerts.c.incident_id.in_(incident_ids) | also, order_by="alert_id")


def save_attempt(store: Store, alert: Alert, *, sent_at: datetime | None) -> None:
    """Stores what became of an attempt: `alert` holds its new state."""
    became = {name: getattr(alert, name) for name in ("state", "attempts", "next_attempt_at", "cause")}
    change(store, Alert, {**became, "sent_at": sent_at}, alert_id=alert.alert_id)


def end_in(
    connection: Connection, incident_id: int, *, silenced: bool, recovered: Message | None, now: datetime
) -> None:
    """What becomes of an incident's alerts when it closes, within a transaction.

    Of one that is `silenced` those that were held back are dropped, with the reason: what is over need not be told.
    That it has `recovered` is told on each route that its opening was told on, or still will be.
    """
    if silenced:
        dropped = {"state": "dropped", "cause": "the incident was closed while it was silenced"}
        change(connection, Alert, dropped, incident_id=incident_id, state="pending")
    if recovered is not None:
        own = (alerts.c.incident_id == incident_id) & (alerts.c.state != "dropped")
        told = select(alerts.c.route).where(own).order_by(alerts.c.alert_id)
        raise_in(connection, recovered, connection.execute(told).scalars().all(), now)
