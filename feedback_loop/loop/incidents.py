"""Incidents: which there are, and what is done about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from feedback_loop.clock import format_moment
from feedback_loop.errors import BadInput, Refused
from feedback_loop.loop.context import Context
from feedback_loop.store import incidents
from feedback_loop.store.incidents import Incident


@dataclass(frozen=True)
class Incidents:
    """What people do about incidents. One is named by its number, or by its model: the open one."""

    context: Context

    def list(self, model: str | None = None, *, closed: bool = False) -> Sequence[Incident]:
        """The open incidents (and the `closed` ones) of a model or of all, oldest first."""
        if model is not None:
            self.context.settings.model(model)
        names = self.context.settings.models if model is None else [model]
        loaded = [incident for name in names for incident in incidents.load_incidents(self.context.store, name)]
        loaded.sort(key=lambda incident: incident.incident_id)
        return [incident for incident in loaded if closed or incident.closed_at is None]

    def find(self, which: str, *, closed: bool = False) -> Incident:
        """An incident by its number, or by its model (with `closed` the newest one); raises NotFound and Refused."""
        if which not in self.context.settings.models and which.isdecimal():
            return incidents.load_incident(self.context.store, int(which))
        listed = self.list(which, closed=closed)
        if not listed:
            kind = "incident" if closed else "open incident"
            raise Refused(f"{which} has no {kind}.", cure="All that there were: feedback-loop incidents list --all.")
        return listed[-1]

    def ack(self, which: str, by: str) -> Incident:
        """Takes note that somebody looks after it; raises NotFound, Refused and BadInput."""
        number = self.find(which).incident_id
        return incidents.acknowledge(self.context.store, number, _required("by", by), self.context.clock())

    def silence(self, which: str, until: datetime | None) -> Incident:
        """Holds its alerts back until a moment (None: no longer); raises NotFound, Refused and BadInput."""
        now = self.context.clock()
        if until is not None and until <= now:
            raise BadInput.of("until", f"{format_moment(until)} is past", cure="Give a later one, or --off.")
        return incidents.silence(self.context.store, self.find(which).incident_id, until, now)

    def close(self, which: str, because: str) -> Incident:
        """Closes it by hand, and has its monitor start anew; raises NotFound, Refused and BadInput."""
        number = self.find(which).incident_id
        reason = _required("because", because)
        return incidents.close_incident(self.context.store, number, reason, self.context.clock())


def _required(field: str, text: str) -> str:
    if not text.strip():
        raise BadInput.of(field, "is empty", cure=f"Give --{field} a few words.")
    return text.strip()
