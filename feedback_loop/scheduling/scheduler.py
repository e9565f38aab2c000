"""The scheduler: APScheduler says when, the ledger says what was done, so that a missed run is caught up once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from feedback_loop.clock import Clock, format_moment
from feedback_loop.errors import FeedbackLoopError, Refused
from feedback_loop.scheduling.runner import Job, Runner
from feedback_loop.scheduling.triggers import Trigger, last_due
from feedback_loop.store import Store
from feedback_loop.store.jobs import last_scheduled

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Chain:
    """Jobs of one model that run one after the other whenever the trigger fires."""

    model: str
    trigger: Trigger
    jobs: tuple[Job, ...]


class Scheduler:
    """Fires chains in this process. Any number of processes may do so on one store: leases keep them apart."""

    def __init__(self, store: Store, clock: Clock, runner: Runner, chains: Sequence[Chain]) -> None:
        self._store = store
        self._clock = clock
        self._runner = runner
        self._chains = chains

    def fire(self, chain: Chain, *, first: bool = False) -> None:
        """Runs a chain if a run of it is due that nobody has made. Never raises: the next time it is tried again.

        With `first` (at the start of the process) a chain that has never run is left to its next time.
        """
        try:
            made = [last_scheduled(self._store, job.name, chain.model) for job in chain.jobs]
            if first and not any(made):
                return
            # The oldest counts: a process may have died between two jobs of a chain.
            last = None if None in made else min(each for each in made if each is not None)
            due = last_due(chain.trigger, last, self._clock())
            if due is None:
                return
            outcomes = self._runner.run(chain.model, chain.jobs, due)
            _log.info(
                "chain", model=chain.model, due=format_moment(due), **{each.job: each.state for each in outcomes}
            )
        except Refused as error:
            _log.info("chain left to another process", model=chain.model, cause=error.cause)
        except FeedbackLoopError as error:
            _log.error("chain not run", model=chain.model, cause=str(error))

    def serve(self) -> None:
        """Runs until SIGTERM or SIGINT; a chain that is running then is let finish."""
        from apscheduler.executors.pool import ThreadPoolExecutor
        from apscheduler.schedulers.background import BackgroundScheduler

        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        # One thread per model: a long retraining of one does not keep the others waiting.
        threads = max(len({chain.model for chain in self._chains}), 1)
        scheduler = BackgroundScheduler(executors={"default": ThreadPoolExecutor(threads)})
        for chain in self._chains:
            options = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
            scheduler.add_job(self.fire, chain.trigger, args=[chain], **options)
            scheduler.add_job(self.fire, args=[chain], kwargs={"first": True}, misfire_grace_time=None)
        scheduler.start()
        _log.info("scheduler started", chains=len(self._chains), holder=self._runner.holder)
        stop.wait()
        scheduler.shutdown(wait=True)
        _log.info("scheduler stopped")
