"""Running jobs: one run at a time per model, each job in the ledger, a failure recorded and not passed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from feedback_loop.clock import Clock, format_moment
from feedback_loop.errors import FeedbackLoopError, LeaseLost, traceback_of
from feedback_loop.store import Store
from feedback_loop.store.leases import Lease, drop_lease, hold, this_process
from feedback_loop.store.ledger import begin_run, end_run

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Job:
    """One step of a chain: what it returns (plain values) goes into the ledger."""

    name: str
    run: Callable[[], Any]


@dataclass(frozen=True)
class Outcome:
    """How one job of a chain ended: `succeeded`, `failed`, or `skipped` (that run was made already)."""

    job: str
    state: str
    result: Any = None
    cause: str | None = None


class Runner:
    """Runs chains of jobs for models. `holder` names this process in leases and in the ledger."""

    def __init__(self, store: Store, clock: Clock, lease: timedelta, holder: str = "") -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._at_work: dict[int, Lease] = {}  # by the ledger's number of the run
        self.holder = holder or this_process()

    def run(self, model: str, jobs: Sequence[Job], scheduled_at: datetime) -> list[Outcome]:
        """Runs the jobs in their order, under the model's lease; raises Refused while another run has it.

        Raises LeaseLost where the lease is lost on the way: the rest is left to whoever has it now.
        """
        with self.leased(model) as lease:
            return [self._run_one(model, job, scheduled_at, lease) for job in jobs]

    def abandon(self, cause: str) -> list[str]:
        """Gives up the jobs that run, for a process that is about to end: they are due again, for anybody.

        Returns their names. Nothing ends their threads: whoever calls this ends the process.
        """
        named = []
        for run_id, lease in list(self._at_work.items()):
            end_run(self._store, run_id, state="abandoned", now=self._clock(), cause=cause)
            drop_lease(self._store, lease)
            named.append(lease.name.removeprefix("model:"))
        return named

    def leased(self, model: str) -> AbstractContextManager[Lease]:
        """Holds the model's lease for as long as the block takes; see `store.leases.hold`."""
        busy = f"Another run is at work on {model}"
        return hold(self._store, f"model:{model}", self._lease, busy=busy, holder=self.holder)

    def _run_one(self, model: str, job: Job, scheduled_at: datetime, lease: Lease) -> Outcome:
        run_id = begin_run(self._store, job.name, model, scheduled_at, self.holder, self._clock())
        if run_id is None:
            return Outcome(job.name, "skipped", cause=f"the run of {format_moment(scheduled_at)} was made already")
        self._at_work[run_id] = lease
        try:
            result = job.run()
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 (whatever a job raises is recorded; the next job runs)
            cause = str(error) if isinstance(error, FeedbackLoopError) else f"{type(error).__name__}: {error}"
            _log.error("job failed", job=job.name, model=model, cause=cause, exception=traceback_of(error))
            end_run(self._store, run_id, state="failed", now=self._clock(), cause=cause)
            return Outcome(job.name, "failed", cause=cause)
        finally:
            del self._at_work[run_id]
        end_run(self._store, run_id, state="succeeded", now=self._clock(), result=result)
        return Outcome(job.name, "succeeded", result)
