"""Incidents: which there are, and what is done about them."""

from __future__ import annotations

import getpass
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

    def find(self, which: str | int, *, closed: bool = False) -> Incident:
        """An incident by its number, or by its model (with `closed` the newest one); raises NotFound and Refused.

        A text of digits is a number where no model has that name.
        """
        if isinstance(which, int) or (which not in self.context.settings.models and which.isdecimal()):
            return incidents.load_incident(self.context.store, int(which))
        listed = self.list(which, closed=closed)
        if not listed:
            kind = "incident" if closed else "open incident"
            raise Refused(f"{which} has no {kind}.", cure="All that there were: feedback-loop incidents list --all.")
        if len(listed) > 1 and not closed:
            numbers = ", ".join(str(incident.incident_id) for incident in listed)
            raise Refused(f"{which} has {len(listed)} open incidents: {numbers}.", cure="Name one by its number.")
        return listed[-1]

    def ack(self, which: str | int, by: str) -> Incident:
        """Takes note that somebody looks after it; raises NotFound, Refused and BadInput."""
        number = self.find(which).incident_id
        return incidents.acknowledge(self.context.store, number, _required("by", by), self.context.clock())

    def silence(self, which: str | int, until: datetime | None, by: str | None = None) -> Incident:
        """Holds its alerts back until a moment (None: no longer); raises NotFound, Refused and BadInput.

        `by` is who does so (default: who is logged in).
        """
        now = self.context.clock()
        if until is not None and until <= now:
            raise BadInput.of("until", f"{format_moment(until)} is past", cure="Give a later one, or --off.")
        number = self.find(which).incident_id
        return incidents.silence(self.context.store, number, until, now, by or getpass.getuser())

    def close(self, which: str | int, because: str, by: str | None = None) -> Incident:
        """Closes it by hand, and has its monitor start anew; raises NotFound, Refused and BadInput.

        `by` is who does so (default: who is logged in).
        """
        number = self.find(which).incident_id
        reason = _required("because", because)
        return incidents.close_incident(
            self.context.store, number, reason, self.context.clock(), by or getpass.getuser()
        )


def _required(field: str, text: str) -> str:
    if not text.strip():
        raise BadInput.of(field, "is empty", cure=f"Give --{field} a few words.")
    return text.strip()
