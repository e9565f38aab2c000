"""The state of the whole loop at a glance: one read-only view for the command line, pages and programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from feedback_loop.alerts import count_refused, why_waiting
from feedback_loop.capture import notices
from feedback_loop.clock import format_moment
from feedback_loop.cycle import RECENT, troubles_of
from feedback_loop.decisions import ConditionState, load_condition_states
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import PastError, missing_reference_words
from feedback_loop.outcomes import matures_at
from feedback_loop.plain import plain
from feedback_loop.store import (
    Store,
    conclusions,
    coverage,
    evaluations,
    findings,
    freezes,
    ledger,
    payloads,
    predictions,
    retrainings,
    serving_state,
)
from feedback_loop.store.alerts import UNDELIVERED, Alert, list_alerts
from feedback_loop.store.approvals import waiting_approval
from feedback_loop.store.incidents import Cause, Incident, load_incidents
from feedback_loop.store.rollouts import running_rollout
from feedback_loop.store.spool_accounts import COUNTERS, SpoolAccount, is_of_outcomes
from feedback_loop.views.jobs import failed_jobs, running_jobs

EVALUATED = 10
"""Among so many windows the newest one with metrics is looked for."""


def loop_status(loop: FeedbackLoop, models: Iterable[str] | None = None) -> dict[str, Any]:
    """These models' states (default: of all), as plain values."""
    return {
        "store": loop.store.name,
        "registry": loop.registry.name,
        "now": format_moment(loop.clock()),
        "models": {name: model_status(loop, name) for name in (loop.settings.models if models is None else models)},
    }


def spool_status(loop: FeedbackLoop, accounts: list[SpoolAccount]) -> dict[str, Any]:
    """What became of rows that servers answered and of outcomes that had to wait, in all and by process, in words."""
    now, after = loop.clock(), loop.settings.capture.alert_after
    outcomes = [account for account in accounts if is_of_outcomes(account.model)]
    predictions = [account for account in accounts if not is_of_outcomes(account.model)]
    return {
        **_sums(predictions, *COUNTERS, "waiting", "rejected"),
        "outcomes": _sums(outcomes, "spooled", "stored", "refused", "waiting", "rejected"),
        "differences": [
            f"{account.spool}, {account.model}: {notice.words}"
            for account in accounts
            for notice in notices(account, now, after)
        ],
        "processes": plain(accounts),
    }


def _sums(accounts: Sequence[SpoolAccount], *names: str) -> dict[str, int]:
    return {name: sum(getattr(account, name) for account in accounts) for name in names}


def model_status(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """One model: champion, rows, outcomes, the last evaluation and verdict, what is open, what failed.

    The store alone is asked: the champion is the one on record, as each turn of the loop finds it in the registry.
    """
    store, settings = loop.store, loop.settings.model(model)
    promoted = [promotion for promotion in retrainings.load_promotions(store, model) if promotion.state == "done"]
    champion = promoted[-1].to_version if promoted else None
    counts = coverage.count_by_version(store, model)
    span = predictions.predicted_span(store, model)
    odd = findings.count_findings(store, model)
    verdict = conclusions.latest_verdict(store, model)
    incidents = load_incidents(store, model)
    still_open = [_incident(incident) for incident in incidents if incident.closed_at is None]
    searches = retrainings.load_retrainings(store, model)
    runs = ledger.load_runs(store, model, newest=RECENT)
    evaluated = evaluations.load_evaluations(store, model, newest=EVALUATED, details=())
    measured = [evaluation for evaluation in evaluated if evaluation.metrics]
    whole = {one.evaluation_id: evaluations.with_details(store, one) for one in {*evaluated[-1:], *measured[-1:]}}
    past = loop.judging.past_errors(model)
    status = {
        "frozen": freezes.standing(store, model),
        "champion": champion,
        "missing_reference": missing_reference_words(store, model, champion, settings),
        "predictions": sum(counts.values()),
        "predictions_by_version": dict(sorted(counts.items(), key=_numbered)),
        "predicted": span,
        "payloads": payloads.load_account(store, model),
        "capture": spool_status(loop, loop.accounts(model)),
        "outcomes": coverage.count_outcomes(store, model),
        "unmatched_outcomes": odd[findings.UNMATCHED],  # by the last join
        "refused_outcomes": count_refused(store, model),
        "conflicts": odd[findings.CONFLICTING],
        "evaluation": _evaluation(whole[evaluated[-1].evaluation_id], past, verdict) if evaluated else None,
        "measured": _evaluation(whole[measured[-1].evaluation_id], past, verdict)
        if measured
        else None,  # newer windows have no outcomes
        "failed_windows": [
            {"window": failed.window, "attempts": failed.attempts, "cause": failed.cause}
            for failed in ledger.load_failed_windows(store, model)
        ],
        "drift": _drift(conclusions.load_monitor(store, model, champion or ""), settings.drift.alpha),
        "conditions": [
            _standing(standing)
            for standing in load_condition_states(store, model, champion or "", settings.conditions)
        ],
        "verdict": _verdict(loop, verdict) if verdict else None,
        "first_verdict_due": None if verdict else _first_due(loop, model, span[0] if span else None),
        "incident": next((named for named in still_open if named["cause"] == Cause.VERDICT), None),
        "open_incidents": still_open,
        "incidents": len(incidents),
        "not_served": [
            {"version": failure.version, "since": failure.opened_at, "cause": failure.cause}
            for failure in serving_state.find_load_incidents(store, model)
            if failure.closed_at is None
        ],
        "undelivered_alerts": _undelivered(loop, model, incidents),
        "adapter": loop.adapter.gain(model) if settings.adapter.mode == "on" else None,
        "exploration": loop.judging.exploration(model, champion),
        "retrainings": len(searches),
        "last_retraining": _retraining(store, searches[-1]) if searches else None,
        "approval": waiting_approval(store, model),
        "rollout": running_rollout(store, model),
        "promotions": len(promoted),
        "running_jobs": running_jobs(loop, model, runs),
        "failed_jobs": failed_jobs(runs),
        "troubles": [
            trouble.body
            for trouble in troubles_of(loop, model)
            if not trouble.subject.startswith(f"jobs:{model}:failed:")  # those are among the failed jobs
        ],
    }
    return {name: plain(value) for name, value in status.items()}


def _undelivered(loop: FeedbackLoop, model: str, incidents: Sequence[Incident]) -> list[dict[str, Any]]:
    """The alerts that have not gone out: what their last attempt said, or what holds them back."""
    now = loop.clock()
    alerts = [alert for name in (model, "") for alert in list_alerts(loop.store, *UNDELIVERED, model=name)]
    silences = {incident.incident_id: incident.silenced_until for incident in incidents}

    def held(alert: Alert) -> str | None:
        return why_waiting(alert, loop.settings.alerts, silences.get(alert.incident_id or 0), now) or None

    return [
        {"alert": alert.alert_id, "route": alert.route, "state": alert.state, "cause": alert.cause or held(alert)}
        for alert in alerts
    ]


def _named(record: object, *names: str) -> dict[str, Any]:
    """Some fields of a record."""
    return {name: getattr(record, name) for name in names}


def _standing(standing: ConditionState) -> dict[str, Any]:
    return {
        "condition": standing.condition.words,
        "state": standing.state,
        "value": standing.value,
        "window": standing.window,
        "since": standing.since.start if standing.since else None,
        "known": standing.known,
    }


def _numbered(counted: tuple[str, int]) -> list[int]:
    return [int(part) for part in counted[0].split(".") if part.isdigit()]


def _evaluation(
    last: evaluations.Evaluation, past: Mapping[str, PastError], verdict: conclusions.Verdict | None
) -> dict[str, Any]:
    """An evaluation; `loss` is the metric that the last verdict judged by, `bands` its metrics' errors."""
    estimates = [
        {**vars(estimate), "realised": last.metric(estimate.metric), "past": past.get(estimate.metric)}
        for estimate in last.estimates
    ]
    names = ("window", "as_of", "matured", "version", "notes", "predictions", "coverage", "drifted_share")
    of_all = [value for value in last.metrics if value.segment == evaluations.ALL_ROWS]
    return {
        **_named(last, *names),
        "loss": verdict.evidence.get("loss") if verdict is not None else None,
        "metrics": {value.metric: value.value for value in of_all},
        "bands": {value.metric: _named(value, "standard_error", "least", "most") for value in of_all},
        "estimates": estimates,
    }


def _drift(monitor: conclusions.DriftMonitor | None, alpha: float) -> dict[str, Any] | None:
    """What is watched of the champion's windows: columns that have drifted, and checks that fail."""
    if monitor is None:
        return None
    state = monitor.state
    return {
        "rule": state["rule"],
        "alpha": alpha,
        "windows": state["windows"],
        "until": monitor.until,
        "columns": [{"column": column, **found} for column, found in state["told"].items()],
        "failing": [{"check": check, "since": since} for check, since in state["failing"].items()],
        "unjudged": [{"column": column, "missing": missing} for column, missing in state["unjudged"].items()],
    }


def _verdict(loop: FeedbackLoop, verdict: conclusions.Verdict) -> dict[str, Any]:
    named = _named(verdict, "state", "version", "decided_at", "summary")
    return {**named, "in_mlflow": loop.registry.page_of_run(verdict.run_id)}


def _incident(incident: Incident) -> dict[str, Any]:
    return {
        "id": incident.incident_id,
        "cause": incident.cause,
        "title": incident.title,
        "since": incident.opened_at,
        "acknowledged_by": incident.acknowledged_by,
        "acknowledged_at": incident.acknowledged_at,
        "silenced_until": incident.silenced_until,
    }


def _first_due(loop: FeedbackLoop, model: str, first_predicted: datetime | None) -> dict[str, Any]:
    """When the first window can be judged; before anything is predicted, when one that begins now could be."""
    settings = loop.settings.model(model)
    at = matures_at(first_predicted or loop.clock(), settings.maturity, settings.window)
    return {"at": at, "predicted": first_predicted is not None}


def _retraining(store: Store, last: retrainings.Retraining) -> dict[str, Any]:
    trials = retrainings.load_trials(store, last.retraining_id)
    return {
        "at": last.started_at,
        **_named(last, "reason", "state", "candidate", "cause"),
        "trials": [
            {"window": trial.name, **_named(trial, "recipe", "why", "rows", "loss", "seconds", "chosen", "cause")}
            for trial in trials
        ],
    }
