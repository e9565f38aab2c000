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


@dataclass(frozen=True)
class Entry:
    """One thing that happened in an incident: when, what, in words, and with its figures."""

    at: datetime
    what: str
    words: str
    figures: dict[str, Any] = field(default_factory=dict)


def incident_story(loop: FeedbackLoop, which: str) -> tuple[Incident, list[Entry]]:
    """An incident with all that happened in it, in the order of time; raises NotFound and Refused."""
    found = loop.incidents.find(which, closed=True)
    parts = (_verdicts, _alerts, _hands, _diagnoses, _searches, _promoted)
    entries = [entry for part in parts for entry in part(loop, found)]
    return found, sorted(entries, key=lambda each: each.at)


def _verdicts(loop: FeedbackLoop, found: Incident) -> Iterator[Entry]:
    """The opening, degraded verdicts on top, and the end where it was found by a look."""
    for each in degraded_verdicts(loop.store, found.model, found.verdict_id, found.closed_verdict_id):
        what = "opened" if each.verdict_id == found.verdict_id else "degraded"
        yield Entry(each.decided_at, what, f"version {each.version}: {each.summary}", each.evidence)
    by_hand = any(each.kind == "closed" for each in incidents.load_events(loop.store, found.incident_id))
    if found.closed_at is not None and not by_hand:
        yield Entry(found.closed_at, "closed", found.closed_because or "", found.recovery or {})


def _alerts(loop: FeedbackLoop, found: Incident) -> Iterator[Entry]:
    for each in load_alerts(loop.store, [found.incident_id]):
        held = why_held(each, loop.settings.alerts, found.silenced_until, loop.clock())
        state = held or each.state.replace("_", " ")
        cause = f": {each.cause}" if each.cause else ""
        is_end = each.subject.endswith(RECOVERED)
        at = each.sent_at or (found.closed_at if is_end and found.closed_at else found.opened_at)
        figures = {"route": each.route, "state": each.state, "attempts": each.attempts}
        yield Entry(at, "alert", f"“{each.title}” on {each.route}: {state}{cause}", figures)


def _hands(loop: FeedbackLoop, found: Incident) -> Iterator[Entry]:
    for each in incidents.load_events(loop.store, found.incident_id):
        words = f"by hand: {each.told}" if each.kind == "closed" else each.told
        yield Entry(each.at, each.kind, words)


def _diagnoses(loop: FeedbackLoop, found: Incident) -> Iterator[Entry]:
    for each in conclusions.load_diagnoses(loop.store, found.model, found.incident_id):
        right = {True: "; that was right", False: "; that was not right", None: ""}[each.was_right]
        because = f" ({each.judged_because})" if each.judged_because else ""
        words = f"{each.summary} Recommended: {each.recommendation}{right}{because}"
        yield Entry(each.as_of, "diagnosed", words, {"recommendation": each.recommendation, **each.evidence})


def _searches(loop: FeedbackLoop, found: Incident) -> Iterator[Entry]:
    for each in retrainings.load_retrainings(loop.store, found.model):
        if each.incident_id != found.incident_id:
            continue
        candidate = f", candidate version {each.candidate}" if each.candidate else ""
        why = each.cause or (each.gate or {}).get("summary", "")
        words = f"({each.reason}) {each.state}{candidate}{': ' if why else ''}{why}"
        yield Entry(each.started_at, "retrained", words, each.gate or {})


def _promoted(loop: FeedbackLoop, found: Incident) -> Iterator[Entry]:
    """What its retrainings promoted, and every other change of the champion while it was open."""
    own = {
        each.retraining_id
        for each in retrainings.load_retrainings(loop.store, found.model)
        if each.incident_id == found.incident_id
    }
    for each in retrainings.load_promotions(loop.store, found.model):
        within = found.opened_at <= each.intended_at <= (found.closed_at or each.intended_at)
        if each.retraining_id in own or within:
            words = f"version {each.from_version or '–'} → {each.to_version}, {each.state}: {each.reason}"
            what = "rolled back" if each.kind == "rollback" else "promoted"
            yield Entry(each.done_at or each.intended_at, what, words)
