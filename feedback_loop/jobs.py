"""What the scheduler runs for each model: the steps of the loop as jobs, and when they are due."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from feedback_loop.clock import Window
from feedback_loop.loop import FeedbackLoop
from feedback_loop.scheduling import Chain, Job, Outcome, Scheduler, parse_schedule
from feedback_loop.store import verdicts


def cycle(loop: FeedbackLoop, model: str) -> tuple[Job, ...]:
    """One turn of the loop, in order; each job's failure is its own."""
    return (
        Job("reconcile", lambda: {"champion": loop.reconcile(model)}),
        Job("outcomes", lambda: _plain(loop.take_in_outcomes(model))),
        Job("evaluate", lambda: {"evaluations": len(loop.evaluate(model))}),
        Job("decide", lambda: _decide(loop, model)),
        Job("explain", lambda: _explain(loop, model)),
        Job("retrain", lambda: _retrain(loop, model)),
        Job("alerts", lambda: _plain(loop.deliver_alerts())),
    )


def monthly(loop: FeedbackLoop, model: str) -> tuple[Job, ...]:
    """The report of the month before this one."""
    return (Job("report", lambda: _report(loop, model)),)


def run_cycle(loop: FeedbackLoop, model: str) -> list[Outcome]:
    """Runs the cycle now, as the scheduler would; raises Refused while another process does."""
    return loop.runner.run(model, cycle(loop, model), loop.clock())


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
    """The scheduler of all configured models."""
    scheduled = [chain for model in loop.settings.models for chain in chains(loop, model)]
    return Scheduler(loop.store, loop.clock, loop.runner, scheduled)


def month_before(moment: datetime) -> Window:
    """The calendar month before the one that a moment is in."""
    end = datetime(moment.year, moment.month, 1, tzinfo=moment.tzinfo)
    return Window((end - timedelta(days=1)).replace(day=1), end)


def _decide(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    verdict = loop.decide(model)
    return {"state": str(verdict.state), "summary": verdict.summary} if verdict is not None else {"state": None}


def _explain(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """The reports of an incident, once: of the window from its version's first look to the alarm."""
    incident = verdicts.open_incident(loop.store, model)
    name = f"incident-{incident.incident_id}" if incident is not None else ""
    if incident is None or list(loop.reports.glob(f"{name}-*.html")):
        return {"reports": []}
    verdict = next(
        each for each in verdicts.load_verdicts(loop.store, model) if each.verdict_id == incident.verdict_id
    )
    since = datetime.fromisoformat(verdict.monitor["since"])
    return {"reports": [path.name for path in loop.report(model, Window(since, verdict.window.end), name)]}


def _retrain(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    loop.reconcile(model)  # what a process that died began to promote comes first
    reason, mode = loop.retrain_reason(model), loop.settings.model(model).policy.mode
    if reason is None or mode != "act":
        return {"proposed": reason if mode == "propose" else None}
    result = loop.retrain(model, reason=reason)
    return {"reason": reason, "state": result.state, "candidate": result.candidate, "summary": result.summary}


def _report(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    month = month_before(loop.clock())
    return {"reports": [path.name for path in loop.report(model, month, f"{month.start:%Y-%m}")]}


def _plain(record: Any) -> Any:
    return asdict(record) if record is not None else None
