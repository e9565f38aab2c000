"""Incidents: which there are, and what is done about them."""

from __future__ import annotations

from datetime import datetime

from feedback_loop.clock import format_moment
from feedback_loop.errors import BadInput, Refused
from feedback_loop.loop.base import Wired
from feedback_loop.store import incidents
from feedback_loop.store.incidents import Incident


class Incidents(Wired):
    """Everything that people do about incidents; one is named by its number, or by its model: the open one."""

    def incidents(self, model: str | None = None, *, closed: bool = False) -> list[Incident]:
        """The open incidents (and the `closed` ones) of a model or of all, oldest first."""
        if model is not None:
            self.settings.model(model)
        names = self.settings.models if model is None else [model]
        found = [each for name in names for each in incidents.load_incidents(self.store, name)]
        found.sort(key=lambda each: each.incident_id)
        return [each for each in found if closed or each.closed_at is None]

    def incident(self, which: str, *, closed: bool = False) -> Incident:
        """An incident by its number, or by its model (with `closed` the newest one); raises NotFound and Refused."""
        if which not in self.settings.models and which.isdecimal():
            return incidents.load_incident(self.store, int(which))
        found = self.incidents(which, closed=closed)
        if not found:
            kind = "incident" if closed else "open incident"
            raise Refused(f"{which} has no {kind}.", cure="All that there were: feedback-loop incidents list --all.")
        return found[-1]

    def acknowledge(self, which: str, by: str) -> Incident:
        """Takes note that somebody looks after it; raises NotFound, Refused and BadInput."""
        return incidents.acknowledge(self.store, self.incident(which).incident_id, _said("by", by), self.clock())

    def silence(self, which: str, until: datetime | None) -> Incident:
        """Holds its alerts back until a moment (None: no longer); raises NotFound, Refused and BadInput."""
        now = self.clock()
        if until is not None and until <= now:
            raise BadInput.of("until", f"{format_moment(until)} is past", cure="Give a later one, or --off.")
        return incidents.silence(self.store, self.incident(which).incident_id, until, now)

    def close_incident(self, which: str, because: str) -> Incident:
        """Closes it by hand, and has its monitor start anew; raises NotFound, Refused and BadInput."""
        number = self.incident(which).incident_id
        return incidents.close_incident(self.store, number, _said("because", because), self.clock())


def _said(field: str, text: str) -> str:
    if not text.strip():
        raise BadInput.of(field, "is empty", cure=f"Give --{field} a few words.")
    return text.strip()
