"""Alerts: which there are, those that have not gone out, and routes tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feedback_loop.alerts import Delivery, deliver_alerts, try_route
from feedback_loop.errors import ConfigError, Unavailable
from feedback_loop.loop.context import Context
from feedback_loop.store.alerts import UNDELIVERED, Alert, list_alerts, try_again


@dataclass(frozen=True)
class Alerts:
    """What became of alerts. One that failed too often (`given_up`) is kept until it is tried again on demand."""

    context: Context

    def list(
        self, model: str | None = None, *, route: str | None = None, everything: bool = False
    ) -> Sequence[Alert]:
        """The alerts that have not gone out (with `everything` all that are kept), oldest first; raises NotFound."""
        if model is not None:
            self.context.settings.model(model)
        states = () if everything else UNDELIVERED
        return list_alerts(self.context.store, *states, model=model, route=route)

    def deliver(self) -> Delivery:
        """Tries every alert that is due."""
        context = self.context
        settings, now = context.settings, context.clock()
        return deliver_alerts(context.store, settings.alerts, now, settings.dashboard.url)

    def retry(self, numbers: Sequence[int] | None = None, *, route: str | None = None) -> Delivery:
        """Tries alerts again now, with all their attempts before them: these, or all that were given up (on a route).

        Raises NotFound, and Refused for one that has gone out.
        """
        context = self.context
        if numbers is None:
            numbers = [alert.alert_id for alert in list_alerts(context.store, "given_up", route=route)]
        try_again(context.store, numbers, context.clock())
        return self.deliver()

    def test(self, route: str) -> str:
        """Sends a message for trial on a route, as alerts on it look; returns the route.

        Raises ConfigError where there is no such route, and Unavailable where it does not take it.
        """
        context = self.context
        settings = context.settings
        if route not in settings.alerts.routes:
            names = ", ".join(sorted(settings.alerts.routes)) or "none"
            missing = f"There is no route {route!r}: there are {names}."
            raise ConfigError(missing, cure="Add it to [alerts.routes].", key="alerts.routes")
        refused = try_route(context.store, settings.alerts, route, context.clock(), settings.dashboard.url)
        if refused is not None:
            raise Unavailable("alert route", f"The route {route!r} took nothing: {refused}.", cure="Look at its URL.")
        return route
