"""What the scheduler runs for each model: the steps of the loop as jobs, and when they are due."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from feedback_loop.alerts import ping, route_names
from feedback_loop.clock import Window, format_moment
from feedback_loop.errors import FeedbackLoopError, Refused, Unavailable
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import model_folder
from feedback_loop.scheduling import (
    Chain,
    Job,
    Outcome,
    Scheduler,
    find_troubles,
    parse_schedule,
)
from feedback_loop.store import conclusions, ledger, retention
from feedback_loop.store.alerts import Message, raise_alert, tell_recovered
from feedback_loop.store.incidents import open_incident
from feedback_loop.store.ledger import load_runs
from feedback_loop.store.predictions import predicted_span

LAST = "retention"
"""The last job of a cycle."""

WATCH_SECONDS = 60.0
"""So often the jobs are looked after."""

RECENT = 40
"""Among so many runs of a model is the newest of each job."""


def cycle(loop: FeedbackLoop, model: str) -> tuple[Job, ...]:
    """One turn of the loop, in order; each job's failure is its own."""
    return (
        Job("forward", lambda: _forward(loop, model)),
        Job("reconcile", lambda: {"champion": loop.reconcile(model)}),
        Job("outcomes", lambda: take_in(loop, model)),
        Job("join", lambda: _join(loop, model)),
        Job("evaluate", lambda: _evaluate(loop, model)),
        Job("volume", lambda: {"alerts": loop.watch_volume(model)}),
        Job("drift", lambda: {"alerts": loop.watch_drift(model)}),
        Job("decide", lambda: _decide(loop, model)),
        Job("diagnose", lambda: _diagnose(loop, model)),
        Job("explain", lambda: _explain(loop, model)),
        Job("retrain", lambda: _retrain(loop, model)),
        Job(LAST, lambda: retained(loop, model)),
    )


def monthly(loop: FeedbackLoop, model: str) -> tuple[Job, ...]:
    """The report of the month before this one."""
    return (Job("report", lambda: _report(loop, model)),)


def run_cycle(loop: FeedbackLoop, model: str) -> list[Outcome]:
    """Runs the cycle now, as the scheduler would; raises Refused while another run is at work on the model.

    The alerts that it raises are sent by whoever delivers: a scheduler, a server, `deliver_alerts`.
    """
    outcomes = loop.runner.run(model, cycle(loop, model), loop.clock())
    beat(loop, model, outcomes)
    return outcomes


def chains(loop: FeedbackLoop, model: str) -> list[Chain]:
    """What is scheduled for a model; raises ConfigError for a schedule that can't be read."""
    schedule = loop.settings.model(model).schedule
    found = []
    for key, text, jobs in (
        ("cycle", schedule.cycle, cycle(loop, model)),
        ("report", schedule.report, monthly(loop, model)),
    ):
        trigger = parse_schedule(text, f"models.{model}.schedule.{key}")
        if trigger is not None:
            found.append(Chain(model, trigger, jobs))
    return found


def make_scheduler(loop: FeedbackLoop) -> Scheduler:
    """The scheduler of all configured models; answers Prometheus too, where that is set."""
    scheduled = [chain for model in loop.settings.models for chain in chains(loop, model)]
    if address := loop.settings.scheduler.metrics:
        from feedback_loop.scheduling.figures import LoopFigures, serve_figures

        serve_figures(LoopFigures(loop.store, list(loop.settings.models), loop.clock), address)
    return Scheduler(loop.store, loop.clock, loop.runner, scheduled, watchful_delivery(loop), partial(beat, loop))


def watch_jobs(loop: FeedbackLoop) -> int:
    """Raises an alert where a model's jobs fail, are late or hang, or retrain in vain, and one when jobs that failed
    or were late are well again; counts new ones.
    """
    told, now = 0, loop.clock()
    for model in loop.settings.models:
        troubles = troubles_of(loop, model)
        told += tell_recovered(loop.store, f"jobs:{model}:", {each.subject for each in troubles}, now)
        for each in troubles:
            told += raise_alert(
                loop.store, each.subject, each.title, each.body, route_names(loop.settings.alerts), now
            )
    return told


def troubles_of(loop: FeedbackLoop, model: str) -> list[Message]:
    """What people should know of a model's jobs."""
    span, late = predicted_span(loop.store, model), loop.settings.scheduler.late_after
    first = span[0] if span is not None else None
    return find_troubles(loop.store, model, chains(loop, model), first, late, loop.clock())


def watchful_delivery(loop: FeedbackLoop) -> Callable[[], object]:
    """What a scheduler and a server do every few seconds: alerts go out, and now and then the jobs are looked after.

    Servers do so too: they are what is still there when the scheduler has died.
    """
    looked = -WATCH_SECONDS

    def deliver() -> object:
        nonlocal looked
        if time.monotonic() - looked >= WATCH_SECONDS:
            looked = time.monotonic()
            watch_jobs(loop)
        return loop.deliver_alerts()

    return deliver


def beat(loop: FeedbackLoop, model: str, outcomes: Sequence[Outcome]) -> bool:
    """Pings the model's dead man's switch, if it has one and no job of this turn has failed."""
    url = loop.settings.model(model).schedule.heartbeat
    is_cycle = any(each.job == LAST for each in outcomes)
    return bool(url) and is_cycle and all(each.state != "failed" for each in outcomes) and ping(model, url)


def retained(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """What the model's retention removed, as plain values; `kept_since` is None where it keeps all predictions."""
    pruned, done = asdict(loop.prune(model)), loop.retain(model)
    return pruned | ({**asdict(done), "kept_since": format_moment(done.kept_since)} if done else {"kept_since": None})


def month_before(moment: datetime) -> Window:
    """The calendar month before the one that a moment is in."""
    end = datetime(moment.year, moment.month, 1, tzinfo=moment.tzinfo)
    return Window((end - timedelta(days=1)).replace(day=1), end)


def take_in(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """What came by folder and by SQL; that one of them failed neither hides nor stops the other."""
    done: dict[str, Any] = {}
    failed: list[FeedbackLoopError] = []
    for name, take in (("folder", loop.outcomes.take_in), ("sql", loop.outcomes.poll)):
        try:
            done[name] = _written(take(model))
        except FeedbackLoopError as error:
            failed.append(error)
    if failed:
        told = [error.cause for error in failed] + [_taken(name, result) for name, result in done.items() if result]
        raise Unavailable("outcomes", " ".join(told), cure=failed[0].cure) from failed[0]
    return done


def _taken(name: str, result: dict[str, Any]) -> str:
    counts, refused = result["counts"], result.get("refused") or {}
    left = "".join(f" It refused {file}: {cause.rstrip('.')}." for file, cause in refused.items())
    return f"The {name} brought {counts['received']:,} outcomes, {counts['new']:,} of them new.{left}"


def _join(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    joined = asdict(loop.join(model))
    return joined | {"until": format_moment(joined["until"]) if joined["until"] else None}


def _forward(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """What is judged next is to hold all that this host has; and what is not in order is told with the alerts."""
    try:
        drained = loop.forward()
    finally:
        alerts = loop.predictions.watch_accounts(model)
    return {**asdict(drained), "alerts": alerts}


def _evaluate(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    found = loop.evaluate(model)
    failed = ledger.load_failed_windows(loop.store, model)
    loop.judging.tell_conditions(model)
    return {"evaluations": len(found), "failed": [{"window": str(e.window), "cause": e.cause} for e in failed]}


def _decide(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    verdict = loop.decide(model)
    return (
        {"state": str(verdict.state), "summary": verdict.summary}
        if verdict is not None
        else _nothing_due(loop, model)
    )


def _nothing_due(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """No verdict, and why where there has never been one: later it is only that nothing is due yet."""
    if conclusions.latest_verdict(loop.store, model) is not None:
        return {"state": None}
    return {"state": None, "because": loop.judging.why_not_judged(model)}


def _diagnose(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    try:
        made = loop.diagnose_incident(model)
    except Refused as error:  # such a model can't be diagnosed: that is no failure of each look
        return {"recommendation": None, "summary": str(error)}
    if made is None:
        return {"recommendation": None}
    return {"recommendation": made.recommendation, "summary": made.summary}


def _explain(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """The reports of an incident, once: of the window from its version's first look to the alarm."""
    incident = open_incident(loop.store, model)
    name = f"incident-{incident.incident_id}" if incident is not None else ""
    if incident is None or list(model_folder(loop.reports, model).glob(f"{name}-*.html")):
        return {"reports": []}
    verdict = conclusions.load_verdict(loop.store, incident.verdict_id)
    since = datetime.fromisoformat(verdict.monitor["since"])
    since = max(since, retention.kept_since(loop.store, model) or since)
    return {"reports": [path.name for path in loop.report(model, Window(since, verdict.window.end), name)]}


def _retrain(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    loop.reconcile(model)  # what a process that died began to promote comes first
    reason, mode = loop.retrain_reason(model), loop.settings.model(model).policy.mode
    if reason == "alarm" and (cause := _failed_diagnosis(loop, model)):
        return {"proposed": None, "held": f"The diagnosis failed, so the feed may be what is broken: {cause}"}
    if reason is None and (held := loop.held_by_diagnosis(model)):
        return {"proposed": None, "held": held}
    if reason is None and mode == "act" and (held := loop.tell_spent_budget(model)):
        return {"proposed": None, "held": held}
    if reason is None or mode != "act":
        return {"proposed": reason if mode == "propose" else None}
    try:
        result = loop.retrain(model, reason=reason)
    except Refused as error:
        return {"reason": reason, "state": "refused", "candidate": None, "summary": str(error)}
    return {"reason": reason, "state": result.state, "candidate": result.candidate, "summary": result.summary}


def _failed_diagnosis(loop: FeedbackLoop, model: str) -> str | None:
    """Why the newest diagnosis failed; None where it did not, or where such a model can't be diagnosed."""
    newest = next((run for run in load_runs(loop.store, model, newest=RECENT) if run.job == "diagnose"), None)
    return newest.cause or newest.state if newest is not None and newest.state in ("failed", "abandoned") else None


def _report(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    month = month_before(loop.clock())
    return {"reports": [path.name for path in loop.report(model, month, f"{month.start:%Y-%m}")]}


def _plain(record: Any) -> Any:
    return asdict(record) if record is not None else None


def _written(record: Any) -> Any:
    """The same with its times as text: the ledger is JSON."""
    values = _plain(record)
    return {name: _time(value) for name, value in values.items()} if values is not None else None


def _time(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
