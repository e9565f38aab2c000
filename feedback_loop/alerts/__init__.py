"""Telling people: routes, attempts, and what became of them."""

from feedback_loop.alerts.delivery import Delivery, deliver_alerts, route_names

__all__ = ["Delivery", "deliver_alerts", "route_names"]
