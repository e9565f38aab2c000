"""The ledger of job runs and their outcome, and the windows that could not be evaluated yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from sqlalchemy import Column, Select, String, UniqueConstraint, func, select

from feedback_loop.clock import Window
from feedback_loop.errors import NotFound, Refused
from feedback_loop.store.engine import Store
from feedback_loop.store.records import Source, change, insert_if_new, many, one, put, remove
from feedback_loop.store.schema import shared_table


@dataclass(frozen=True)
class JobRun:
    """One run of one job: when it was due, when it ran, how it ended."""

    run_id: int
    job: str
    model: str
    scheduled_at: datetime
    started_at: datetime
    finished_at: datetime | None
    holder: str
    state: str  # wanted (nobody has begun it yet) | running | succeeded | failed | cancelled | abandoned
    result: Any
    cause: str | None
    cancel_asked_at: datetime | None = None  # the job ends at its next access to the store
    cancel_asked_by: str | None = None
    cancel_reason: str | None = None
    asked: Any = None  # of what a person asked for: what, by whom, and how often it was begun


job_runs = shared_table("job_runs", JobRun, UniqueConstraint("job", "model", "scheduled_at"), key=["run_id"])


def want_run(store: Store, job: str, model: str, asked: Any, now: datetime) -> JobRun:
    """Records that a person asks for a run, which somebody is to begin; returns it."""
    run = {"job": job, "model": model, "scheduled_at": now, "started_at": now, "holder": "", "state": "wanted"}
    with store.write() as connection:
        run_id = insert_if_new(connection, job_runs, {**run, "asked": asked}, "job", "model", "scheduled_at")
        if run_id is None:
            raise Refused(f"{job} of {model} was asked for at this very moment already.")
        wanted = find_run(connection, run_id)
    assert wanted is not None  # it was inserted just now
    return wanted


def asked_runs(store: Store, job: str, since: datetime) -> list[JobRun]:
    """The runs that people asked for and that have not ended; of abandoned ones those of `since` and later."""
    runs = job_runs.c
    is_open = runs.state.in_(("wanted", "running")) | (runs.state == "abandoned") & (runs.scheduled_at >= since)
    return [run for run in many(store, JobRun, is_open, job=job, order_by="run_id") if run.asked is not None]


def drop_asked(store: Store, run_id: int, *, state: str, now: datetime, cause: str) -> bool:
    """Ends what was asked for and does not run; whether it did so."""
    ended = {"state": state, "finished_at": now, "cause": cause}
    return change(store, JobRun, ended, job_runs.c.state.in_(("wanted", "abandoned")), run_id=run_id) == 1


def begin_run(
    store: Store, job: str, model: str, scheduled_at: datetime, holder: str, now: datetime, asked: Any = None
) -> int | None:
    """Opens a run and returns its id; None if the run of that job, model and moment was made already.

    To be called with the job's lease: a run that is still open then belongs to a process that died.
    """
    died = {"state": "abandoned", "finished_at": now, "cause": "its process ended before the job did"}
    run = {"job": job, "model": model, "scheduled_at": scheduled_at}
    begun = {"started_at": now, "holder": holder, "state": "running", "asked": asked}
    with store.write() as connection:
        change(connection, JobRun, died, job=job, model=model, state="running")
        remove(connection, JobRun, job_runs.c.state.in_(("wanted", "abandoned")), **run)
        run_id: int | None = insert_if_new(connection, job_runs, run | begun, *run)
        return run_id


def end_run(
    store: Store, run_id: int, *, state: str, now: datetime, result: Any = None, cause: str | None = None
) -> None:
    """Records how a run ended."""
    change(store, JobRun, {"state": state, "finished_at": now, "result": result, "cause": cause}, run_id=run_id)


def find_run(source: Source, run_id: int) -> JobRun | None:
    """The run with that number, if there is one."""
    return one(source, JobRun, run_id=run_id)


def ask_cancel(store: Store, run_id: int, *, by: str, reason: str, now: datetime) -> JobRun:
    """Asks for the end of a run; returns it. Raises NotFound, and Refused where it has ended."""
    asked = {"cancel_asked_at": now, "cancel_asked_by": by, "cancel_reason": reason}
    with store.write() as connection:
        is_running = change(connection, JobRun, asked, run_id=run_id, state="running")
        run = find_run(connection, run_id)
        if run is None:
            raise NotFound("run of a job", str(run_id), cure="List them: feedback-loop jobs list.")
        if not is_running:
            raise Refused(f"Run {run_id} ({run.job} of {run.model}) does not run: it is {run.state}.")
    return run


ENDED = ("succeeded", "failed", "cancelled")
"""The states of runs that are not made again."""


def last_made(store: Store, model: str, jobs: Sequence[str], until: datetime | None = None) -> list[datetime | None]:
    """When the newest run of each job that ended, well or not, was due, up to a moment."""
    table = job_runs.c
    ended = [table.model == model, table.state.in_(ENDED), *([table.scheduled_at <= until] if until else [])]
    newest = table.scheduled_at.desc()  # in the order of the unique index: the first run that fits, not all of them
    each = [select(table.scheduled_at).where(table.job == job, *ended).order_by(newest).limit(1) for job in jobs]
    with store.read() as connection:
        columns = [statement.scalar_subquery().label(f"job_{place}") for place, statement in enumerate(each)]
        return list(connection.execute(select(*columns)).one()) if columns else []


def failing_runs(store: Store, model: str) -> list[JobRun]:
    """For each job that is failing: its first failed run since it last succeeded."""
    runs = job_runs.c
    with store.read() as connection:
        unwell = connection.execute(_unwell(model)).scalars().all()
    if not unwell:  # nearly always; else all runs of these jobs are read
        return []
    succeeded = (
        select(runs.job, func.max(runs.run_id).label("last_id"))
        .where(runs.model == model, runs.job.in_(unwell), runs.state == "succeeded")
        .group_by(runs.job)
        .subquery()
    )
    first_failed = (
        select(func.min(runs.run_id))
        .outerjoin(succeeded, succeeded.c.job == runs.job)
        .where(
            runs.model == model,
            runs.job.in_(unwell),
            runs.state == "failed",
            runs.run_id > func.coalesce(succeeded.c.last_id, 0),
        )
        .group_by(runs.job)
    )
    return many(store, JobRun, runs.run_id.in_(first_failed), order_by="run_id")


def _unwell(model: str) -> Select[tuple[str]]:
    """The jobs of which the newest run that succeeded or failed has failed: the unique index says so, job by job."""
    runs = job_runs.c
    jobs = select(func.min(runs.job).label("job")).cte("jobs", recursive=True)
    following = select(func.min(runs.job)).where(runs.job > jobs.c.job).correlate(jobs).scalar_subquery()
    jobs = jobs.union_all(select(following).where(jobs.c.job.is_not(None)))
    of_job = (runs.job == jobs.c.job, runs.model == model, runs.state.in_(("succeeded", "failed")))
    newest = select(runs.state).where(*of_job).order_by(runs.scheduled_at.desc()).limit(1).correlate(jobs)
    return select(jobs.c.job).where(jobs.c.job.is_not(None), newest.scalar_subquery() == "failed")


def load_runs(
    store: Store, model: str | None = None, newest: int | None = None, job: str | None = None
) -> list[JobRun]:
    """Runs (of a model, of a job), newest first."""
    equal = {name: value for name, value in (("model", model), ("job", job)) if value is not None}
    return many(store, JobRun, order_by=job_runs.c.run_id.desc(), newest=newest, **equal)


def usual_seconds(runs: Sequence[JobRun], job: str) -> float | None:
    """The median duration of a job's successful runs in seconds; None if there is none."""
    seconds = [
        (run.finished_at - run.started_at).total_seconds()
        for run in runs
        if run.job == job and run.state == "succeeded" and run.finished_at is not None
    ]
    return median(seconds) if seconds else None


@dataclass(frozen=True)
class FailedWindow:
    """A window whose evaluation failed: why, how often it was tried, and when it is tried again."""

    window: Window
    attempts: int
    failed_at: datetime
    next_attempt_at: datetime
    cause: str


shared_table("failed_windows", FailedWindow, Column("model", String), key=["model", "window_start", "window_end"])


def load_failed_windows(store: Store, model: str) -> list[FailedWindow]:
    """The windows whose last attempt failed, oldest first."""
    return many(store, FailedWindow, model=model, order_by="window_start")


def save_failed_window(store: Store, model: str, failed: FailedWindow) -> None:
    """Records another failed attempt."""
    put(store, failed, model=model)


def forget_failed_window(store: Store, model: str, window: Window) -> None:
    """Removes a window that was evaluated after all."""
    remove(store, FailedWindow, model=model, window_start=window.start, window_end=window.end)
