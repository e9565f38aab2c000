"""Telling people: routes, attempts, and what became of them."""

from feedback_loop.alerts.delivery import Delivery, deliver_alerts, route_names
from feedback_loop.alerts.spools import tell_differences

__all__ = ["Delivery", "deliver_alerts", "route_names", "tell_differences"]
