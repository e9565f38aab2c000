"""Alerts on their way: each attempt is on record, a failed one is tried again later, and none stops anything."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import quote

import structlog

from feedback_loop.alerts.content import Content, content_of
from feedback_loop.alerts.quiet_hours import quiet_until
from feedback_loop.config import AlertSettings
from feedback_loop.errors import FeedbackLoopError, Refused, traceback_of
from feedback_loop.safe_text import without_secrets
from feedback_loop.store import Store
from feedback_loop.store.alerts import RECOVERED, Alert, Route, save_attempt
from feedback_loop.store.incidents import due_alerts
from feedback_loop.store.leases import hold

EVERY_SECONDS = 5.0
"""So often a server and a scheduler look for alerts that are due."""

LEASE = timedelta(seconds=20)
"""How long others leave alerts to a delivery that was killed."""

WEBHOOKS = ("json", "jsons", "xml", "xmls", "form", "forms")
"""Routes of Apprise whose payload has fields."""

MOST_SAID = 300
"""So many letters are kept of what a route says when it takes nothing."""

_APPRISE = {"info": "info", "warning": "warning", "critical": "failure"}
"""Apprise's own kinds of messages: their colours and signs."""

LOG = "log"
"""The route that is always there: the structured log."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Delivery:
    """What became of the alerts that were due."""

    sent: int = 0
    failed: int = 0
    given_up: int = 0


def alert_routes(settings: AlertSettings) -> tuple[Route, ...]:
    """The routes that alerts go out on, with what each takes; the log takes all."""
    named = {name: settings.routes[name] for name in sorted(settings.routes)}
    return (
        Route(LOG),
        *(Route(name, route.severity, route.models, route.kinds) for name, route in named.items()),
    )


def deliver_alerts(store: Store, settings: AlertSettings, now: datetime, pages: str = "") -> Delivery:
    """Tries every alert that is due, whatever it is about, until none is left; one delivery at a time does so.

    The waiting time doubles with each failure, up to `attempts`. A route that fails is left alone until the next
    delivery, so that the others do not wait for it. In quiet hours none is tried but those of the kinds that are
    excepted; what waits is due as soon as they end. While another delivery is at work, all is left to that one. One
    that is killed while it sends an alert has that one sent again: better twice than never. `pages` is the URL of our
    pages, for links.
    """
    counts = {"sent": 0, "failed": 0, "given_up": 0}
    away: set[str] = set()
    try:
        if _due(store, settings, now, away):
            with hold(store, "alerts", LEASE, busy="Another delivery sends alerts"):
                while due := _due(store, settings, now, away):
                    for alert in due:
                        if alert.route not in away:
                            became = _try(store, settings, alert, now, pages)
                            counts[became] += 1
                            away |= {alert.route} if became != "sent" else set()
    except Refused as error:
        _log.info("alerts left to another delivery", cause=error.cause)
    return Delivery(**counts)


def keep_delivering(deliver: Callable[[], object], done: threading.Event) -> None:
    """Delivers every few seconds until it is `done`: no model's job, so that none waits for another's."""
    while not done.wait(EVERY_SECONDS):
        try:
            deliver()
        except FeedbackLoopError as error:  # they are tried again in a moment
            _log.warning("alerts not delivered", cause=str(error))
        except Exception as error:  # noqa: BLE001 (who stopped would tell nobody of anything, ever again)
            _log.error("alerts not delivered", cause=str(error), exception=traceback_of(error))


def _due(store: Store, settings: AlertSettings, now: datetime, away: Collection[str]) -> list[Alert]:
    alerts = [alert for alert in due_alerts(store, now) if alert.route not in away]
    return [alert for alert in alerts if quiet_until(alert, settings, now) is None]


def _try(store: Store, settings: AlertSettings, alert: Alert, now: datetime, pages: str) -> str:
    """Sends an alert and puts on record what became of it."""
    cause, attempts = send(content_of(store, settings, alert, pages), alert, settings), alert.attempts + 1
    if cause is None:
        save_attempt(store, replace(alert, state="sent", attempts=attempts, cause=None), sent_at=now)
        return "sent"
    is_last = attempts >= settings.attempts
    tried = replace(
        alert,
        state="given_up" if is_last else "pending",
        attempts=attempts,
        next_attempt_at=now + settings.backoff * 2 ** (attempts - 1),
        cause=cause,
    )
    save_attempt(store, tried, sent_at=None)
    _log.warning("alert not sent", route=alert.route, subject=alert.subject, attempts=attempts, cause=cause)
    return "given_up" if is_last else "failed"


def send(content: Content, alert: Alert, settings: AlertSettings) -> str | None:
    """Sends an alert on its route now; None if it went out, else why it did not."""
    is_good, route = alert.subject.endswith(RECOVERED), settings.routes.get(alert.route)
    kind = "success" if is_good else _APPRISE[alert.severity]
    if alert.route == LOG:
        level = logging.INFO if kind in ("success", "info") else logging.ERROR
        words = {**content.fields, "subject": alert.subject, "title": alert.title, "body": alert.body}
        _log.log(level, "alert", **words)
        return None
    if route is None:
        return f"there is no route {alert.route!r} in the configuration any more"
    import apprise

    messenger = apprise.Apprise()
    if not messenger.add(with_fields(route.url, content.fields)):
        return f"the URL of the route {alert.route!r} is none that Apprise knows"
    with apprise.LogCapture(level=logging.WARNING) as log:
        # Values of callers are in it: text, of which an HTML mail is made by escaping it.
        text = apprise.NotifyFormat.TEXT
        if messenger.notify(content.body, content.title, apprise.NotifyType(kind), body_format=text):
            return None
        lines = [line for line in log.getvalue().splitlines() if line.strip()]
    last_line = lines[-1] if lines else "the route did not take it"
    return without_secrets(last_line, secret_url=route.url)[:MOST_SAID]


def try_route(store: Store, settings: AlertSettings, name: str, now: datetime, pages: str = "") -> str | None:
    """Sends a message for trial on a route, by its templates, whatever it takes; None, or why it did not go out.

    Nothing of it is stored.
    """
    body = "This is a trial: nothing is amiss. Alerts on this route look like this."
    alert = Alert(0, f"test:{name}", None, name, "feedback-loop: a trial of this route", body, "pending", 0, now)
    return send(content_of(store, settings, alert, pages), alert, settings)


def with_fields(url: str, fields: Mapping[str, str]) -> str:
    """A webhook's URL with fields beside title and message, as Apprise takes them; that of another route as it is."""
    if not fields or url.partition("://")[0].lower() not in WEBHOOKS:
        return url
    more = "&".join(f":{name}={quote(value, safe='')}" for name, value in fields.items())
    return f"{url}{'&' if '?' in url else '?'}{more}"
