"""Running jobs: one process at a time per model, each run in the ledger, a failure recorded and not passed on."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from feedback_loop.clock import Clock, format_moment
from feedback_loop.errors import FeedbackLoopError, Refused
from feedback_loop.store import Store
from feedback_loop.store.jobs import begin_run, drop_lease, end_run, take_lease

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
        self.holder = holder or f"{socket.gethostname()}:{os.getpid()}"

    def run(self, model: str, jobs: Sequence[Job], scheduled_at: datetime) -> list[Outcome]:
        """Runs the jobs in their order, under the model's lease; raises Refused while another process has it."""
        with self.leased(model):
            return [self._run_one(model, job, scheduled_at) for job in jobs]

    @contextmanager
    def leased(self, model: str) -> Iterator[None]:
        """Holds the model's lease, renewed in the background for as long as the block takes."""
        name = f"model:{model}"
        if not take_lease(self._store, name, self.holder, self._clock(), self._lease):
            raise Refused(
                f"Another process is at work on {model}.",
                cure="It is a scheduler or a command; try again when it is done.",
            )
        done = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(name, done), name=f"lease {model}", daemon=True)
        renewal.start()
        try:
            yield
        finally:
            done.set()
            renewal.join()
            drop_lease(self._store, name, self.holder)

    def _renew(self, name: str, done: threading.Event) -> None:
        while not done.wait(self._lease.total_seconds() / 3):
            try:
                take_lease(self._store, name, self.holder, self._clock(), self._lease)
            except FeedbackLoopError as error:  # the next renewal may go through; the lease outlasts one that fails
                _log.warning("lease not renewed", lease=name, cause=str(error))

    def _run_one(self, model: str, job: Job, scheduled_at: datetime) -> Outcome:
        run_id = begin_run(self._store, job.name, model, scheduled_at, self.holder, self._clock())
        if run_id is None:
            return Outcome(job.name, "skipped", cause=f"the run of {format_moment(scheduled_at)} was made already")
        try:
            result = job.run()
        except Exception as error:  # noqa: BLE001 (whatever a job raises is recorded; the next job runs)
            cause = str(error) if isinstance(error, FeedbackLoopError) else f"{type(error).__name__}: {error}"
            _log.exception("job failed", job=job.name, model=model, cause=cause)
            end_run(self._store, run_id, state="failed", now=self._clock(), cause=cause)
            return Outcome(job.name, "failed", cause=cause)
        end_run(self._store, run_id, state="succeeded", now=self._clock(), result=result)
        return Outcome(job.name, "succeeded", result)
