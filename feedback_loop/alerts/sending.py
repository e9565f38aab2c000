"""Messages on their routes by Apprise, side by side and each within a time: no route holds up another."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from typing import TypeVar
from urllib.parse import quote

import structlog

from feedback_loop.alerts.content import Content
from feedback_loop.config import AlertSettings
from feedback_loop.safe_text import without_secrets
from feedback_loop.store.alerts import RECOVERED, Alert

WEBHOOKS = ("json", "jsons", "xml", "xmls", "form", "forms")
"""Routes of Apprise whose payload has fields."""

MOST_SAID = 300
"""So many letters are kept of what a route says when it takes nothing."""

LOG = "log"
"""The route that is always there: the structured log."""

_APPRISE = {"info": "info", "warning": "warning", "critical": "failure"}
"""Apprise's own kinds of messages: their colours and signs."""

ItemT = TypeVar("ItemT")

Attempt = Callable[[], str | None]
"""Sends; returns None if it was taken, else why it was not. Raises nothing."""

_under_way: dict[int, str] = {}
"""The URL of the route that each thread of this process sends on: one that hangs can't be ended."""

_log = structlog.get_logger(__name__)


def is_under_way(url: str) -> bool:
    """Whether an attempt on a route is still under way in this process: one that took too long."""
    return url in [*_under_way.values()]


def side_by_side(
    routes: Mapping[str, Iterator[tuple[ItemT, Attempt]]], within: timedelta
) -> Iterator[tuple[ItemT, str | None]]:
    """Makes the attempts of each route in their order, all routes at once; yields what became of each.

    A route ends with its first failure. An attempt that takes longer than `within` is one; its thread is left behind.
    """
    done: queue.SimpleQueue[tuple[str, ItemT, str | None]] = queue.SimpleQueue()
    running: dict[str, tuple[ItemT, float]] = {}

    def begin(route: str) -> None:
        if (following := next(routes[route], None)) is not None:
            item, attempt = following
            running[route] = item, time.monotonic() + within.total_seconds()
            work = partial(_work, route, item, attempt, done)
            threading.Thread(target=copy_context().run, args=(work,), name=f"alert {route}", daemon=True).start()

    for route in routes:
        begin(route)
    while running:
        oldest = min(running, key=lambda route: running[route][1])
        try:
            route, item, cause = done.get(timeout=max(running[oldest][1] - time.monotonic(), 0))
        except queue.Empty:
            item, _ = running.pop(oldest)
            yield item, f"it gave no answer within {within.total_seconds():g} s"
            continue
        if route in running and running[route][0] is item:  # else it was left behind
            del running[route]
            yield item, cause
            if cause is None:
                begin(route)


def _work(route: str, item: ItemT, attempt: Attempt, done: queue.SimpleQueue[tuple[str, ItemT, str | None]]) -> None:
    done.put((route, item, attempt()))


def prepare(content: Content, alert: Alert, settings: AlertSettings) -> Attempt:
    """The attempt to send an alert on its route; what it needs is loaded here, so that it only sends."""
    is_good, route = alert.subject.endswith(RECOVERED), settings.routes.get(alert.route)
    kind = "success" if is_good else _APPRISE[alert.severity]
    if alert.route == LOG:
        level = logging.INFO if kind in ("success", "info") else logging.ERROR
        words = {**content.fields, "subject": alert.subject, "title": alert.title, "body": alert.body}
        return lambda: _log.log(level, "alert", **words)
    if route is None:
        return lambda: f"there is no route {alert.route!r} in the configuration any more"
    import apprise

    # In this thread: threads of Apprise's own pool are few, and a process can't end while one of them hangs.
    messenger = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False, service_timeout=0))
    if not messenger.add(with_fields(route.url, content.fields)):
        return lambda: f"the URL of the route {alert.route!r} is none that Apprise knows"

    def send() -> str | None:
        said, logger, thread = _Said(), logging.getLogger("apprise"), threading.get_ident()
        _under_way[thread] = route.url
        logger.addHandler(said)
        try:
            # Values of callers are in it: text, of which an HTML mail is made by escaping it.
            text = apprise.NotifyFormat.TEXT
            if messenger.notify(content.body, content.title, apprise.NotifyType(kind), body_format=text):
                return None
            cause = said.last
        except Exception as error:  # noqa: BLE001 (a plugin's own)
            cause = f"{type(error).__name__}: {error}"
        finally:
            logger.removeHandler(said)
            del _under_way[thread]
        return without_secrets(cause, secret_url=route.url)[:MOST_SAID]

    return send


class _Said(logging.Handler):
    """The last line that Apprise warns of in this thread: other routes are at work in theirs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread = threading.get_ident()
        self.last = "the route did not take it"

    def emit(self, record: logging.LogRecord) -> None:
        lines = [line for line in record.getMessage().splitlines() if line.strip()]
        if record.thread == self.thread and lines:
            self.last = lines[-1]


def with_fields(url: str, fields: Mapping[str, str]) -> str:
    """A webhook's URL with fields beside title and message, as Apprise takes them; that of another route as it is."""
    if not fields or url.partition("://")[0].lower() not in WEBHOOKS:
        return url
    more = "&".join(f":{name}={quote(value, safe='')}" for name, value in fields.items())
    return f"{url}{'&' if '?' in url else '?'}{more}"
