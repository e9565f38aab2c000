"""Alerts on their way: each attempt is on record, a failed one is tried again later, and none stops anything."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import quote

import structlog

from feedback_loop.clock import format_moment
from feedback_loop.config import AlertSettings
from feedback_loop.errors import FeedbackLoopError, Refused
from feedback_loop.safe_text import as_text, without_secrets
from feedback_loop.store import Store
from feedback_loop.store.alerts import RECOVERED, Alert, save_attempt
from feedback_loop.store.incidents import due_alerts
from feedback_loop.store.leases import hold

EVERY_SECONDS = 5.0
"""So often a server and a scheduler look for alerts that are due."""

LEASE = timedelta(minutes=1)
"""How long others leave alerts to a delivery that was killed."""

WEBHOOKS = ("json", "jsons", "xml", "xmls", "form", "forms")
"""Routes of Apprise whose payload has fields."""

MOST_SAID = 300
"""So many letters are kept of what a route says when it takes nothing."""

LOG = "log"
"""The route that is always there: the structured log."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Delivery:
    """What became of the alerts that were due."""

    sent: int = 0
    failed: int = 0
    given_up: int = 0


def route_names(settings: AlertSettings) -> tuple[str, ...]:
    """The routes that every alert goes out on."""
    return (LOG, *sorted(settings.routes))


def deliver_alerts(store: Store, settings: AlertSettings, now: datetime) -> Delivery:
    """Tries every alert that is due, whatever it is about, until none is left; one delivery at a time does so.

    The waiting time doubles with each failure, up to `attempts`. In quiet hours none is tried but those of the kinds
    that are excepted; what waits is due as soon as they end. While another delivery is at work, all is left to that
    one. One that is killed while it sends an alert has that one sent again: better twice than never.
    """
    counts = {"sent": 0, "failed": 0, "given_up": 0}
    try:
        if _due(store, settings, now):
            with hold(store, "alerts", LEASE, busy="Another delivery sends alerts"):
                while due := _due(store, settings, now):
                    for alert in due:
                        counts[_try(store, settings, alert, now)] += 1
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


def _due(store: Store, settings: AlertSettings, now: datetime) -> list[Alert]:
    return [alert for alert in due_alerts(store, now) if quiet_until(alert, settings, now) is None]


def _try(store: Store, settings: AlertSettings, alert: Alert, now: datetime) -> str:
    """Sends an alert and puts on record what became of it."""
    cause, attempts = _send(alert, settings), alert.attempts + 1
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


def quiet_until(alert: Alert, settings: AlertSettings, now: datetime) -> datetime | None:
    """When the quiet hours end that an alert waits for; None where it waits for none."""
    if settings.quiet is None or now not in settings.quiet or alert.kind in settings.quiet_except:
        return None
    return settings.quiet.ends_after(now)


def why_held(alert: Alert, settings: AlertSettings, silenced_until: datetime | None, now: datetime) -> str:
    """What a pending alert waits for, in words: its incident's silence or the quiet hours; empty for none of them."""
    if alert.state != "pending":
        return ""
    if silenced_until is not None and silenced_until > now:
        return f"silenced until {format_moment(silenced_until)}"
    quiet = quiet_until(alert, settings, now)
    return f"quiet hours until {format_moment(quiet)}" if quiet is not None else ""


def _send(alert: Alert, settings: AlertSettings) -> str | None:
    """None if it went out, else why it did not."""
    routes, fields, body = settings.routes, dict(alert.fields), alert.body
    if settings.link and fields:
        fields["link"] = fill_link(settings.link, fields)
        body = f"{body} {fields['link']}"
    is_good = alert.subject.endswith(RECOVERED)
    if alert.route == LOG:
        _log.log(
            logging.INFO if is_good else logging.ERROR,
            "alert",
            subject=alert.subject,
            title=alert.title,
            body=alert.body,
            **fields,
        )
        return None
    if alert.route not in routes:
        return f"there is no route {alert.route!r} in the configuration any more"
    import apprise

    messenger = apprise.Apprise()
    if not messenger.add(with_fields(routes[alert.route], fields)):
        return f"the URL of the route {alert.route!r} is none that Apprise knows"
    with apprise.LogCapture(level=logging.WARNING) as log:
        # Values of callers are in it: text, of which an HTML mail is made by escaping it.
        title, body = as_text(alert.title), as_text(body, keep="\n")
        kind = apprise.NotifyType.SUCCESS if is_good else apprise.NotifyType.FAILURE
        if messenger.notify(body, title, kind, body_format=apprise.NotifyFormat.TEXT):
            return None
        lines = [line for line in log.getvalue().splitlines() if line.strip()]
    last_line = lines[-1] if lines else "the route did not take it"
    return without_secrets(last_line, secret_url=routes[alert.route])[:MOST_SAID]


def with_fields(url: str, fields: Mapping[str, str]) -> str:
    """A webhook's URL with fields beside title and message, as Apprise takes them; that of another route as it is."""
    if not fields or url.partition("://")[0].lower() not in WEBHOOKS:
        return url
    more = "&".join(f":{name}={quote(value, safe='')}" for name, value in fields.items())
    return f"{url}{'&' if '?' in url else '?'}{more}"


def fill_link(link: str, fields: Mapping[str, str]) -> str:
    """The configured page about a model or an incident: `{model}`, `{model_version}`, `{incident}` stand for them."""
    for name in ("model", "model_version", "incident", "recommendation"):
        link = link.replace(f"{{{name}}}", quote(fields.get(name, ""), safe=""))
    return link
