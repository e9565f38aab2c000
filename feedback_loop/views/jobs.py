"""Jobs: what is scheduled and due next, what runs and in which process, and how runs ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feedback_loop.cycle import RECENT, cycle, monthly, troubles_of
from feedback_loop.loop import FeedbackLoop
from feedback_loop.plain import plain
from feedback_loop.scheduling import parse_schedule
from feedback_loop.store import leases, ledger
from feedback_loop.store.ledger import JobRun

BACKTEST = "backtest"
"""A job that somebody asks for on a page. It only reads, so the loop's turns go on beside it."""


def lease_of(job: str, model: str) -> str:
    """The name of the lease that a run of that job holds."""
    return f"{BACKTEST if job == BACKTEST else 'model'}:{model}"


def model_jobs(loop: FeedbackLoop, model: str, newest: int = RECENT) -> dict[str, Any]:
    """The jobs of one model, as plain values: schedules, lease, what runs, what failed, the newest runs, troubles."""
    runs = ledger.load_runs(loop.store, model, newest=max(newest, RECENT))
    found = {
        "model": model,
        "schedules": _schedules(loop, model),
        "holder": leases.holder_of(loop.store, f"model:{model}"),
        "running": running_jobs(loop, model, runs),
        "failed": failed_jobs(runs),
        "troubles": [{"title": trouble.title, "body": trouble.body} for trouble in troubles_of(loop, model)],
        "runs": [_run(run) for run in runs[:newest]],
    }
    return {name: plain(value) for name, value in found.items()}


def _schedules(loop: FeedbackLoop, model: str) -> list[dict[str, Any]]:
    """What is scheduled: when it was due last and is due next (None: never)."""
    settings, now = loop.settings.model(model).schedule, loop.clock()
    schedules = []
    for name, text, jobs in (
        ("cycle", settings.cycle, cycle(loop, model)),
        ("report", settings.report, monthly(loop, model)),
    ):
        trigger = parse_schedule(text, f"models.{model}.schedule.{name}")
        made = ledger.last_made(loop.store, model, [job.name for job in jobs])
        moments = [moment for moment in made if moment is not None]
        schedules.append(
            {
                "name": name,
                "schedule": text,
                "jobs": [job.name for job in jobs],
                "last": max(moments, default=None),
                "next": trigger.get_next_fire_time(None, now) if trigger is not None else None,
            }
        )
    return schedules


def _run(run: JobRun) -> dict[str, Any]:
    seconds = (run.finished_at - run.started_at).total_seconds() if run.finished_at is not None else None
    return {**vars(run), "seconds": seconds}


def running_jobs(loop: FeedbackLoop, model: str, runs: Sequence[JobRun]) -> list[dict[str, Any]]:
    """The jobs that run now: for how long, how long they usually take, and whether their process lives."""
    now = loop.clock()
    return [
        {
            "run": run.run_id,
            "job": run.job,
            "since": run.started_at,
            "seconds": (now - run.started_at).total_seconds(),
            "usual_seconds": ledger.usual_seconds(runs, run.job),
            "holder": run.holder,
            "alive": run.holder == leases.holder_of(loop.store, lease_of(run.job, model)),
        }
        for run in runs
        if run.state == "running"
    ]


def failed_jobs(runs: Sequence[JobRun]) -> list[dict[str, Any]]:
    """The jobs whose newest run did not succeed."""
    newest: dict[str, JobRun] = {}
    for run in runs:
        if run.job != BACKTEST:  # the policy's page says how it ended
            newest.setdefault(run.job, run)
    failed = [run for run in newest.values() if run.state in ("failed", "abandoned")]
    return [{"job": run.job, "at": run.scheduled_at, "cause": run.cause} for run in failed]


def in_words(value: Any) -> str:
    """What a job returned, without what is empty or none of it."""
    if isinstance(value, dict):
        named = {name.replace("_", " "): inner for name, inner in value.items() if inner or inner is False}
        return ", ".join(_named(name, inner) for name, inner in named.items() if in_words(inner))
    if isinstance(value, list | tuple):
        return "; ".join(map(in_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _named(name: str, value: Any) -> str:
    return f"{name} ({in_words(value)})" if isinstance(value, dict) else f"{name}: {in_words(value)}"
