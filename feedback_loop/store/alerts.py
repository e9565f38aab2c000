"""Alerts: messages to be delivered once per subject and route, and their state."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, ForeignKeyConstraint, UniqueConstraint, false, select

from feedback_loop.config_process import Severity
from feedback_loop.errors import NotFound, Refused
from feedback_loop.store.engine import Store
from feedback_loop.store.records import Source, change, insert_new, many, pages
from feedback_loop.store.schema import PREFIX, shared_table

RECOVERED = ":recovered"
"""The suffix of the subject of an alert that says that an incident, or a failing job, is over."""


UNDELIVERED = ("pending", "given_up")
"""The states of alerts that have not gone out, nor are over."""

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""From the least to the greatest."""

_SEVERITY: Mapping[str, Severity] = {
    "incident": "critical",
    "spool": "critical",
    "serving": "critical",
    "jobs": "critical",
    "test": "info",
}
"""Of each kind of alert; of the others it is a warning."""


def severity_of(subject: str) -> Severity:
    """How bad it is what an alert with this subject tells; that something is over is for information."""
    return "info" if subject.endswith(RECOVERED) else _SEVERITY.get(subject.partition(":")[0], "warning")


@dataclass(frozen=True)
class Message:
    """What an alert says. It is delivered once per subject; `incident_id` is the incident that it is about, if any.

    `fields` are the same for programs: `model`, `model_version`, `incident`, `recommendation`, as far as they apply.
    `model` is the one that it is about; empty for what is about none in particular.
    """

    subject: str
    title: str
    body: str
    incident_id: int | None = None
    fields: dict[str, str] = field(default_factory=dict)
    model: str = ""


@dataclass(frozen=True)
class Route:
    """Where alerts go, and which: of at least this severity, about these models, of these kinds (none: of any)."""

    name: str
    severity: Severity = "info"
    models: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def takes(self, message: Message) -> bool:
        """Whether the message goes out on this route."""
        is_grave = SEVERITIES.index(severity_of(message.subject)) >= SEVERITIES.index(self.severity)
        is_of_model = not self.models or message.model in self.models
        return is_grave and is_of_model and (not self.kinds or message.subject.partition(":")[0] in self.kinds)


Routes = Sequence[str | Route]
"""Routes that an alert may go out on: one that is given by its name alone takes any."""


@dataclass(frozen=True)
class Alert:
    """A message about an incident or another subject (`spool:…`) on one route, and the state of its delivery.

    `given_up` is a dead letter: it failed as often as it is tried, and stays until it is tried again on demand.
    """

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
    model: str = ""

    @property
    def kind(self) -> str:
        """The subject's first word (one of `AlertKind` in the configuration)."""
        return self.subject.partition(":")[0]

    @property
    def severity(self) -> Severity:
        """How bad it is what it tells."""
        return severity_of(self.subject)


alerts = shared_table(
    "alerts",
    Alert,
    ForeignKeyConstraint(["incident_id"], [f"{PREFIX}incidents.incident_id"]),
    UniqueConstraint("subject", "route"),  # once per route
    key=["alert_id"],
)


def raise_alert(
    store: Store, subject: str, title: str, body: str, routes: Routes, now: datetime, *, model: str = ""
) -> int:
    """Adds a message that is about no incident; returns on how many routes its subject is new."""
    with store.write() as connection:
        return raise_in(connection, Message(subject, title, body, model=model), routes, now)


def raise_message(store: Store, message: Message, routes: Routes, now: datetime) -> int:
    """Adds a message; returns on how many routes its subject is new."""
    with store.write() as connection:
        return raise_in(connection, message, routes, now)


def raise_in(connection: Connection, message: Message, routes: Routes, now: datetime) -> int:
    """Adds a message on each route that takes it, within a transaction; returns on how many its subject is new."""
    names = [route if isinstance(route, str) else route.name for route in routes if _takes(route, message)]
    about = {"model": message.model} if message.model else {}
    pending = {**vars(message), "fields": {**about, **message.fields}}
    pending |= {"state": "pending", "attempts": 0, "next_attempt_at": now}
    return sum(insert_new(connection, alerts, {**pending, "route": name}, "subject", "route") for name in names)


def _takes(route: str | Route, message: Message) -> bool:
    return isinstance(route, str) or route.takes(message)


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
            new += raise_alert(store, alert.subject + RECOVERED, title, body, [alert.route], now, model=alert.model)
    return new


def load_alerts(store: Store, incident_ids: Sequence[int], *, about: str = "") -> list[Alert]:
    """The alerts of these incidents, and those whose subject begins with `about`."""
    has_subject = alerts.c.subject.startswith(about, autoescape=True) if about else false()
    return many(store, Alert, alerts.c.incident_id.in_(incident_ids) | has_subject, order_by="alert_id")


def list_alerts(source: Source, *states: str, model: str | None = None, route: str | None = None) -> list[Alert]:
    """The alerts in these states (none: in any), about a model, on a route; oldest first."""
    equal = {name: value for name, value in (("model", model), ("route", route)) if value is not None}
    where = [alerts.c.state.in_(states)] if states else []
    return many(source, Alert, *where, order_by="alert_id", newest=None, **equal)


def try_again(store: Store, alert_ids: Sequence[int], now: datetime) -> list[Alert]:
    """Makes alerts that have not gone out due now, with all their attempts before them; returns them.

    Raises NotFound, and Refused for one that was sent or dropped.
    """
    with store.write() as connection:
        chosen: dict[int, Alert] = {}
        for page in pages(alert_ids):
            chosen |= {alert.alert_id: alert for alert in many(connection, Alert, alerts.c.alert_id.in_(page))}
        for number in alert_ids:
            if number not in chosen:
                raise NotFound("alert", str(number), cure="List them: feedback-loop alerts list --all.")
            if chosen[number].state not in UNDELIVERED:
                raise Refused(f"Alert {number} was {chosen[number].state} already.")
        again = {"state": "pending", "attempts": 0, "next_attempt_at": now}
        for page in pages(alert_ids):
            change(connection, Alert, again, alerts.c.alert_id.in_(page))
    return [chosen[number] for number in alert_ids]


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
