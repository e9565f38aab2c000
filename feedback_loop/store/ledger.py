"""The ledger of job runs: when each was due, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from sqlalchemy import UniqueConstraint, func, select

from feedback_loop.store.engine import Store
from feedback_loop.store.records import change, insert_if_new, many, remove
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
    state: str  # running | succeeded | failed | abandoned
    result: Any
    cause: str | None


job_runs = shared_table("job_runs", JobRun, UniqueConstraint("job", "model", "scheduled_at"), key=["run_id"])


def begin_run(store: Store, job: str, model: str, scheduled_at: datetime, holder: str, now: datetime) -> int | None:
    """Opens a run in the ledger; None where this very run was made already, by whomever.

    A run that is still open belongs to a process that died: this is only called by whoever holds the job's lease.
    """
    died = {"state": "abandoned", "finished_at": now, "cause": "its process ended before the job did"}
    run = {"job": job, "model": model, "scheduled_at": scheduled_at}
    begun = {"started_at": now, "holder": holder, "state": "running"}
    with store.write() as connection:
        change(connection, JobRun, died, job=job, model=model, state="running")
        remove(connection, JobRun, **run, state="abandoned")
        run_id: int | None = insert_if_new(connection, job_runs, run | begun, *run)
        return run_id


def end_run(
    store: Store, run_id: int, *, state: str, now: datetime, result: Any = None, cause: str | None = None
) -> None:
    """Closes a run in the ledger."""
    change(store, JobRun, {"state": state, "finished_at": now, "result": result, "cause": cause}, run_id=run_id)


def last_scheduled(store: Store, job: str, model: str) -> datetime | None:
    """When the newest run of a job was due that came to an end, good or bad."""
    table = job_runs
    where = (table.c.job == job) & (table.c.model == model) & table.c.state.in_(["succeeded", "failed"])
    with store.read() as connection:
        newest: datetime | None = connection.execute(select(func.max(table.c.scheduled_at)).where(where)).scalar_one()
    return newest


def failing_runs(store: Store, model: str) -> list[JobRun]:
    """Of each job that has failed since it last succeeded (or was first made) the first of those runs."""
    table = job_runs
    mine = table.c.model == model
    good = select(table.c.job, func.max(table.c.run_id).label("last"))
    last = good.where(mine, table.c.state == "succeeded").group_by(table.c.job).subquery()
    since = select(func.min(table.c.run_id)).outerjoin(last, last.c.job == table.c.job)
    later = table.c.run_id > func.coalesce(last.c.last, 0)
    first = since.where(mine, table.c.state == "failed", later).group_by(table.c.job)
    return many(store, JobRun, table.c.run_id.in_(first), order_by="run_id")


def load_runs(
    store: Store, model: str | None = None, newest: int | None = None, job: str | None = None
) -> list[JobRun]:
    """Runs, newest first."""
    wanted = {name: value for name, value in (("model", model), ("job", job)) if value is not None}
    return many(store, JobRun, order_by=job_runs.c.run_id.desc(), newest=newest, **wanted)


def usual_seconds(runs: Sequence[JobRun], job: str) -> float | None:
    """How long a job usually takes, the median of those of its runs that have succeeded; None where none has."""
    ended = [run for run in runs if run.job == job and run.state == "succeeded" and run.finished_at is not None]
    took = [(run.finished_at - run.started_at).total_seconds() for run in ended if run.finished_at is not None]
    return median(took) if took else None
