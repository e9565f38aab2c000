"""The ledger of job runs: when each was due, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from sqlalchemy import func, select

from feedback_loop.store import tables
from feedback_loop.store.engine import Store
from feedback_loop.store.records import as_record, insert_unless


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
    state: str
    result: Any
    cause: str | None


def begin_run(store: Store, job: str, model: str, scheduled_at: datetime, holder: str, now: datetime) -> int | None:
    """Opens a run in the ledger; None where this very run was made already, by whomever.

    A run that is still open belongs to a process that died: this is only called by whoever holds the job's lease.
    """
    table = tables.job_runs
    same = (table.c.job == job) & (table.c.model == model)
    died = {"state": "abandoned", "finished_at": now, "cause": "its process ended before the job did"}
    values = {
        "job": job,
        "model": model,
        "scheduled_at": scheduled_at,
        "started_at": now,
        "holder": holder,
        "state": "running",
    }
    with store.write() as connection:
        connection.execute(table.update().where(same, table.c.state == "running").values(**died))
        lost = same & (table.c.scheduled_at == scheduled_at) & (table.c.state == "abandoned")
        connection.execute(table.delete().where(lost))
        insert = insert_unless(connection, table).values(**values)
        once = insert.on_conflict_do_nothing(index_elements=["job", "model", "scheduled_at"])
        run_id: int | None = connection.execute(once.returning(table.c.run_id)).scalar_one_or_none()
        return run_id


def end_run(
    store: Store, run_id: int, *, state: str, now: datetime, result: Any = None, cause: str | None = None
) -> None:
    """Closes a run in the ledger."""
    table = tables.job_runs
    values = {"state": state, "finished_at": now, "result": result, "cause": cause}
    with store.write() as connection:
        connection.execute(table.update().where(table.c.run_id == run_id).values(**values))


def last_scheduled(store: Store, job: str, model: str) -> datetime | None:
    """When the newest run of a job was due that came to an end, good or bad."""
    table = tables.job_runs
    where = (table.c.job == job) & (table.c.model == model) & table.c.state.in_(["succeeded", "failed"])
    with store.read() as connection:
        newest: datetime | None = connection.execute(select(func.max(table.c.scheduled_at)).where(where)).scalar_one()
    return newest


def failing_runs(store: Store, model: str) -> list[JobRun]:
    """Of each job that has failed since it last succeeded (or was first made) the first of those runs."""
    table = tables.job_runs
    mine = table.c.model == model
    good = select(table.c.job, func.max(table.c.run_id).label("last"))
    last = good.where(mine, table.c.state == "succeeded").group_by(table.c.job).subquery()
    since = select(func.min(table.c.run_id)).outerjoin(last, last.c.job == table.c.job)
    later = table.c.run_id > func.coalesce(last.c.last, 0)
    first = since.where(mine, table.c.state == "failed", later).group_by(table.c.job)
    with store.read() as connection:
        rows = connection.execute(select(table).where(table.c.run_id.in_(first)).order_by(table.c.run_id)).all()
    return [as_record(JobRun, row) for row in rows]


def load_runs(
    store: Store, model: str | None = None, newest: int | None = None, job: str | None = None
) -> list[JobRun]:
    """Runs, newest first."""
    table = tables.job_runs
    where = [table.c.model == model] if model is not None else []
    where += [table.c.job == job] if job is not None else []
    with store.read() as connection:
        rows = connection.execute(select(table).where(*where).order_by(table.c.run_id.desc()).limit(newest)).all()
    return [as_record(JobRun, row) for row in rows]


def usual_seconds(runs: Sequence[JobRun], job: str) -> float | None:
    """How long a job usually takes, the median of those of its runs that have succeeded; None where none has."""
    ended = [run for run in runs if run.job == job and run.state == "succeeded" and run.finished_at is not None]
    took = [(run.finished_at - run.started_at).total_seconds() for run in ended if run.finished_at is not None]
    return median(took) if took else None
