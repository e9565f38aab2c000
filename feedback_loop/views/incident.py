"""An incident's whole story, in the order of time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from feedback_loop.alerts import why_held
from feedback_loop.loop import FeedbackLoop
from feedback_loop.store import conclusions, incidents, retrainings
from feedback_loop.store.alerts import RECOVERED, load_alerts
from feedback_loop.store.conclusions import degraded_verdicts
from feedback_loop.store.incidents import Incident
from feedback_loop.store.retrainings import Retraining


@dataclass(frozen=True)
class Entry:
    """One thing that happened in an incident: when, what, in words, and with its figures."""

    at: datetime
    what: str
    words: str
    figures: dict[str, Any] = field(default_factory=dict)


def incident_story(loop: FeedbackLoop, which: str) -> tuple[Incident, list[Entry]]:
    """An incident with all that happened in it, in the order of time; raises NotFound and Refused."""
    incident = loop.incidents.find(which, closed=True)
    parts = (_verdicts, _alerts, _people, _diagnoses, _retrainings, _promotions)
    entries = [entry for part in parts for entry in part(loop, incident)]
    return incident, sorted(entries, key=lambda entry: entry.at)


def _verdicts(loop: FeedbackLoop, incident: Incident) -> Iterator[Entry]:
    """The opening, degraded verdicts on top, and the end where a look found it."""
    for verdict in degraded_verdicts(loop.store, incident.model, incident.verdict_id, incident.closed_verdict_id):
        what = "opened" if verdict.verdict_id == incident.verdict_id else "degraded"
        yield Entry(verdict.decided_at, what, f"version {verdict.version}: {verdict.summary}", verdict.evidence)
    by_hand = any(event.kind == "closed" for event in incidents.load_events(loop.store, incident.incident_id))
    if incident.closed_at is not None and not by_hand:
        yield Entry(incident.closed_at, "closed", incident.closed_because or "", incident.recovery or {})


def _alerts(loop: FeedbackLoop, incident: Incident) -> Iterator[Entry]:
    for alert in load_alerts(loop.store, [incident.incident_id]):
        held = why_held(alert, loop.settings.alerts, incident.silenced_until, loop.clock())
        state = held or alert.state.replace("_", " ")
        cause = f": {alert.cause}" if alert.cause else ""
        ended_at = incident.closed_at if alert.subject.endswith(RECOVERED) else None
        at = alert.sent_at or ended_at or incident.opened_at
        figures = {"route": alert.route, "state": alert.state, "attempts": alert.attempts}
        yield Entry(at, "alert", f"“{alert.title}” on {alert.route}: {state}{cause}", figures)


def _people(loop: FeedbackLoop, incident: Incident) -> Iterator[Entry]:
    """What people did by hand."""
    for event in incidents.load_events(loop.store, incident.incident_id):
        words = f"by hand: {event.told}" if event.kind == "closed" else event.told
        yield Entry(event.at, event.kind, words)


def _diagnoses(loop: FeedbackLoop, incident: Incident) -> Iterator[Entry]:
    for diagnosis in conclusions.load_diagnoses(loop.store, incident.model, incident.incident_id):
        right = {True: "; that was right", False: "; that was not right", None: ""}[diagnosis.was_right]
        because = f" ({diagnosis.judged_because})" if diagnosis.judged_because else ""
        words = f"{diagnosis.summary} Recommended: {diagnosis.recommendation}{right}{because}"
        figures = {"recommendation": diagnosis.recommendation, **diagnosis.evidence}
        yield Entry(diagnosis.as_of, "diagnosed", words, figures)


def _retrainings(loop: FeedbackLoop, incident: Incident) -> Iterator[Entry]:
    for search in _searches(loop, incident):
        candidate = f", candidate version {search.candidate}" if search.candidate else ""
        why = search.cause or (search.gate or {}).get("summary", "")
        words = f"({search.reason}) {search.state}{candidate}{': ' if why else ''}{why}"
        yield Entry(search.started_at, "retrained", words, search.gate or {})


def _promotions(loop: FeedbackLoop, incident: Incident) -> Iterator[Entry]:
    """What its retrainings promoted, and every other change of the champion while it was open."""
    own = {search.retraining_id for search in _searches(loop, incident)}
    for promotion in retrainings.load_promotions(loop.store, incident.model):
        within = incident.opened_at <= promotion.intended_at <= (incident.closed_at or promotion.intended_at)
        if promotion.retraining_id in own or within:
            before = promotion.from_version or "–"
            words = f"version {before} → {promotion.to_version}, {promotion.state}: {promotion.reason}"
            what = "rolled back" if promotion.kind == "rollback" else "promoted"
            yield Entry(promotion.done_at or promotion.intended_at, what, words)


def _searches(loop: FeedbackLoop, incident: Incident) -> list[Retraining]:
    """The retrainings that were made for an incident."""
    searches = retrainings.load_retrainings(loop.store, incident.model)
    return [search for search in searches if search.incident_id == incident.incident_id]
