"""The scheduler: triggers say when, the ledger says what was done, so that a missed run is caught up once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime

import structlog

from feedback_loop.alerts import keep_delivering
from feedback_loop.clock import Clock, format_moment
from feedback_loop.errors import LeaseLost, Refused, Unavailable, traceback_of
from feedback_loop.scheduling.runner import Job, Outcome, Runner
from feedback_loop.scheduling.schedules import Trigger, last_due
from feedback_loop.store import Store
from feedback_loop.store.ledger import last_made

LOOK_SECONDS = 2.0
"""So often chains are looked for that are due: by a clock that nobody sets, whatever the time of day does."""

AT_ONCE = 8
"""So many models' chains run at once in one process."""

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


@dataclass(frozen=True)
class Asked:
    """What a person asked for of a model and nobody makes: `make` does, or raises Refused while another run is on."""

    model: str
    make: Callable[[], Sequence[Outcome]]


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
        asked: Callable[[], Sequence[Asked]] = tuple,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._runner = runner
        self._chains: dict[str, list[Chain]] = {}
        for chain in chains:
            self._chains.setdefault(chain.model, []).append(chain)
        self._deliver = deliver
        self._ended = ended  # called after each turn with the model and the outcomes of its jobs
        self._asked = asked  # called with each look
        self._look_seconds = look_seconds
        self._started = clock()
        # By the chain's number:
        self._made: dict[int, datetime] = {}  # what is known to be made, the oldest of its jobs
        self._left: dict[int, datetime] = {}  # the last run that was left to others

    def fire(self, chain: Chain) -> None:
        """Runs a chain if a run of it is due that nobody has made. Never raises: it is looked at again soon.

        One that has never run is left to its next time.
        """
        due = None
        try:
            due = self._due(chain)
            if due is None:
                return
            outcomes = self._runner.run(chain.model, chain.jobs, due)
            self._ended(chain.model, outcomes)
            states = {outcome.job: outcome.state for outcome in outcomes}
            _log.info("chain", model=chain.model, due=format_moment(due), **states)
        except LeaseLost as error:
            _log.error("chain stopped", model=chain.model, cause=error.cause)
        except Refused as error:
            if due is not None and self._left.get(id(chain)) != due:  # once, however long the other takes
                self._left[id(chain)] = due
                _log.info("chain left to another run", model=chain.model, cause=error.cause)
        except Exception as error:  # noqa: BLE001 (the other chains, and later runs of this one, go on)
            _log.error("chain not run", model=chain.model, cause=str(error), exception=traceback_of(error))

    def fire_asked(self, asked: Asked) -> None:
        """Makes what a person asked for. Never raises: while it is left it is found again with the next look."""
        try:
            states = {outcome.job: outcome.state for outcome in asked.make()}
            _log.info("asked for", model=asked.model, **states)
        except LeaseLost as error:
            _log.error("asked for, stopped", model=asked.model, cause=error.cause)
        except Refused as error:  # with each look, however long the other takes
            _log.debug("asked for, left to another run", model=asked.model, cause=error.cause)
        except Exception as error:  # noqa: BLE001 (the chains go on)
            _log.error("asked for, not made", model=asked.model, cause=str(error), exception=traceback_of(error))

    def _look_for_asked(self) -> Sequence[Asked]:
        """What people have asked for; nothing while the store is away, which each chain that is due says, too."""
        try:
            return self._asked()
        except Unavailable as error:
            _log.debug("asked for, not known", cause=error.cause)
            return ()

    def _due(self, chain: Chain) -> datetime | None:
        """The newest run that is due and that nobody has made; None: none is.

        What was made at moments that are still to come does not count: the clock was wrong then.
        """
        now = self._clock()
        made = last_made(self._store, chain.model, [job.name for job in chain.jobs], until=now)
        moments = [moment for moment in made if moment is not None]
        self._started = min(self._started, now)
        # The oldest counts: a process may have died between two jobs of a chain.
        last = min(moments) if len(moments) == len(made) else None if moments else self._started
        due = last_due(chain.trigger, last, now)
        if due is None and last is not None:
            self._made[id(chain)] = last
        return due

    def _may_be_due(self, chain: Chain) -> bool:
        """Whether the store has to be asked, by what is known of it."""
        now, made = self._clock(), self._made.get(id(chain))
        return made is None or made > now or last_due(chain.trigger, made, now) is not None

    def serve(self, grace_seconds: float = GRACE_SECONDS) -> bool:
        """Runs until SIGTERM or SIGINT; returns whether all that ran then has finished.

        It is let finish for so long; what still runs is abandoned, for the next scheduler to make. Its threads can't
        be ended: where this returns False, the process must be.
        """
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        pool, runs = ThreadPoolExecutor(AT_ONCE, "chains"), dict[str, Future[None]]()
        delivering = threading.Thread(target=keep_delivering, args=(self._deliver, stop))
        delivering.start()
        _log.info("scheduler started", chains=sum(map(len, self._chains.values())), holder=self._runner.holder)
        try:
            self._keep_looking(pool, runs, stop)
        finally:
            stop.set()
            delivering.join()
        pool.shutdown(wait=False, cancel_futures=True)
        begun = [run for run in runs.values() if not run.cancelled()]
        if is_running := bool(wait(begun, grace_seconds).not_done):
            for model in self._runner.abandon("the scheduler was stopped before it ended"):
                _log.warning("job abandoned", model=model, after_seconds=grace_seconds)
        _log.info("scheduler stopped")
        return not is_running

    def _keep_looking(self, pool: ThreadPoolExecutor, runs: dict[str, Future[None]], stop: threading.Event) -> None:
        """Starts what is due, in one thread for each model, until it is told to stop.

        So a long retraining of one model keeps only its own chains waiting: they never run at once.
        """

        def is_free(model: str) -> bool:
            return model not in runs or runs[model].done()

        while not stop.is_set():
            for asked in self._look_for_asked():
                if asked.model in self._chains and is_free(asked.model):
                    runs[asked.model] = pool.submit(self.fire_asked, asked)
            for model, chains in self._chains.items():
                if is_free(model) and (due := [chain for chain in chains if self._may_be_due(chain)]):
                    runs[model] = pool.submit(self._fire_all, due, stop)
            stop.wait(self._look_seconds)

    def _fire_all(self, chains: Sequence[Chain], stop: threading.Event) -> None:
        for chain in chains:
            if not stop.is_set():
                self.fire(chain)
