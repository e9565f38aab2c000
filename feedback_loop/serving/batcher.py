"""Requests that arrive while a batch is on its way wait, and then go together: one model call, one durable commit."""

from __future__ import annotations

import asyncio
import gc
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from feedback_loop import tracing
from feedback_loop.capture import Record, Recorder, Requests
from feedback_loop.clock import Clock
from feedback_loop.errors import BadInput, ModelFault
from feedback_loop.inference import Scored, Scorer
from feedback_loop.schema import PredictionId, Source
from feedback_loop.schema.protocol import Rows, concat_rows
from feedback_loop.serving.shadows import Job, Shadows
from feedback_loop.serving.traffic import Target
from feedback_loop.tracing import current

MOST_ROWS = 4096
"""A batch with so many rows takes no further request."""

MOST_TURNS = 4
"""The most turns of the event loop that a batch waits for further requests."""

QUICK_SECONDS = 0.003
"""A batch that takes no longer is answered by the event loop itself: handing it to a thread may take as long."""

QUICK_ROWS = 512
"""A batch of more rows always goes to the thread: the measured times are of smaller ones."""

REMEMBERED = 1024
"""The most versions whose last batch's time is remembered."""

BETWEEN_COLLECTIONS = 50_000
"""Allocations between garbage collections: requests leave no cycles, and a collection stops all threads."""

SWITCH_SECONDS = 0.0005
"""How long a computing thread may keep the others waiting: Python's default of 5 ms delays answers too much."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers to one request, their ids, and the version that gave them.

    Its outputs are those of its batch from row `start` on.
    """

    answers: list[Any]
    ids: list[PredictionId]
    version: str
    batch: Scored
    start: int

    @property
    def response(self) -> Any:
        """The answers in the model's form: a list of one a row, or an object of lists."""
        return self.batch.form.shaped(self.answers)

    @property
    def beside(self) -> dict[str, list[Any]]:
        """What callers get beside the answers: see `Scored.beside`."""
        rows = slice(self.start, self.start + len(self.ids))
        return {name: values[rows] for name, values in self.batch.beside.items()}

    @property
    def outputs(self) -> pa.Table:
        """The outputs for the log, by their stored names: a row for each answer."""
        return self.batch.outputs.slice(self.start, len(self.ids))


class _Request:
    __slots__ = ("answer", "parts", "received", "request_id", "rows", "target", "traced")

    def __init__(
        self, target: Target, rows: Rows, request_id: str | None, answer: asyncio.Future[Answered], received: float
    ) -> None:
        self.target = target
        self.rows = rows
        self.request_id = request_id
        self.answer = answer
        self.received = received
        self.traced = current()
        self.parts: Sequence[_Request] = ()  # of a call that several versions answer: all its requests, in order


_Outcome = tuple[_Request, Answered | Exception]


class Batcher:
    """Scores and records the requests of one event loop in batches; requests that come meanwhile are the next one.

    So no request waits for a timer, and batches grow with the load. The loop computes a batch itself as long as
    that is quick, disk included: switching threads costs more. A slower batch, or one that would wait for a
    forwarder, goes to a thread, and the loop goes on reading requests and answering health checks. `answered(model,
    rows, unsampled)` is called for each answered batch, `faulty(model, version, cause)` for a version whose answers
    could not be given. Shadows get their rows once the answers are on their way.
    """

    def __init__(
        self,
        recorder: Recorder,
        clock: Clock,
        threads: int = 1,
        *,
        answered: Callable[[str, int, int], None],
        faulty: Callable[[str, str, str], None],
        shadows: Shadows,
    ) -> None:
        self._threads = threads
        self._faulty = faulty
        self._answered = answered
        self._recorder = recorder
        self._clock = clock
        self._shadows = shadows
        self._waiting: list[_Request] = []
        self._is_busy = False  # a batch is on its way, or will be as soon as the loop comes to it
        self._took: dict[tuple[str, str], float] = {}
        self._shadowed: list[Job] = []
        self._slow: queue.SimpleQueue[list[_Request] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to work for that loop, from whose thread alone this and `submit` may be called."""
        gc.freeze()  # models and modules stay: collections need not look through them
        gc.set_threshold(BETWEEN_COLLECTIONS, 20, 100)
        sys.setswitchinterval(SWITCH_SECONDS)
        self._bound_threads()
        self._loop = loop
        self._shadows.start()
        self._thread.start()

    def stop(self) -> None:
        """Stops after the batch that is under way, which must be the last one."""
        self._slow.put(None)
        self._thread.join()
        self._shadows.stop()

    def submit(self, target: Target, rows: Rows, request_id: str | None, received: float) -> asyncio.Future[Answered]:
        """The future answer: set once the rows are durable, or to the error."""
        return self._submit([(target, rows)], request_id, received)[0].answer

    def submit_together(
        self, parts: Sequence[tuple[Target, Rows]], request_id: str | None, received: float
    ) -> list[asyncio.Future[Answered]]:
        """The answers to a call that several versions share: all of its rows are answered and logged, or none."""
        requests = self._submit(parts, request_id, received)
        for request in requests:
            request.parts = requests
        return [request.answer for request in requests]

    def _submit(
        self, parts: Sequence[tuple[Target, Rows]], request_id: str | None, received: float
    ) -> list[_Request]:
        assert self._loop is not None  # it was started
        requests = [_Request(*part, request_id, self._loop.create_future(), received) for part in parts]
        self._waiting += requests
        if not self._is_busy:
            self._is_busy = True
            self._loop.call_soon(self._begin)  # after what the loop has ready now, so that it goes together
        return requests

    # On the loop

    def _begin(self, waited: int = 0, turns: int = MOST_TURNS) -> None:
        """Takes the waiting requests, once a turn of the loop has brought no further ones."""
        if waited < len(self._waiting) and turns and self._loop is not None:
            self._loop.call_soon(self._begin, len(self._waiting), turns - 1)
            return
        batch = self._gather()
        if self._is_quick(batch) and self._recorder.is_free():
            self._end(self._handle_all(batch))
        else:
            self._slow.put(batch)

    def _end(self, outcomes: list[_Outcome]) -> None:
        _settle(outcomes)
        for job in self._shadowed:
            self._shadows.offer(job)
        self._shadowed.clear()
        if self._waiting and self._loop is not None:
            self._loop.call_soon(self._begin)
        else:
            self._is_busy = False

    def _gather(self) -> list[_Request]:
        rows = 0
        for place, request in enumerate(self._waiting):
            rows += request.rows.count
            if rows >= MOST_ROWS and (not request.parts or request.parts[-1] is request):
                batch, self._waiting = self._waiting[: place + 1], self._waiting[place + 1 :]
                return batch
        batch, self._waiting = self._waiting, []
        return batch

    def _is_quick(self, batch: Sequence[_Request]) -> bool:
        """Whether the last batch of each of its versions was quick; one without a batch yet counts as slow."""
        if sum(request.rows.count for request in batch) > QUICK_ROWS:
            return False
        scorers = {id(request.target.scorer): request.target.scorer for request in batch}
        took = (self._took.get(_version(scorer), QUICK_SECONDS) for scorer in scorers.values())
        return all(seconds < QUICK_SECONDS for seconds in took)

    # In the thread

    def _work(self) -> None:
        assert self._loop is not None  # it was started
        self._bound_threads()
        while (batch := self._slow.get()) is not None:
            self._loop.call_soon_threadsafe(self._end, self._handle_all(batch))

    def _bound_threads(self) -> None:
        """Limits the calling thread's OpenMP threads; without a limit each model call wakes all cores."""
        from threadpoolctl import threadpool_limits

        threadpool_limits(self._threads)

    # In either

    def _handle_all(self, batch: list[_Request]) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        split = [request for request in batch if request.parts]
        plain = [request for request in batch if not request.parts] if split else batch
        groupings = [[group] for group in _by_target(plain)] if plain else []
        groupings += [[[part] for part in request.parts] for request in split if request.parts[0] is request]
        for groups in groupings:
            began = time.perf_counter()
            self._handle(groups, outcomes)
            seconds = time.perf_counter() - began
            for group in groups:
                self._note(group[0].target.scorer, seconds)
        return outcomes

    def _note(self, scorer: Scorer, seconds: float) -> None:
        if len(self._took) >= REMEMBERED:
            self._took.clear()
        self._took[_version(scorer)] = seconds

    def _handle(self, groups: Sequence[Sequence[_Request]], outcomes: list[_Outcome]) -> None:
        """Answers groups of requests, each with one call of its model; all of them are logged, or none."""
        requests = [request for group in groups for request in group]
        scorer = requests[0].target.scorer
        traced = [request.traced for request in requests if request.traced is not None]
        rows = sum(request.rows.count for request in requests) if traced else 0
        try:
            with tracing.batch(traced, rows, scorer.contract.model, scorer.version.version):
                outcomes.extend(self._answer(groups))
        except (BadInput, ModelFault) as error:
            if len(groups) > 1 or len(requests) == 1:
                outcomes.extend((request, error) for request in requests)
                return
            for request in requests:  # a bad request, or a model that miscounts several, fails by itself
                self._handle([[request]], outcomes)
        except Exception as error:  # noqa: BLE001 (it is raised where the answer is awaited)
            outcomes.extend((request, error) for request in requests)

    def _answer(self, groups: Sequence[Sequence[_Request]]) -> list[_Outcome]:
        moment = self._clock()
        records = [self._scored(group, moment) for group in groups]
        with tracing.step("commit"):
            recorded = self._recorder.record_all(records, moment, Source.ONLINE)
        outcomes: list[_Outcome] = []
        for group, record in zip(groups, records, strict=True):
            start, answers, version = 0, record.scored.answers, record.scorer.version.version
            for request in group:
                end = start + request.rows.count
                answered = Answered(answers[start:end], record.ids[start:end], version, record.scored, start)
                outcomes.append((request, answered))
                start = end
            for shadow in group[0].target.shadows:
                self._shadowed.append(
                    Job(shadow, record.rows, record.ids, moment, record.requests, record.scored.marks)
                )
        count = sum(request.rows.count for request, _ in outcomes)
        self._answered(records[0].scorer.contract.model, count, recorded.unsampled)
        return outcomes

    def _scored(self, group: Sequence[_Request], moment: datetime) -> Record:
        target = group[0].target
        scorer = target.scorer
        rows = concat_rows(scorer.contract, [request.rows for request in group])
        ids = self._recorder.fill(rows.ids, moment)
        try:
            with tracing.step("model"):
                scored = scorer.marked(scorer.score_rows(rows), rows, ids)
        except ModelFault as error:
            if len(group) == 1:  # else each request is tried by itself
                self._faulty(scorer.version.model, scorer.version.version, str(error))
            raise
        requests, latencies = _of_requests(group, time.perf_counter())
        return Record(scorer, rows, scored, ids, target.role, requests, latencies)


def _version(scorer: Scorer) -> tuple[str, str]:
    """Not the scorer's `id`: once a model is put away, that is soon another's."""
    return scorer.version.model, scorer.version.version


def _settle(outcomes: list[_Outcome]) -> None:
    for request, outcome in outcomes:
        answer = request.answer
        if answer.done():  # its caller has gone
            continue
        if isinstance(outcome, Answered):
            answer.set_result(outcome)
        else:
            answer.set_exception(outcome)


def _by_target(batch: list[_Request]) -> list[list[_Request]]:
    """Requests grouped by version and params: a model call takes one of each.

    A request is a group of its own where its version looks at more than one row of a request.
    """
    first = batch[0].target
    if not first.is_alone and all(request.target is first and not request.rows.params for request in batch):
        return [batch]
    groups: dict[tuple[int, str], list[_Request]] = {}
    for request in batch:
        params, is_alone = request.rows.params, request.target.is_alone
        group_key = id(request) if is_alone else id(request.target)
        groups.setdefault((group_key, repr(params) if params else ""), []).append(request)
    return list(groups.values())


def _of_requests(group: Sequence[_Request], now: float) -> tuple[Requests | None, list[int]]:
    """The ids of requests for the log (None where none has one), and the latency of each row in µs."""
    latencies: list[int] = []
    for request in group:
        latency = int((now - request.received) * 1e6)
        latencies += [latency] * request.rows.count if request.rows.count > 1 else (latency,)
    if all(request.request_id is None for request in group):
        return None, latencies
    return [(request.request_id, request.rows.count) for request in group], latencies
