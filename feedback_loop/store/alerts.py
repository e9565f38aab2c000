"""Alerts: messages to be delivered once per subject and route, and their state."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, ForeignKeyConstraint, UniqueConstraint, false, select

from feedback_loop.store.engine import Store
from feedback_loop.store.records import change, insert_new, many
from feedback_loop.store.schema import PREFIX, shared_table

RECOVERED = ":recovered"
"""The suffix of the subject of an alert that says that an incident, or a failing job, is over."""


@dataclass(frozen=True)
class Message:
    """What an alert says. It is delivered once per subject; `incident_id` is the incident that it is about, if any.

    `fields` are the same for programs: `model`, `model_version`, `incident`, `recommendation`, as far as they apply.
    """

    subject: str
    title: str
    body: str
    incident_id: int | None = None
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Alert:
    """A message about an incident or another subject (`spool:…`) on one route, and the state of its delivery."""

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
        """The subject's first word (one of `AlertKind` in the configuration)."""
        return self.subject.partition(":")[0]


alerts = shared_table(
    "alerts",
    Alert,
    ForeignKeyConstraint(["incident_id"], [f"{PREFIX}incidents.incident_id"]),
    UniqueConstraint("subject", "route"),  # once per route
    key=["alert_id"],
)


def raise_alert(store: Store, subject: str, title: str, body: str, routes: Sequence[str], now: datetime) -> int:
    """Adds a message that is about no incident on each route; returns on how many of them its subject is new."""
    with store.write() as connection:
        return raise_in(connection, Message(subject, title, body), routes, now)


def raise_in(connection: Connection, message: Message, routes: Sequence[str], now: datetime) -> int:
    """Adds a message on each route, within a transaction; returns on how many its subject is new."""
    pending = {**vars(message), "state": "pending", "attempts": 0, "next_attempt_at": now}
    return sum(insert_new(connection, alerts, {**pending, "route": route}, "subject", "route") for route in routes)


def alert_recoveries(store: Store, about: str, still: Collection[str], now: datetime) -> int:
    """Alerts that each subject that begins with `about` and is not in `still` is over, on the routes it was told on.

    Once per subject and route. Returns how many alerts are new.
    """
    past = load_alerts(store, [], about=about)
    over = {alert.subject.removesuffix(RECOVERED) for alert in past if alert.subject.endswith(RECOVERED)}
    new = 0
    for alert in past:
        if (
            alert.state != "dropped"
            and alert.subject not in over | {*still}
            and not alert.subject.endswith(RECOVERED)
        ):
            title, body = f"{alert.title}: no more", f"It is well again. What was told: {alert.body}"
            new += raise_alert(store, alert.subject + RECOVERED, title, body, [alert.route], now)
    return new


def load_alerts(store: Store, incident_ids: Sequence[int], *, about: str = "") -> list[Alert]:
    """The alerts of these incidents, and those whose subject begins with `about`."""
    has_subject = alerts.c.subject.startswith(about, autoescape=True) if about else false()
    return many(store, Alert, alerts.c.incident_id.in_(incident_ids) | has_subject, order_by="alert_id")


def save_attempt(store: Store, alert: Alert, *, sent_at: datetime | None) -> None:
    """Stores the result of an attempt: `alert` holds its new state."""
    state = {name: getattr(alert, name) for name in ("state", "attempts", "next_attempt_at", "cause")}
    change(store, Alert, {**state, "sent_at": sent_at}, alert_id=alert.alert_id)


def end_in(
    connection: Connection, incident_id: int, *, silenced: bool, recovered: Message | None, now: datetime
) -> None:
    """Ends an incident's alerts when it closes, within a transaction.

    If it is `silenced`, its pending alerts are dropped. The message `recovered` goes to the routes of all alerts that
    were not dropped.
    """
    if silenced:
        dropped = {"state": "dropped", "cause": "the incident was closed while it was silenced"}
        change(connection, Alert, dropped, incident_id=incident_id, state="pending")
    if recovered is not None:
        not_dropped = (alerts.c.incident_id == incident_id) & (alerts.c.state != "dropped")
        routes = select(alerts.c.route).where(not_dropped).order_by(alerts.c.alert_id)
        raise_in(connection, recovered, connection.execute(routes).scalars().all(), now)
