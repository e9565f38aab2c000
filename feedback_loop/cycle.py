"""What the scheduler runs for each model: the steps of the loop as jobs, and when they are due."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from feedback_loop.alerts import Delivery, alert_routes, keep_delivering, ping
from feedback_loop.clock import Window
from feedback_loop.errors import FeedbackLoopError, Refused, Unavailable
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import model_folder
from feedback_loop.plain import plain
from feedback_loop.scheduling import (
    Asked,
    Chain,
    Job,
    Outcome,
    Scheduler,
    find_troubles,
    parse_schedule,
    tell_helped,
)
from feedback_loop.store import conclusions, ledger, retention
from feedback_loop.store.alerts import Message, alert_recoveries, raise_message
from feedback_loop.store.approvals import waiting_approval
from feedback_loop.store.freezes import held_by_freeze
from feedback_loop.store.incidents import open_incident
from feedback_loop.store.leases import holder_of
from feedback_loop.store.ledger import JobRun, load_runs
from feedback_loop.store.predictions import predicted_span
from feedback_loop.store.rollouts import running_rollout

LAST = "retention"
"""The last job of a cycle."""

BY_HAND = "retrain by hand"
"""The job of a retraining that a person asked for: it stands in for no turn of the scheduler's."""

ASKED_AGE = timedelta(hours=1)
"""What was asked for longer ago is not begun any more: it was asked of the model as it was then."""

BEGUN_AT_MOST = 3
"""So often it is begun: what has ended its process each time would end the next one, too."""

WATCH_SECONDS = 60.0
"""So often the jobs are looked after."""

RECENT = 40
"""Among so many runs of a model is the newest of each job."""


def cycle(loop: FeedbackLoop, model: str) -> tuple[Job, ...]:
    """One turn of the loop, in order; each job's failure is its own. MLflow is asked once who is the champion."""
    jobs = (
        Job("forward", lambda: _forward(loop, model)),
        Job("reconcile", lambda: _reconcile(loop, model)),
        Job("outcomes", lambda: take_in(loop, model)),
        Job("join", lambda: plain(loop.join(model))),
        Job("evaluate", lambda: _evaluate(loop, model)),
        Job("volume", lambda: {"alerts": loop.watch_volume(model)}),
        Job("drift", lambda: {"alerts": loop.watch_drift(model)}),
        Job("decide", lambda: _decide(loop, model)),
        Job("diagnose", lambda: _diagnose(loop, model)),
        Job("adapt", lambda: _adapt(loop, model)),
        Job("explain", lambda: _explain(loop, model)),
        Job("approvals", lambda: loop.approvals.settle(model)),
        Job("rollout", lambda: loop.rollouts.turn(model)),
        Job("retrain", lambda: _retrain(loop, model)),
        Job(LAST, lambda: retained(loop, model)),
    )
    return tuple(Job(job.name, partial(_within_turn, loop, job, begins=job is jobs[0])) for job in jobs)


def _within_turn(loop: FeedbackLoop, job: Job, *, begins: bool) -> Any:
    with loop.context.asking_once(begins=begins, ends=job.name == LAST):
        return job.run()


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
    planned = {"cycle": (schedule.cycle, cycle(loop, model)), "report": (schedule.report, monthly(loop, model))}
    triggers = {key: parse_schedule(text, f"models.{model}.schedule.{key}") for key, (text, _) in planned.items()}
    return [Chain(model, trigger, planned[key][1]) for key, trigger in triggers.items() if trigger is not None]


def make_scheduler(loop: FeedbackLoop, models: Sequence[str] = ()) -> Scheduler:
    """The scheduler of these models (none: of all that are configured); answers Prometheus too, where that is set."""
    scheduled = [chain for model in models or loop.settings.models for chain in chains(loop, model)]
    if address := loop.settings.scheduler.metrics:
        from feedback_loop.scheduling.metrics import LoopFigures, serve_figures

        serve_figures(LoopFigures(loop.store, list(loop.settings.models), loop.clock), address)
    return Scheduler(
        loop.store,
        loop.clock,
        loop.runner,
        scheduled,
        watchful_delivery(loop),
        ended=partial(beat, loop),
        asked=lambda: [Asked(run.model, partial(retrain_as_asked, loop, run)) for run in left_by_hand(loop)],
    )


def retrain_as_asked(loop: FeedbackLoop, run: JobRun) -> list[Outcome]:
    """Makes a retraining that a person asked for; raises Refused while another run is at work on the model.

    One that has ended meanwhile is skipped.
    """
    model, asked = run.model, {**run.asked, "begun": run.asked["begun"] + 1}

    def search() -> dict[str, Any]:
        loop.reconcile(model)
        result = loop.retrain(model, promotes=asked["promotes"], despite_diagnosis=asked["despite_diagnosis"])
        return {**plain(result), "asked_by": asked["by"]}

    return loop.runner.run(model, [Job(BY_HAND, search, asked)], run.scheduled_at)


def left_by_hand(loop: FeedbackLoop) -> list[JobRun]:
    """The retrainings that people asked for and nobody makes: not begun, or left by a process that died.

    What nobody has begun in time is ended. One whose process died later is ended by who has the lease next.
    """
    left, now = [], loop.clock()
    for run in ledger.asked_runs(loop.store, BY_HAND, now - ASKED_AGE):
        if run.state == "running" and holder_of(loop.store, f"model:{run.model}") is not None:
            continue
        if run.asked["begun"] >= BEGUN_AT_MOST or run.scheduled_at < now - ASKED_AGE:
            if run.state != "running":
                cause = f"it was begun {run.asked['begun']} times in {ASKED_AGE}, and never ended: ask again"
                ledger.drop_asked(loop.store, run.run_id, state="failed", now=now, cause=cause)
        else:
            left.append(run)
    return left


def watch_jobs(loop: FeedbackLoop) -> int:
    """Raises an alert where a model's jobs fail, are late or hang, or retrain in vain, and one when that is over;
    counts new ones.
    """
    alerts, now, routes = 0, loop.clock(), alert_routes(loop.settings.alerts)
    for model in loop.settings.models:
        troubles = troubles_of(loop, model)
        alerts += alert_recoveries(loop.store, f"jobs:{model}:", {trouble.subject for trouble in troubles}, now)
        alerts += tell_helped(loop.store, model, troubles, now)
        for trouble in troubles:
            alerts += raise_message(loop.store, trouble, routes, now)
    return alerts


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


@contextmanager
def delivering(loop: FeedbackLoop) -> Iterator[list[Delivery]]:
    """Alerts go out while the block runs (an incident's before the fit that it leads to), and once more at its end.

    The list has what became of them.
    """
    deliveries: list[Delivery] = []
    done = threading.Event()
    thread = threading.Thread(target=keep_delivering, args=(lambda: deliveries.append(loop.deliver_alerts()), done))
    thread.start()
    try:
        yield deliveries
    finally:
        done.set()
        thread.join()
    deliveries.append(loop.deliver_alerts())


def beat(loop: FeedbackLoop, model: str, outcomes: Sequence[Outcome]) -> bool:
    """Pings the model's dead man's switch, if it has one and no job of this turn has failed."""
    url = loop.settings.model(model).schedule.heartbeat
    is_cycle = any(outcome.job == LAST for outcome in outcomes)
    return bool(url) and is_cycle and all(outcome.state != "failed" for outcome in outcomes) and ping(model, url)


def retained(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """What the model's retention removed, as plain values; `kept_since` is None where it keeps all predictions."""
    return {**plain(loop.prune(model)), "kept_since": None, **plain(loop.retain(model) or {})}


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
            done[name] = plain(take(model))
        except FeedbackLoopError as error:
            failed.append(error)
    if failed:
        words = [error.cause for error in failed] + [_taken(name, result) for name, result in done.items() if result]
        raise Unavailable("outcomes", " ".join(words), cure=failed[0].cure) from failed[0]
    return done


def _taken(name: str, result: dict[str, Any]) -> str:
    counts, refused = result["counts"], result.get("refused") or {}
    left = "".join(f" It refused {file}: {cause.rstrip('.')}." for file, cause in refused.items())
    return f"The {name} brought {counts['received']:,} outcomes, {counts['new']:,} of them new.{left}"


def _forward(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """Moves this host's rows to the store before anything is judged, and raises alerts about its spools."""
    try:
        drained = loop.forward()
    finally:
        alerts = loop.predictions.watch_accounts(model)
    return {**plain(drained), "alerts": alerts}


def _reconcile(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """Makes the record and the registry agree, and ends runs in MLflow whose processes died."""
    champion, ended = loop.reconcile(model), loop.registry.end_abandoned(model, loop.clock())
    return {"champion": champion, **({"ended_runs": ended} if ended else {})}


def _evaluate(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    evaluations = loop.evaluate(model)
    failed = ledger.load_failed_windows(loop.store, model)
    loop.judging.tell_conditions(model)
    causes = [{"window": str(failure.window), "cause": failure.cause} for failure in failed]
    return {"evaluations": len(evaluations), "failed": causes}


def _adapt(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    turn = loop.adapter.run(model)
    result = {
        "revision": turn.revision,
        "fed": len(turn.fed),
        "skipped": [str(window) for window in turn.skipped],
        "held_by": list(turn.held_by),
        "because": turn.because,
    }
    return {name: value for name, value in result.items() if value not in (None, [], "")}


def _decide(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """The verdict. Where there has never been one, why; later it is only that nothing is due yet."""
    verdict = loop.decide(model)
    if verdict is not None:
        return {"state": str(verdict.state), "summary": verdict.summary}
    if conclusions.latest_verdict(loop.store, model) is not None:
        return {"state": None}
    return {"state": None, "because": loop.judging.why_not_judged(model)}


def _diagnose(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    try:
        diagnosis = loop.diagnose_incident(model)
    except Refused as error:  # such a model can't be diagnosed: that is no failure of the job
        return {"recommendation": None, "summary": str(error)}
    if diagnosis is None:
        return {"recommendation": None}
    return {"recommendation": diagnosis.recommendation, "summary": diagnosis.summary}


def _explain(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """The reports of an incident, once: of the window from its version's first look to the alarm."""
    incident = open_incident(loop.store, model)
    name = f"incident-{incident.incident_id}" if incident is not None else ""
    if (
        incident is None
        or incident.verdict_id is None
        or list(model_folder(loop.reports, model).glob(f"{name}-*.html"))
    ):
        return {"reports": []}
    verdict = conclusions.load_verdict(loop.store, incident.verdict_id)
    since = datetime.fromisoformat(verdict.monitor["since"])
    since = max(since, retention.kept_since(loop.store, model) or since)
    return {"reports": [path.name for path in loop.report(model, Window(since, verdict.window.end), name)]}


def _retrain(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    loop.reconcile(model)  # what a process that died began to promote comes first
    reason, mode = loop.retrain_reason(model), loop.settings.model(model).policy.mode
    if held := _held(loop, model, reason, mode):
        return {"proposed": None, "held": held}
    if reason is None or mode == "observe":
        return {"proposed": None}
    try:
        result = loop.retrain(model, reason=reason)
    except Refused as error:
        return {"reason": reason, "state": "refused", "candidate": None, "summary": str(error)}
    return {"reason": reason, "state": result.state, "candidate": result.candidate, "summary": result.summary}


def _held(loop: FeedbackLoop, model: str, reason: str | None, mode: str) -> str:
    """Why no search is begun, although one may be wanted; empty where nothing holds it back."""
    if frozen := held_by_freeze(loop.store, model):
        return frozen
    if waiting := waiting_approval(loop.store, model):
        return f"Version {waiting.candidate} waits for approval {waiting.approval_id}."
    running = running_rollout(loop.store, model)
    if running is not None and running.stage != "probation":
        return f"Version {running.candidate} is in its {running.stage}."
    if reason == "alarm" and (cause := _failed_diagnosis(loop, model)):
        return f"The diagnosis failed, so the feed may be what is broken: {cause}"
    if reason is not None:
        return ""
    return loop.held_by_diagnosis(model) or (loop.tell_spent_budget(model) if mode != "observe" else "")


def _failed_diagnosis(loop: FeedbackLoop, model: str) -> str | None:
    """Why the newest diagnosis failed; None where it did not, or where such a model can't be diagnosed."""
    newest = next((run for run in load_runs(loop.store, model, newest=RECENT) if run.job == "diagnose"), None)
    return (
        newest.cause or newest.state
        if newest is not None and newest.state in ("failed", "cancelled", "abandoned")
        else None
    )


def _report(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    month = month_before(loop.clock())
    return {"reports": [path.name for path in loop.report(model, month, f"{month.start:%Y-%m}")]}
