"""Incidents: which there are, what is done about them, and each one's whole story."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from feedback_loop.alerts import why_held
from feedback_loop.clock import format_moment
from feedback_loop.errors import BadInput, Refused
from feedback_loop.loop.base import Wired
from feedback_loop.store import conclusions, incidents, retrainings
from feedback_loop.store.alerts import RECOVERED, load_alerts
from feedback_loop.store.conclusions import degraded_verdicts
from feedback_loop.store.incidents import Incident


@dataclass(frozen=True)
class Entry:
    """One thing that happened in an incident: when, what, in words, and with its figures."""

    at: datetime
    what: str
    words: str
    figures: dict[str, Any] = field(default_factory=dict)


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

    def incident_story(self, which: str) -> tuple[Incident, list[Entry]]:
        """An incident with all that happened in it, in the order of time; raises NotFound and Refused."""
        found = self.incident(which, closed=True)
        parts = (self._verdicts, self._alerts, self._hands, self._diagnoses, self._searches, self._promoted)
        entries = [entry for part in parts for entry in part(found)]
        return found, sorted(entries, key=lambda each: each.at)

    def _verdicts(self, found: Incident) -> Iterator[Entry]:
        """The opening, degraded verdicts on top, and the end where it was found by a look."""
        for each in degraded_verdicts(self.store, found.model, found.verdict_id, found.closed_verdict_id):
            what = "opened" if each.verdict_id == found.verdict_id else "degraded"
            yield Entry(each.decided_at, what, f"version {each.version}: {each.summary}", each.evidence)
        by_hand = any(each.kind == "closed" for each in incidents.load_events(self.store, found.incident_id))
        if found.closed_at is not None and not by_hand:
            yield Entry(found.closed_at, "closed", found.closed_because or "", found.recovery or {})

    def _alerts(self, found: Incident) -> Iterator[Entry]:
        for each in load_alerts(self.store, [found.incident_id]):
            held = why_held(each, self.settings.alerts, found.silenced_until, self.clock())
            state = held or each.state.replace("_", " ")
            cause = f": {each.cause}" if each.cause else ""
            is_end = each.subject.endswith(RECOVERED)
            at = each.sent_at or (found.closed_at if is_end and found.closed_at else found.opened_at)
            figures = {"route": each.route, "state": each.state, "attempts": each.attempts}
            yield Entry(at, "alert", f"“{each.title}” on {each.route}: {state}{cause}", figures)

    def _hands(self, found: Incident) -> Iterator[Entry]:
        for each in incidents.load_events(self.store, found.incident_id):
            words = f"by hand: {each.told}" if each.kind == "closed" else each.told
            yield Entry(each.at, each.kind, words)

    def _diagnoses(self, found: Incident) -> Iterator[Entry]:
        for each in conclusions.load_diagnoses(self.store, found.model, found.incident_id):
            right = {True: "; that was right", False: "; that was not right", None: ""}[each.was_right]
            because = f" ({each.judged_because})" if each.judged_because else ""
            words = f"{each.summary} Recommended: {each.recommendation}{right}{because}"
            yield Entry(each.as_of, "diagnosed", words, {"recommendation": each.recommendation, **each.evidence})

    def _searches(self, found: Incident) -> Iterator[Entry]:
        for each in retrainings.load_retrainings(self.store, found.model):
            if each.incident_id != found.incident_id:
                continue
            candidate = f", candidate version {each.candidate}" if each.candidate else ""
            why = each.cause or (each.gate or {}).get("summary", "")
            words = f"({each.reason}) {each.state}{candidate}{': ' if why else ''}{why}"
            yield Entry(each.started_at, "retrained", words, each.gate or {})

    def _promoted(self, found: Incident) -> Iterator[Entry]:
        """What its retrainings promoted, and every other change of the champion while it was open."""
        own = {
            each.retraining_id
            for each in retrainings.load_retrainings(self.store, found.model)
            if each.incident_id == found.incident_id
        }
        for each in retrainings.load_promotions(self.store, found.model):
            within = found.opened_at <= each.intended_at <= (found.closed_at or each.intended_at)
            if each.retraining_id in own or within:
                words = f"version {each.from_version or '–'} → {each.to_version}, {each.state}: {each.reason}"
                what = "rolled back" if each.kind == "rollback" else "promoted"
                yield Entry(each.done_at or each.intended_at, what, words)


def _said(field: str, text: str) -> str:
    if not text.strip():
        raise BadInput.of(field, "is empty", cure=f"Give --{field} a few words.")
    return text.strip()
