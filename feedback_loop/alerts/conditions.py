"""Alerts of conditions, the user's own lines: one when a line is crossed, and one when the value is back within."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from feedback_loop.decisions import ConditionState
from feedback_loop.store import Store
from feedback_loop.store.alerts import RECOVERED, Message, Routes, load_alerts, raise_in


def tell_conditions(
    store: Store, model: str, version: str, standings: Sequence[ConditionState], routes: Routes, now: datetime
) -> int:
    """Raises an alert on each route for each condition that is crossed, or within again; returns how many are new."""
    alerts = 0
    for standing in standings:
        if standing.state == "unknown":
            continue
        about = f"condition:{model}:{standing.condition.words}:"
        earlier = load_alerts(store, [], about=about)
        is_told = bool(earlier) and not earlier[-1].subject.endswith(RECOVERED)
        if (standing.state == "crossed") == is_told:
            continue
        subject = f"{earlier[-1].subject}{RECOVERED}" if is_told else f"{about}{standing.window}"
        message = _message(subject, model, version, standing)
        with store.write() as connection:
            alerts += raise_in(connection, message, routes, now)
    return alerts


def _message(subject: str, model: str, version: str, standing: ConditionState) -> Message:
    words, value = standing.condition.words, f"{standing.value:.4g} in {standing.window}"
    fields = {"model": model, "model_version": version, "condition": words}
    if standing.state == "within":
        return Message(subject, f"{model}: no longer {words}", f"It is {value}.", fields=fields, model=model)
    since = f", since {standing.since}" if standing.since != standing.window else ""
    body = f"It is {value}{since}. This is a line of your own: no error rate is stated for it."
    return Message(subject, f"{model}: {words}", body, fields=fields, model=model)
