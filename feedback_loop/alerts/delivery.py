"""Alerts on their way: each attempt is on record, a failed one is tried again later, and none stops anything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from feedback_loop.alerts.content import content_of
from feedback_loop.alerts.quiet_hours import quiet_until
from feedback_loop.alerts.sending import LOG, Attempt, is_under_way, prepare, side_by_side
from feedback_loop.config import AlertSettings
from feedback_loop.errors import FeedbackLoopError, Refused, traceback_of
from feedback_loop.store import Store
from feedback_loop.store.alerts import Alert, Route, save_attempt
from feedback_loop.store.incidents import due_alerts
from feedback_loop.store.leases import hold

EVERY_SECONDS = 5.0
"""So often a server and a scheduler look for alerts that are due."""

LEASE = timedelta(seconds=20)
"""How long others leave alerts to a delivery that was killed."""

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

    Routes are tried side by side, each alert within `timeout`. The waiting time doubles with each failure, up to
    `attempts`. A route that fails is left alone until the next delivery, and one that hangs until it no longer does.
    In quiet hours none is tried but those of the kinds that are excepted; what waits is due as soon as they end.
    While another delivery is at work, all is left to that one. One that is killed while it sends an alert has that
    one sent again: better twice than never. `pages` is the URL of our pages, for links.
    """
    counts = {"sent": 0, "failed": 0, "given_up": 0}
    away = {name for name, route in settings.routes.items() if is_under_way(route.url)}
    try:
        if _due(store, settings, now, away):
            with hold(store, "alerts", LEASE, busy="Another delivery sends alerts"):
                while due := _due(store, settings, now, away):
                    lanes = {name: _attempts(store, settings, alerts, pages) for name, alerts in due.items()}
                    for alert, cause in side_by_side(lanes, settings.timeout):
                        became = _save(store, settings, alert, cause, now)
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


def _due(store: Store, settings: AlertSettings, now: datetime, away: Collection[str]) -> dict[str, list[Alert]]:
    """The alerts that are due by route, oldest first."""
    due: dict[str, list[Alert]] = {}
    for alert in due_alerts(store, now):
        if alert.route not in away and quiet_until(alert, settings, now) is None:
            due.setdefault(alert.route, []).append(alert)
    return due


def _attempts(
    store: Store, settings: AlertSettings, alerts: Sequence[Alert], pages: str
) -> Iterator[tuple[Alert, Attempt]]:
    """Each made ready when its turn comes."""
    return ((alert, prepare(content_of(store, settings, alert, pages), alert, settings)) for alert in alerts)


def _save(store: Store, settings: AlertSettings, alert: Alert, cause: str | None, now: datetime) -> str:
    """Puts on record what became of an attempt."""
    attempts = alert.attempts + 1
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


def try_route(store: Store, settings: AlertSettings, name: str, now: datetime, pages: str = "") -> str | None:
    """Sends a message for trial on a route, by its templates, whatever it takes; None, or why it did not go out.

    Nothing of it is stored.
    """
    body = "This is a trial: nothing is amiss. Alerts on this route look like this."
    alert = Alert(0, f"test:{name}", None, name, "feedback-loop: a trial of this route", body, "pending", 0, now)
    attempts = _attempts(store, settings, [alert], pages)
    [(_, cause)] = side_by_side({name: attempts}, settings.timeout)
    return cause
