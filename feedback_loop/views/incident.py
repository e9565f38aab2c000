"""An incident's whole story, in the order of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from feedback_loop.alerts import why_waiting
from feedback_loop.loop import FeedbackLoop
from feedback_loop.plain import plain
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


def incident_story(loop: FeedbackLoop, which: str | int) -> tuple[Incident, list[Entry]]:
    """An incident with all that happened in it, in the order of time; raises NotFound and Refused."""
    incident = loop.incidents.find(which, closed=True)
    parts = (_verdicts, _alerts, _people, _diagnoses, _retrainings, _promotions)
    entries = [entry for part in parts for entry in part(loop, incident)]
    return incident, sorted(entries, key=lambda entry: entry.at)


def in_mlflow(loop: FeedbackLoop, incident: Incident) -> str:
    """The address in MLflow of the run of the verdict that opened it; empty where there is none."""
    if incident.verdict_id is None:
        return ""
    return loop.registry.page_of_run(conclusions.load_verdict(loop.store, incident.verdict_id).run_id)


def incident_evidence(loop: FeedbackLoop, incident: Incident) -> dict[str, Any]:
    """What it rests on, as plain values: the newest verdict's figures by loss and segment, the newest diagnosis.

    One that no verdict has opened has its own `figures` instead.
    """
    diagnoses = conclusions.load_diagnoses(loop.store, incident.model, incident.incident_id)
    evidence: dict[str, Any] = {"watched": [], "carriers": [], "figures": incident.evidence or {}, "summary": ""}
    if incident.verdict_id is not None:
        verdicts = degraded_verdicts(loop.store, incident.model, incident.verdict_id, incident.closed_verdict_id)
        newest = verdicts[-1].evidence if verdicts else {}
        evidence["watched"] = [_watched(one, newest["acts"]) for one in newest.get("watched", ())]
        evidence["carriers"] = newest.get("carriers", [])
        evidence["summary"] = verdicts[-1].summary if verdicts else ""
    newest_diagnosis = plain(diagnoses[-1]) if diagnoses else None
    return {**evidence, "diagnosis": newest_diagnosis, "parts": _parts(newest_diagnosis)}


def _watched(figures: dict[str, Any], acts: Sequence[str]) -> dict[str, Any]:
    """One watched loss: what it was, what it is, and how sure it is that it has changed."""
    size, monitors = figures.get("size") or {}, list((figures.get("monitors") or {}).values())
    return {
        "name": figures["name"],
        "acts": "acts" if figures["name"] in acts else "",
        "reference": figures.get("reference"),
        "current": figures.get("current"),
        "after": figures.get("after"),
        "changed_at": figures.get("changed_at"),
        "low": size.get("low"),
        "high": size.get("high"),
        "labels": figures.get("labels"),
        "once_in": max((one["once_in"] for one in monitors if one.get("once_in") is not None), default=None),
    }


def _parts(diagnosis: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What a diagnosis says the change of the loss is made of; empty where it could not be told apart."""
    if diagnosis is None or diagnosis["evidence"].get("split") is None:
        return []
    evidence = diagnosis["evidence"]
    split = evidence["split"]
    parts = {
        "broken features": evidence["broken"],
        "other inputs": split["inputs"],
        "other outcomes at the same inputs": split["relation"],
        "all": evidence["change"],
    }
    return [{"part": name, **part} for name, part in parts.items()]


def _verdicts(loop: FeedbackLoop, incident: Incident) -> Iterator[Entry]:
    """The opening, degraded verdicts on top, and the end where a look found it."""
    if incident.verdict_id is None:
        evidence = incident.evidence or {}
        words = f"({incident.cause}) version {incident.version}: {evidence.get('summary', '')}"
        yield Entry(incident.opened_at, "opened", words, evidence)
    else:
        yield from _own_verdicts(loop, incident, incident.verdict_id)
    by_hand = any(event.kind == "closed" for event in incidents.load_events(loop.store, incident.incident_id))
    if incident.closed_at is not None and not by_hand:
        yield Entry(incident.closed_at, "closed", incident.closed_because or "", incident.recovery or {})


def _own_verdicts(loop: FeedbackLoop, incident: Incident, opening: int) -> Iterator[Entry]:
    for verdict in degraded_verdicts(loop.store, incident.model, opening, incident.closed_verdict_id):
        what = "opened" if verdict.verdict_id == opening else "degraded"
        yield Entry(verdict.decided_at, what, f"version {verdict.version}: {verdict.summary}", verdict.evidence)


def _alerts(loop: FeedbackLoop, incident: Incident) -> Iterator[Entry]:
    for alert in load_alerts(loop.store, [incident.incident_id]):
        waiting = why_waiting(alert, loop.settings.alerts, incident.silenced_until, loop.clock())
        state = waiting or alert.state.replace("_", " ")
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
