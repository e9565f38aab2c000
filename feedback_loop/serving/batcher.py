"""Requests that arrive while a batch is on its way wait, and then go together: one model call, one durable commit."""

from __future__ import annotations

import asyncio
import gc
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from feedback_loop.capture import Recorder
from feedback_loop.clock import Clock
from feedback_loop.errors import BadInput
from feedback_loop.schema import PredictionId, Source
from feedback_loop.schema.protocol import Rows, rows_table
from feedback_loop.serving import tracing
from feedback_loop.serving.shadows import Job, Shadows
from feedback_loop.serving.tracing import current
from feedback_loop.serving.traffic import Target

MOST_ROWS = 4096
"""A batch takes no further request once it has so many rows."""

BETWEEN_COLLECTIONS = 50_000
"""Objects that are made before Python looks for cycles among them: requests leave none, and looking stops all."""


SWITCH_SECONDS = 0.0005
"""How long a thread that computes may keep the others waiting. Python's 5 ms are most of what a slow answer takes."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What one request gets: its answers and ids, and the version that gave them.

    Its outputs are rows of its batch's, from `start` on.
    """

    answers: list[Any]
    ids: list[PredictionId]
    version: str
    batch: pa.Table
    start: int

    @property
    def outputs(self) -> pa.Table:
        """The outputs for the log, by their stored names: a row for each answer."""
        return self.batch.slice(self.start, len(self.ids))


class _Request:
    __slots__ = ("answer", "received", "request_id", "rows", "target", "traced")

    def __init__(
        self, target: Target, rows: Rows, request_id: str | None, answer: asyncio.Future[Answered], received: float
    ) -> None:
        self.target = target
        self.rows = rows
        self.request_id = request_id
        self.answer = answer
        self.received = received
        self.traced = current()


_Outcome = tuple[_Request, Answered | Exception]


class Batcher:
    """One thread that scores and records what an event loop submits.

    It takes whatever waits as soon as the batch before is durable: without delay, and more the busier it is.
    `answered` is told, whenever answers are given out, of how many rows of a model and how many of these no sample
    holds. Shadows get their rows once the answers are on their way.
    """

    def __init__(
        self,
        recorder: Recorder,
        clock: Clock,
        threads: int = 1,
        *,
        answered: Callable[[str, int, int], None],
        shadows: Shadows,
    ) -> None:
        self._threads = threads
        self._answered = answered
        self._recorder = recorder
        self._clock = clock
        self._shadows = shadows
        self._waiting: deque[_Request] = deque()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_idle = False
        self._is_stopping = False
        self._shadowed: list[Job] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to work for that loop, from whose thread alone `submit` may be called."""
        self._loop = loop
        self._shadows.start()
        self._thread.start()

    def stop(self) -> None:
        """Finishes what is waiting, then ends."""
        self._is_stopping = True
        self._wake.put(None)
        self._thread.join()
        self._shadows.stop()

    def submit(self, target: Target, rows: Rows, request_id: str | None, received: float) -> asyncio.Future[Answered]:
        """The answer to come; it is there once the rows are durable, or raises what went wrong."""
        assert self._loop is not None  # it was started
        answer: asyncio.Future[Answered] = self._loop.create_future()
        self._waiting.append(_Request(target, rows, request_id, answer, received))
        if self._is_idle:
            self._is_idle = False
            self._wake.put(None)
        return answer

    def _work(self) -> None:
        from threadpoolctl import threadpool_limits

        gc.freeze()  # models and modules stay: they are not looked through again and again
        gc.set_threshold(BETWEEN_COLLECTIONS, 20, 100)
        sys.setswitchinterval(SWITCH_SECONDS)
        # Set in this thread: OpenMP's limit is one of the thread that asks. Without, each call wakes all cores.
        with threadpool_limits(self._threads):
            while batch := self._gather():
                outcomes: list[_Outcome] = []
                for same in _alike(batch):
                    self._handle(same, outcomes)
                self._give_out(outcomes)
                self._shadow()

    def _gather(self) -> list[_Request]:
        """Waits for a request and takes what else is there; nothing once `stop` was called and all is done."""
        waiting = self._waiting
        while not waiting:
            # In this order: who submits after the second look sees that nobody is looking any more.
            self._is_idle = True
            if waiting:
                break
            if self._is_stopping:
                return []
            self._wake.get()
        self._is_idle = False
        batch: list[_Request] = []
        rows = 0
        while waiting and rows < MOST_ROWS:
            request = waiting.popleft()
            batch.append(request)
            rows += request.rows.count
        return batch

    def _handle(self, batch: Sequence[_Request], outcomes: list[_Outcome]) -> None:
        scorer = batch[0].target.scorer
        traced = [request.traced for request in batch if request.traced is not None]
        rows = sum(request.rows.count for request in batch) if traced else 0
        try:
            with tracing.batch(traced, rows, scorer.contract.model, scorer.version.version):
                outcomes.extend(self._answer(batch))
        except BadInput as error:
            if len(batch) == 1:
                outcomes.append((batch[0], error))
                return
            for request in batch:  # one bad request does not spoil the others
                self._handle([request], outcomes)
        except Exception as error:  # noqa: BLE001 (it is raised where the answer is awaited)
            outcomes.extend((request, error) for request in batch)

    def _answer(self, batch: Sequence[_Request]) -> list[_Outcome]:
        target, moment = batch[0].target, self._clock()
        scorer = target.scorer
        rows = rows_table(scorer.contract, [request.rows for request in batch])
        ids = self._recorder.fill([each for request in batch for each in request.rows.ids], moment)
        with tracing.step("model"):
            scored = scorer.score(rows, batch[0].rows.params or None)
        now = time.perf_counter()
        request_ids, latencies = _of_requests(batch, now)
        with tracing.step("commit"):
            recorded = self._recorder.record(
                scorer,
                rows,
                scored,
                ids,
                moment,
                role=target.role,
                source=Source.ONLINE,
                request_ids=request_ids,
                latency_us=latencies,
            )
        outcomes: list[_Outcome] = []
        start, answers, version = 0, scored.answers, scorer.version.version
        for request in batch:
            end = start + request.rows.count
            outcomes.append((request, Answered(answers[start:end], ids[start:end], version, scored.outputs, start)))
            start = end
        self._answered(scorer.contract.model, start, recorded.unsampled)
        for shadow in target.shadows:
            self._shadowed.append(Job(shadow, rows, ids, moment, request_ids, batch[0].rows.params))
        return outcomes

    def _give_out(self, outcomes: list[_Outcome]) -> None:
        assert self._loop is not None  # it was started
        self._loop.call_soon_threadsafe(_settle, outcomes)

    def _shadow(self) -> None:
        for job in self._shadowed:
            self._shadows.offer(job)
        self._shadowed.clear()


def _settle(outcomes: list[_Outcome]) -> None:
    for request, outcome in outcomes:
        answer = request.answer
        if answer.done():  # its caller has gone
            continue
        if isinstance(outcome, Answered):
            answer.set_result(outcome)
        else:
            answer.set_exception(outcome)


def _alike(batch: list[_Request]) -> list[list[_Request]]:
    """Those that the same version answers with the same params together: one call has one of each."""
    first = batch[0].target
    if all(request.target is first and not request.rows.params for request in batch):
        return [batch]
    groups: dict[tuple[int, str], list[_Request]] = {}
    for request in batch:
        params = request.rows.params
        groups.setdefault((id(request.target), repr(params) if params else ""), []).append(request)
    return list(groups.values())


def _of_requests(batch: Sequence[_Request], now: float) -> tuple[list[str | None] | None, list[int]]:
    """What the log has of requests, one value a row: their ids (None where none has one) and how long they took."""
    latencies: list[int] = []
    for request in batch:
        latency = int((now - request.received) * 1e6)
        latencies += [latency] * request.rows.count if request.rows.count > 1 else (latency,)
    if all(request.request_id is None for request in batch):
        return None, latencies
    return [request.request_id for request in batch for _ in range(request.rows.count)], latencies
