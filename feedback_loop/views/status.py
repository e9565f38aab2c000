"""The state of the whole loop at a glance: one read-only view, whoever shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from feedback_loop.alerts import about_outcomes, count_refused, why_held
from feedback_loop.capture import notices
from feedback_loop.clock import Window, format_moment
from feedback_loop.cycle import RECENT, troubles_of
from feedback_loop.decisions import Standing, load_standings
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import PastError, known_missing
from feedback_loop.outcomes import matures_at
from feedback_loop.store import (
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
    """All models' states, as plain values. What can't be read is said in its place and hides nothing else."""
    return {
        "store": loop.store.name,
        "registry": loop.registry.name,
        "now": format_moment(loop.clock()),
        "models": {name: model_status(loop, name) for name in loop.settings.models},
    }


def spool_status(loop: FeedbackLoop, accounts: list[SpoolAccount]) -> dict[str, Any]:
    """What became of rows that servers answered and of outcomes that had to wait, in all and by process, in words."""
    now, after = loop.clock(), loop.settings.capture.alert_after
    outcomes = [each for each in accounts if is_of_outcomes(each.model)]
    predictions = [each for each in accounts if not is_of_outcomes(each.model)]
    of_outcomes = ("spooled", "stored", "refused", "waiting", "rejected")
    return {
        **{name: sum(getattr(each, name) for each in predictions) for name in (*COUNTERS, "waiting", "rejected")},
        "outcomes": {name: sum(getattr(each, name) for each in outcomes) for name in of_outcomes},
        "differences": [
            f"{each.spool}, {each.model}: {notice.words}" for each in accounts for notice in notices(each, now, after)
        ],
        "processes": [_account(each) for each in accounts],
    }


def model_status(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """One model: champion, rows, outcomes, the last evaluation and verdict, what is open, what failed.

    The store alone is asked: the champion is the one on record, as each turn of the loop finds it in the registry.
    """
    store = loop.store
    promoted = [each for each in retrainings.load_promotions(store, model) if each.state == "done"]
    answering = promoted[-1].to_version if promoted else None
    counts = coverage.count_by_version(store, model)
    span = predictions.predicted_span(store, model)
    found_odd = findings.count_findings(store, model)
    verdict = conclusions.latest_verdict(store, model)
    incidents = load_incidents(store, model)
    incident = open_incident(store, model)
    alerts = load_alerts(store, [each.incident_id for each in incidents], about="spool:")
    kinds = (
        "serving:{}:",
        "stream:{}:",
        "condition:{}:",
        "drift:{} version ",
        "quality:{} version ",
        "promotion:{}:",
        "retraining:{}:",
        "jobs:{}:",
    )
    for about in (*(kind.format(model) for kind in kinds), about_outcomes(model)):
        alerts += load_alerts(store, [], about=about)
    silences = {each.incident_id: each.silenced_until for each in incidents}

    def held(alert: Alert) -> str | None:
        until = silences.get(alert.incident_id or 0)
        return why_held(alert, loop.settings.alerts, until, loop.clock()) or None

    searches = retrainings.load_retrainings(store, model)
    runs = ledger.load_runs(store, model, newest=RECENT)
    return {
        "champion": answering,
        "missing_reference": known_missing(loop.store, model, answering, loop.settings.model(model)),
        "predictions": sum(counts.values()),
        "predictions_by_version": dict(sorted(counts.items(), key=_numbered)),
        "predicted": [format_moment(each) for each in span] if span else None,
        "payloads": asdict(payloads.load_account(store, model)),
        "capture": spool_status(loop, loop.accounts(model)),
        "outcomes": outcomes.count_outcomes(store, model),
        "unmatched_outcomes": found_odd[findings.UNMATCHED],  # by the last join
        "refused_outcomes": count_refused(store, model),
        "conflicts": found_odd[findings.CONFLICTING],
        "evaluation": _evaluation(
            evaluations.load_evaluations(store, model, newest=1), loop.judging.past_errors(model)
        ),
        "failed_windows": [
            {"window": _window(each.window), "attempts": each.attempts, "cause": each.cause}
            for each in ledger.load_failed_windows(store, model)
        ],
        "drift": _drift(
            conclusions.load_monitor(store, model, answering or ""), loop.settings.model(model).drift.alpha
        ),
        "conditions": [
            _standing(each)
            for each in load_standings(store, model, answering or "", loop.settings.model(model).conditions)
        ],
        "verdict": _verdict(verdict) if verdict else None,
        "first_verdict_due": None if verdict else _first_due(loop, model, span[0] if span else None),
        "incident": _incident(incident) if incident else None,
        "incidents": len(incidents),
        "not_served": [
            {"version": each.version, "since": format_moment(each.opened_at), "cause": each.cause}
            for each in serving_state.find_load_incidents(store, model)
            if each.closed_at is None
        ],
        "undelivered_alerts": [
            {"route": a.route, "state": a.state, "cause": a.cause or held(a)}
            for a in alerts
            if a.state not in ("sent", "dropped")
        ],
        "retrainings": len(searches),
        "last_retraining": _retraining(searches[-1], retrainings.load_trials(store, searches[-1].retraining_id))
        if searches
        else None,
        "promotions": len(promoted),
        "running_jobs": _running(loop, model, runs),
        "failed_jobs": _failed(runs),
        "troubles": [
            each.body
            for each in troubles_of(loop, model)
            if not each.subject.startswith(f"jobs:{model}:failed:")  # those are among the failed jobs
        ],
    }


def _standing(standing: Standing) -> dict[str, Any]:
    return {
        "condition": standing.condition.words,
        "state": standing.state,
        "value": standing.value,
        "window": _window(standing.window) if standing.window else None,
        "since": format_moment(standing.since.start) if standing.since else None,
        "known": list(standing.known),
    }


def _account(account: SpoolAccount) -> dict[str, Any]:
    since = account.waiting_since
    moments = {
        "waiting_since": format_moment(since) if since is not None else None,
        "updated_at": format_moment(account.updated_at),
    }
    return {**asdict(account), "state": str(account.state), **moments}


def _numbered(counted: tuple[str, int]) -> list[int]:
    return [int(part) for part in counted[0].split(".") if part.isdigit()]


def _evaluation(found: list[evaluations.Evaluation], past: Mapping[str, PastError]) -> dict[str, Any] | None:
    if not found:
        return None
    last = found[0]
    told = [(each, past.get(each.metric)) for each in last.estimates]
    return {
        "window": _window(last.window),
        "as_of": format_moment(last.as_of),
        "matured": last.matured,
        "version": last.version,
        "notes": list(last.notes),
        "predictions": last.predictions,
        "coverage": last.coverage,
        "drifted_share": last.drifted_share,
        "metrics": {each.metric: each.value for each in last.metrics if each.segment == evaluations.ALL_ROWS},
        "estimates": [
            {**vars(each), "realised": last.metric(each.metric), "past": vars(error) if error is not None else None}
            for each, error in told
        ],
    }


def _drift(monitor: conclusions.DriftMonitor | None, alpha: float) -> dict[str, Any] | None:
    """What is watched of the champion's windows: columns that were found, and checks that fail."""
    if monitor is None:
        return None
    state = monitor.state
    return {
        "rule": state["rule"],
        "alpha": alpha,
        "windows": state["windows"],
        "until": format_moment(monitor.until),
        "columns": [{"column": column, **told} for column, told in state["told"].items()],
        "failing": [{"check": check, "since": since} for check, since in state["failing"].items()],
        "unjudged": [{"column": column, "missing": missing} for column, missing in state["unjudged"].items()],
    }


def _incident(incident: Incident) -> dict[str, Any]:
    acknowledged, silenced = incident.acknowledged_at, incident.silenced_until
    return {
        "id": incident.incident_id,
        "since": format_moment(incident.opened_at),
        "acknowledged_by": incident.acknowledged_by,
        "acknowledged_at": format_moment(acknowledged) if acknowledged is not None else None,
        "silenced_until": format_moment(silenced) if silenced is not None else None,
    }


def _first_due(loop: FeedbackLoop, model: str, first_predicted: datetime | None) -> dict[str, Any]:
    """When the first window can be judged; before anything is predicted, when one that begins now could be."""
    settings = loop.settings.model(model)
    at = matures_at(first_predicted or loop.clock(), settings.maturity, settings.window)
    return {"at": format_moment(at), "predicted": first_predicted is not None}


def _verdict(verdict: conclusions.Verdict) -> dict[str, Any]:
    return {
        "state": str(verdict.state),
        "version": verdict.version,
        "decided_at": format_moment(verdict.decided_at),
        "summary": verdict.summary,
    }


def _retraining(last: retrainings.Retraining, trials: list[retrainings.Trial]) -> dict[str, Any]:
    return {
        "at": format_moment(last.started_at),
        "reason": last.reason,
        "state": last.state,
        "candidate": last.candidate,
        "cause": last.cause,
        "trials": [
            {"window": each.name, "rows": each.rows, "loss": each.loss, "chosen": each.chosen, "cause": each.cause}
            for each in trials
        ],
    }


def _running(loop: FeedbackLoop, model: str, runs: list[ledger.JobRun]) -> list[dict[str, Any]]:
    """The jobs that run now: for how long, how long they usually take, and whether their process lives."""
    now, holder = loop.clock(), leases.holder_of(loop.store, f"model:{model}")
    running = [run for run in runs if run.state == "running"]
    return [
        {
            "job": run.job,
            "since": format_moment(run.started_at),
            "seconds": (now - run.started_at).total_seconds(),
            "usual_seconds": ledger.usual_seconds(runs, run.job),
            "holder": run.holder,
            "alive": run.holder == holder,
        }
        for run in running
    ]


def _failed(runs: list[ledger.JobRun]) -> list[dict[str, Any]]:
    """The jobs whose newest run did not succeed."""
    newest: dict[str, ledger.JobRun] = {}
    for run in runs:
        newest.setdefault(run.job, run)
    failed = [run for run in newest.values() if run.state in ("failed", "abandoned")]
    return [{"job": run.job, "at": format_moment(run.scheduled_at), "cause": run.cause} for run in failed]


def _window(window: Window) -> list[str]:
    return [format_moment(window.start), format_moment(window.end)]
