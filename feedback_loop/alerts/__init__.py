"""Telling people: routes, attempts, and what became of them."""

from feedback_loop.alerts.conditions import tell_conditions
from feedback_loop.alerts.delivery import Delivery, alert_routes, deliver_alerts, keep_delivering, try_route
from feedback_loop.alerts.heartbeat import ping
from feedback_loop.alerts.outcomes import about_outcomes, count_refused, tell_bad_rows, tell_refused_file
from feedback_loop.alerts.quiet_hours import why_waiting
from feedback_loop.alerts.spools import tell_differences
from feedback_loop.alerts.volume import watch_volume

__all__ = [
    "Delivery",
    "about_outcomes",
    "alert_routes",
    "count_refused",
    "deliver_alerts",
    "keep_delivering",
    "ping",
    "tell_bad_rows",
    "tell_conditions",
    "tell_differences",
    "tell_refused_file",
    "try_route",
    "watch_volume",
    "why_waiting",
]
