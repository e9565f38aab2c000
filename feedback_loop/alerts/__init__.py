"""Telling people: routes, attempts, and what became of them."""

from feedback_loop.alerts.conditions import tell_conditions
from feedback_loop.alerts.delivery import Delivery, deliver_alerts, keep_delivering, route_names, why_held
from feedback_loop.alerts.heartbeat import ping
from feedback_loop.alerts.outcomes import about_outcomes, count_refused, tell_bad_rows, tell_refused_file
from feedback_loop.alerts.spools import tell_differences
from feedback_loop.alerts.volume import watch_volume

__all__ = [
    "Delivery",
    "about_outcomes",
    "count_refused",
    "deliver_alerts",
    "keep_delivering",
    "ping",
    "route_names",
    "tell_bad_rows",
    "tell_conditions",
    "tell_differences",
    "tell_refused_file",
    "watch_volume",
    "why_held",
]
