"""Running jobs: one run at a time per model, each job in the ledger, a failure recorded and not passed on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from feedback_loop.clock import Clock, format_moment
from feedback_loop.errors import Cancelled, FeedbackLoopError, LeaseLost, traceback_of
from feedback_loop.store import Store
from feedback_loop.store.leases import Lease, drop_lease, hold, this_process
from feedback_loop.store.ledger import begin_run, end_run, find_run
from feedback_loop.tracing import Tracing, step

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Job:
    """One step of a chain: what it returns (plain values) goes into the ledger, as does what a person `asked` for."""

    name: str
    run: Callable[[], Any]
    asked: Any = None


@dataclass(frozen=True)
class Outcome:
    """How one job of a chain ended: `succeeded`, `failed`, `cancelled`, or `skipped` (that run was made already)."""

    job: str
    state: str
    result: Any = None
    cause: str | None = None


class _Turn:
    """What runs of a chain, and whether somebody has asked for its end."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._run_id: int | None = None
        self._cancelled: tuple[int, Cancelled] | None = None  # with the run that it is about
        self.stopped: Cancelled | None = None  # what an access to the store was refused with

    def begin(self, run_id: int | None) -> None:
        """Another run begins, or none."""
        self.stopped, self._run_id = None, run_id

    def look(self) -> None:
        """Asks the store whether it shall end; called with each renewal of the lease."""
        run_id = self._run_id
        run = find_run(self._store, run_id) if run_id is not None else None
        if run is not None and run.cancel_asked_at is not None:
            self._cancelled = run.run_id, Cancelled(run.cancel_asked_by or "", run.cancel_reason or "")

    def check(self) -> None:
        """Raises Cancelled at each access to the store, so that no handler on the way goes on all the same."""
        if self._cancelled is not None and self._cancelled[0] == self._run_id:
            self.stopped = self._cancelled[1]
            raise self.stopped


class Runner:
    """Runs chains of jobs for models. `holder` names this process in leases and in the ledger.

    With `trace`, which is called with the first run, each run is a trace and each of its jobs a span.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        lease: timedelta,
        holder: str = "",
        trace: Callable[[], Tracing] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._at_work: dict[int, Lease] = {}  # by the ledger's number of the run
        self.holder = holder or this_process()
        self._trace = trace
        self._tracing: Tracing | None = None
        self._starting = threading.Lock()

    def run(
        self, model: str, jobs: Sequence[Job], scheduled_at: datetime, *, lease: str | None = None
    ) -> list[Outcome]:
        """Runs the jobs in their order, under the model's lease (or another); raises Refused while a run has it.

        Raises LeaseLost where the lease is lost on the way: the rest is left to whoever has it now.
        """
        turn = _Turn(self._store)
        guard = self._store.guarded(turn.check, lambda _: turn.check())
        with self.leased(model, turn.look, lease) as held, guard, self._traced(model, scheduled_at):
            return [self._run_one(model, job, scheduled_at, held, turn) for job in jobs]

    def abandon(self, cause: str) -> list[str]:
        """Gives up the jobs that run, for a process that is about to end: they are due again, for anybody.

        Returns their names. Nothing ends their threads: whoever calls this ends the process.
        """
        named = []
        for run_id, lease in list(self._at_work.items()):
            end_run(self._store, run_id, state="abandoned", now=self._clock(), cause=cause)
            drop_lease(self._store, lease)
            named.append(lease.name.partition(":")[2])
        return named

    def leased(
        self, model: str, renewed: Callable[[], object] = lambda: None, lease: str | None = None
    ) -> AbstractContextManager[Lease]:
        """Holds the model's lease (or that of another name) while the block runs; see `store.leases.hold`."""
        busy, name = f"Another run is at work on {model}", lease or f"model:{model}"
        return hold(self._store, name, self._lease, busy=busy, holder=self.holder, renewed=renewed)

    def _traced(self, model: str, scheduled_at: datetime) -> AbstractContextManager[None]:
        if self._trace is None:
            return nullcontext()
        with self._starting:
            tracing = self._tracing = self._tracing or self._trace()
        return tracing.turn(model, format_moment(scheduled_at))

    def _run_one(self, model: str, job: Job, scheduled_at: datetime, lease: Lease, turn: _Turn) -> Outcome:
        run_id = begin_run(self._store, job.name, model, scheduled_at, self.holder, self._clock(), job.asked)
        if run_id is None:
            return Outcome(job.name, "skipped", cause=f"the run of {format_moment(scheduled_at)} was made already")
        self._at_work[run_id] = lease
        turn.begin(run_id)
        try:
            outcome = self._outcome(model, job, turn)
        finally:
            del self._at_work[run_id]
            turn.begin(None)
        state, result, cause = outcome.state, outcome.result, outcome.cause
        end_run(self._store, run_id, state=state, now=self._clock(), result=result, cause=cause)
        return outcome

    def _outcome(self, model: str, job: Job, turn: _Turn) -> Outcome:
        """Runs a job. Whatever it raises is in the outcome, but for LeaseLost."""
        try:
            with step(job.name) as note:
                result = job.run()
                note(result)
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 (whatever a job raises is recorded; the next job runs)
            if turn.stopped is None:
                cause = str(error) if isinstance(error, FeedbackLoopError) else f"{type(error).__name__}: {error}"
                _log.error("job failed", job=job.name, model=model, cause=cause, exception=traceback_of(error))
                return Outcome(job.name, "failed", cause=cause)
        else:
            if turn.stopped is None:
                return Outcome(job.name, "succeeded", result)
        _log.warning("job cancelled", job=job.name, model=model, cause=turn.stopped.cause)
        return Outcome(job.name, "cancelled", cause=str(turn.stopped))
