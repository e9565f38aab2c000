"""The state of the whole loop at a glance: one read-only view for the command line, pages and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from feedback_loop.alerts import about_outcomes, count_refused, why_held
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
    leases,
    ledger,
    outcomes,
    payloads,
    predictions,
    retrainings,
    serving_state,
)
from feedback_loop.store.alerts import Alert, load_alerts
from feedback_loop.store.incidents import Incident, load_incidents, open_incident
from feedback_loop.store.spool_accounts import COUNTERS, SpoolAccount, is_of_outcomes


def loop_status(loop: FeedbackLoop) -> dict[str, Any]:
    """All models' states, as plain values. What can't be read is reported in its place and hides nothing else."""
    return {
        "store": loop.store.name,
        "registry": loop.registry.name,
        "now": format_moment(loop.clock()),
        "models": {name: model_status(loop, name) for name in loop.settings.models},
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
    searches = retrainings.load_retrainings(store, model)
    runs = ledger.load_runs(store, model, newest=RECENT)
    status = {
        "champion": champion,
        "missing_reference": missing_reference_words(store, model, champion, settings),
        "predictions": sum(counts.values()),
        "predictions_by_version": dict(sorted(counts.items(), key=_numbered)),
        "predicted": span,
        "payloads": payloads.load_account(store, model),
        "capture": spool_status(loop, loop.accounts(model)),
        "outcomes": outcomes.count_outcomes(store, model),
        "unmatched_outcomes": odd[findings.UNMATCHED],  # by the last join
        "refused_outcomes": count_refused(store, model),
        "conflicts": odd[findings.CONFLICTING],
        "evaluation": _evaluation(
            evaluations.load_evaluations(store, model, newest=1), loop.judging.past_errors(model)
        ),
        "failed_windows": [
            {"window": failed.window, "attempts": failed.attempts, "cause": failed.cause}
            for failed in ledger.load_failed_windows(store, model)
        ],
        "drift": _drift(conclusions.load_monitor(store, model, champion or ""), settings.drift.alpha),
        "conditions": [
            _standing(standing)
            for standing in load_condition_states(store, model, champion or "", settings.conditions)
        ],
        "verdict": _named(verdict, "state", "version", "decided_at", "summary") if verdict else None,
        "first_verdict_due": None if verdict else _first_due(loop, model, span[0] if span else None),
        "incident": _incident(open_incident(store, model)),
        "incidents": len(incidents),
        "not_served": [
            {"version": failure.version, "since": failure.opened_at, "cause": failure.cause}
            for failure in serving_state.find_load_incidents(store, model)
            if failure.closed_at is None
        ],
        "undelivered_alerts": _undelivered(loop, model, incidents),
        "retrainings": len(searches),
        "last_retraining": _retraining(store, searches[-1]) if searches else None,
        "promotions": len(promoted),
        "running_jobs": _running(loop, model, runs),
        "failed_jobs": _failed(runs),
        "troubles": [
            trouble.body
            for trouble in troubles_of(loop, model)
            if not trouble.subject.startswith(f"jobs:{model}:failed:")  # those are among the failed jobs
        ],
    }
    return {name: plain(value) for name, value in status.items()}


ALERTS = (
    "serving:{}:",
    "stream:{}:",
    "condition:{}:",
    "drift:{} version ",
    "quality:{} version ",
    "promotion:{}:",
    "retraining:{}:",
    "jobs:{}:",
)
"""How the subjects of a model's alerts begin, but for those of incidents, spools and outcomes."""


def _undelivered(loop: FeedbackLoop, model: str, incidents: Sequence[Incident]) -> list[dict[str, Any]]:
    """The alerts that have not gone out: what their last attempt said, or what holds them back."""
    store, now = loop.store, loop.clock()
    alerts = load_alerts(store, [incident.incident_id for incident in incidents], about="spool:")
    for about in (*(subject.format(model) for subject in ALERTS), about_outcomes(model)):
        alerts += load_alerts(store, [], about=about)
    silences = {incident.incident_id: incident.silenced_until for incident in incidents}

    def held(alert: Alert) -> str | None:
        return why_held(alert, loop.settings.alerts, silences.get(alert.incident_id or 0), now) or None

    return [
        {"route": alert.route, "state": alert.state, "cause": alert.cause or held(alert)}
        for alert in alerts
        if alert.state not in ("sent", "dropped")
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


def _evaluation(newest: list[evaluations.Evaluation], past: Mapping[str, PastError]) -> dict[str, Any] | None:
    if not newest:
        return None
    last = newest[0]
    estimates = [
        {**vars(estimate), "realised": last.metric(estimate.metric), "past": past.get(estimate.metric)}
        for estimate in last.estimates
    ]
    names = ("window", "as_of", "matured", "version", "notes", "predictions", "coverage", "drifted_share")
    return {
        **_named(last, *names),
        "metrics": {value.metric: value.value for value in last.metrics if value.segment == evaluations.ALL_ROWS},
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


def _incident(incident: Incident | None) -> dict[str, Any] | None:
    if incident is None:
        return None
    return {
        "id": incident.incident_id,
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
        "trials": [{"window": trial.name, **_named(trial, "rows", "loss", "chosen", "cause")} for trial in trials],
    }


def _running(loop: FeedbackLoop, model: str, runs: list[ledger.JobRun]) -> list[dict[str, Any]]:
    """The jobs that run now: for how long, how long they usually take, and whether their process lives."""
    now, holder = loop.clock(), leases.holder_of(loop.store, f"model:{model}")
    return [
        {
            "job": run.job,
            "since": run.started_at,
            "seconds": (now - run.started_at).total_seconds(),
            "usual_seconds": ledger.usual_seconds(runs, run.job),
            "holder": run.holder,
            "alive": run.holder == holder,
        }
        for run in runs
        if run.state == "running"
    ]


def _failed(runs: list[ledger.JobRun]) -> list[dict[str, Any]]:
    """The jobs whose newest run did not succeed."""
    newest: dict[str, ledger.JobRun] = {}
    for run in runs:
        newest.setdefault(run.job, run)
    failed = [run for run in newest.values() if run.state in ("failed", "abandoned")]
    return [{"job": run.job, "at": run.scheduled_at, "cause": run.cause} for run in failed]
