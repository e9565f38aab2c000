"""Requests that arrive while a batch is on its way wait, and then go together: one model call, one durable commit."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from feedback_loop.capture import Recorder
from feedback_loop.clock import Clock
from feedback_loop.errors import BadInput
from feedback_loop.inference import Scorer
from feedback_loop.schema import PredictionId, Source

MOST_ROWS = 4096
"""A batch takes no further request once it has so many rows."""


@dataclass(frozen=True)
class Answered:
    """What one request gets: its answers and ids, and the version that gave them."""

    answers: list[Any]
    ids: list[PredictionId]
    version: str


@dataclass(frozen=True)
class Request:
    """Rows on their way: decoded for `scorer`, whose answer goes to `answer`."""

    scorer: Scorer
    rows: pa.Table
    request_id: str | None
    received: float = field(default_factory=time.perf_counter)
    answer: Future[Answered] = field(default_factory=Future)


class Batcher:
    """One thread that scores and records. `submit` may be called from any thread.

    `answered` is told, whenever answers have been given out, of how many rows of a model and how many of these no
    sample holds.
    """

    def __init__(
        self, recorder: Recorder, clock: Clock, threads: int = 1, *, answered: Callable[[str, int, int], None]
    ) -> None:
        self._threads = threads
        self._answered = answered
        self._recorder = recorder
        self._clock = clock
        self._waiting: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def stop(self) -> None:
        """Finishes what is waiting, then ends."""
        self._waiting.put(None)
        self._thread.join()

    def submit(self, scorer: Scorer, rows: pa.Table, request_id: str | None) -> Future[Answered]:
        """The answer to come; it is there once the rows are durable, or raises what went wrong."""
        request = Request(scorer, rows, request_id)
        self._waiting.put(request)
        return request.answer

    def _work(self) -> None:
        from threadpoolctl import threadpool_limits

        # Set in this thread: OpenMP's limit is one of the thread that asks. Without, each call wakes all cores.
        with threadpool_limits(self._threads):
            goes_on = True
            while goes_on:
                batch, goes_on = self._gather()
                for same in _by_scorer(batch):
                    self._handle(same)

    def _gather(self) -> tuple[list[Request], bool]:
        """Waits for a request and takes what else is there; False once `stop` was called."""
        batch: list[Request] = []
        rows = 0
        while rows < MOST_ROWS:
            try:
                request = self._waiting.get(block=not batch)
            except queue.Empty:
                break
            if request is None:
                return batch, False
            batch.append(request)
            rows += request.rows.num_rows
        return batch, True

    def _handle(self, batch: Sequence[Request]) -> None:
        try:
            self._answer(batch)
        except BadInput as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for request in batch:  # one bad request does not spoil the others
                self._handle([request])
        except Exception as error:  # noqa: BLE001 (it is raised where the answer is awaited)
            for request in batch:
                request.answer.set_exception(error)

    def _answer(self, batch: Sequence[Request]) -> None:
        scorer, moment = batch[0].scorer, self._clock()
        ids = [self._recorder.identify(request.rows, moment) for request in batch]
        rows = pa.concat_tables([request.rows for request in batch])
        scored = scorer.score(rows)
        now = time.perf_counter()
        counts = [request.rows.num_rows for request in batch]
        recorded = self._recorder.record(
            scorer,
            rows,
            scored,
            [each for some in ids for each in some],
            moment,
            source=Source.ONLINE,
            request_ids=_repeated([request.request_id for request in batch], counts),
            latency_us=_repeated([int((now - request.received) * 1e6) for request in batch], counts),
        )
        start = 0
        for request, own in zip(batch, ids, strict=True):
            end = start + len(own)
            request.answer.set_result(Answered(scored.answers[start:end], own, scorer.version.version))
            start = end
        self._answered(scorer.contract.model, start, recorded.unsampled)


def _by_scorer(batch: Sequence[Request]) -> list[list[Request]]:
    groups: dict[int, list[Request]] = {}
    for request in batch:
        groups.setdefault(id(request.scorer), []).append(request)
    return list(groups.values())


def _repeated(values: Sequence[Any], counts: Sequence[int]) -> list[Any]:
    return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
