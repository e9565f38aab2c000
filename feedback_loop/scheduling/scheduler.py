"""The scheduler: APScheduler says when, the ledger says what was done, so that a missed run is caught up once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from feedback_loop.alerts import keep_delivering
from feedback_loop.clock import Clock, format_moment
from feedback_loop.errors import FeedbackLoopError, LeaseLost, Refused
from feedback_loop.scheduling.runner import Job, Outcome, Runner
from feedback_loop.scheduling.schedules import Trigger, last_due
from feedback_loop.store import Store
from feedback_loop.store.ledger import last_scheduled

AGAIN_SECONDS = 60
"""So often a chain that was due and not made is looked for again."""

GRACE_SECONDS = 20.0
"""So long a job that runs is let finish when the scheduler is stopped; then it is abandoned, and due again.

Kubernetes kills after 30 seconds, systemd after 90.
"""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Chain:
    """Jobs of one model that run one after the other whenever the trigger fires."""

    model: str
    trigger: Trigger
    jobs: tuple[Job, ...]


class Scheduler:
    """Fires chains in this process. Any number of processes may do so on one store: leases keep them apart."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        runner: Runner,
        chains: Sequence[Chain],
        deliver: Callable[[], object],
        ended: Callable[[str, Sequence[Outcome]], object] = lambda *_: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._runner = runner
        self._chains = chains
        self._deliver = deliver
        self._ended = ended  # called after each turn with the model and the outcomes of its jobs
        self._started = clock()
        self._queues = {chain.model: threading.Lock() for chain in chains}

    def fire(self, chain: Chain) -> None:
        """Runs a chain if a run of it is due that nobody has made. Never raises: it is looked at again soon.

        Chains of one model wait for each other here. One that has never run is left to its next time.
        """
        try:
            with self._queues[chain.model]:
                due = self._due(chain)
                if due is None:
                    return
                outcomes = self._runner.run(chain.model, chain.jobs, due)
            self._ended(chain.model, outcomes)
            _log.info(
                "chain",
                model=chain.model,
                due=format_moment(due),
                **{outcome.job: outcome.state for outcome in outcomes},
            )
        except LeaseLost as error:
            _log.error("chain stopped", model=chain.model, cause=error.cause)
        except Refused as error:
            _log.info("chain left to another run", model=chain.model, cause=error.cause)
        except FeedbackLoopError as error:
            _log.error("chain not run", model=chain.model, cause=str(error))

    def _due(self, chain: Chain) -> datetime | None:
        made = [last_scheduled(self._store, job.name, chain.model) for job in chain.jobs]
        if not any(made):
            return last_due(chain.trigger, self._started, self._clock())
        # The oldest counts: a process may have died between two jobs of a chain.
        last = None if None in made else min(moment for moment in made if moment is not None)
        return last_due(chain.trigger, last, self._clock())

    def serve(self, grace_seconds: float = GRACE_SECONDS) -> bool:
        """Runs until SIGTERM or SIGINT; returns whether all that ran then has finished.

        It is let finish for so long; what still runs is abandoned, for the next scheduler to make. Its threads can't
        be ended: where this returns False, the process must be.
        """
        from apscheduler.executors.pool import ThreadPoolExecutor
        from apscheduler.schedulers.background import BackgroundScheduler
        from apscheduler.triggers.interval import IntervalTrigger

        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        # A thread for each chain: a long retraining of one model does not keep the others waiting.
        executor = ThreadPoolExecutor(max(2 * len(self._chains), 1))
        scheduler = BackgroundScheduler(executors={"default": executor})
        options = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        for chain in self._chains:
            scheduler.add_job(self.fire, chain.trigger, args=[chain], **options)
            # What was missed, or left to another that did not make it, is looked for at once and now and then.
            again = IntervalTrigger(seconds=AGAIN_SECONDS)
            scheduler.add_job(self.fire, again, args=[chain], next_run_time=datetime.now(UTC), **options)
        scheduler.start()
        _log.info("scheduler started", chains=len(self._chains), holder=self._runner.holder)
        keep_delivering(self._deliver, stop)
        scheduler.pause()
        ended = threading.Thread(target=scheduler.shutdown, daemon=True)  # it waits for all that runs
        ended.start()
        ended.join(grace_seconds)
        if is_running := ended.is_alive():
            for model in self._runner.abandon("the scheduler was stopped before it ended"):
                _log.warning("job abandoned", model=model, after_seconds=grace_seconds)
        _log.info("scheduler stopped")
        return not is_running
