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

from feedback_loop.capture import Record, Recorder, Requests
from feedback_loop.clock import Clock
from feedback_loop.errors import BadInput, ModelFault
from feedback_loop.inference import Scored, Scorer
from feedback_loop.schema import PredictionId, Source
from feedback_loop.schema.protocol import Rows, concat_rows
from feedback_loop.serving import tracing
from feedback_loop.serving.shadows import Job, Shadows
from feedback_loop.serving.tracing import current
from feedback_loop.serving.traffic import Target

MOST_ROWS = 4096
"""A batch takes no further request once it has so many rows."""

MOST_TURNS = 4
"""So many turns of the event loop a batch waits at most for requests that come with each of them."""

QUICK_SECONDS = 0.003
"""A batch that takes no longer is answered by the event loop itself: to hand it to a thread may take as long."""

QUICK_ROWS = 512
"""A batch of more rows is never thought to be quick: what is known is of smaller ones."""

REMEMBERED = 64
"""Of so many versions it is kept how long their last batch took."""

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
    batch: Scored
    start: int

    @property
    def told(self) -> Any:
        """The answers as the model gives them: a list of one a row, or an object of lists."""
        return self.batch.form.told(self.answers)

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
        self.parts: Sequence[_Request] = ()  # of a call that several versions answer: all of its requests, in order


_Outcome = tuple[_Request, Answered | Exception]


class Batcher:
    """Scores and records what one event loop submits, a batch at a time; what comes meanwhile is the next batch.

    So there is no delay, and batches are larger the busier it is. The loop computes a batch itself as long as that is
    quick, disk included: threads that take turns cost more. One that takes longer, or would have to wait for whoever
    empties the spool, goes to a thread, and the loop goes on reading and telling of its health. `answered` is told,
    whenever answers are given out, of how many rows of a model and how many of these no sample holds; `faulty` of a
    version whose answers could not be given, and why. Shadows get their rows once the answers are on their way.
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
        self._took: dict[int, float] = {}
        self._shadowed: list[Job] = []
        self._slow: queue.SimpleQueue[list[_Request] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to work for that loop, from whose thread alone this and `submit` may be called."""
        gc.freeze()  # models and modules stay: they are not looked through again and again
        gc.set_threshold(BETWEEN_COLLECTIONS, 20, 100)
        sys.setswitchinterval(SWITCH_SECONDS)
        self._bound_threads()
        self._loop = loop
        self._shadows.start()
        self._thread.start()

    def stop(self) -> None:
        """Ends, once the batch that is on its way is answered; there must be no other."""
        self._slow.put(None)
        self._thread.join()
        self._shadows.stop()

    def submit(self, target: Target, rows: Rows, request_id: str | None, received: float) -> asyncio.Future[Answered]:
        """The answer to come; it is there once the rows are durable, or raises what went wrong."""
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
        made = [_Request(*part, request_id, self._loop.create_future(), received) for part in parts]
        self._waiting += made
        if not self._is_busy:
            self._is_busy = True
            self._loop.call_soon(self._begin)  # after all that the loop has at hand: they go together
        return made

    # On the loop

    def _begin(self, seen: int = 0, turns: int = MOST_TURNS) -> None:
        """Takes what waits, once a turn of the loop has brought nothing more: they are not there all at once."""
        if seen < len(self._waiting) and turns and self._loop is not None:
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
        """Whether all that it asks for was quick the last time; of what was never asked nothing is known."""
        if sum(request.rows.count for request in batch) > QUICK_ROWS:
            return False
        scorers = {id(request.target.scorer) for request in batch}
        return all(self._took.get(each, QUICK_SECONDS) < QUICK_SECONDS for each in scorers)

    # In the thread

    def _work(self) -> None:
        assert self._loop is not None  # it was started
        self._bound_threads()
        while (batch := self._slow.get()) is not None:
            self._loop.call_soon_threadsafe(self._end, self._handle_all(batch))

    def _bound_threads(self) -> None:
        """Set in each thread that scores, as OpenMP wants it. Without, each call wakes all cores."""
        from threadpoolctl import threadpool_limits

        threadpool_limits(self._threads)

    # In either

    def _handle_all(self, batch: list[_Request]) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        split = [request for request in batch if request.parts]
        plain = [request for request in batch if not request.parts] if split else batch
        together = [[same] for same in _alike(plain)] if plain else []
        together += [[[part] for part in request.parts] for request in split if request.parts[0] is request]
        for groups in together:
            began = time.perf_counter()
            self._handle(groups, outcomes)
            seconds = time.perf_counter() - began
            for group in groups:
                self._note(group[0].target.scorer, seconds)
        return outcomes

    def _note(self, scorer: Scorer, seconds: float) -> None:
        if len(self._took) >= REMEMBERED:
            self._took.clear()
        self._took[id(scorer)] = seconds

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
            for request in requests:  # one bad request, or a model that miscounts several, does not spoil the others
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
                self._shadowed.append(Job(shadow, record.rows, record.ids, moment, record.requests))
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
                scored = scorer.score_rows(rows)
        except ModelFault as error:
            if len(group) == 1:  # else each is asked for by itself
                self._faulty(scorer.version.model, scorer.version.version, str(error))
            raise
        requests, latencies = _of_requests(group, time.perf_counter())
        return Record(scorer, rows, scored, ids, target.role, requests, latencies)


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
    """Those that the same version answers with the same params together: one call has one of each.

    Each by itself where a version that is asked with them looks at more than one row of its request.
    """
    first = batch[0].target
    if not first.is_alone and all(request.target is first and not request.rows.params for request in batch):
        return [batch]
    groups: dict[tuple[int, str], list[_Request]] = {}
    for request in batch:
        params, is_alone = request.rows.params, request.target.is_alone
        with_whom = id(request) if is_alone else id(request.target)
        groups.setdefault((with_whom, repr(params) if params else ""), []).append(request)
    return list(groups.values())


def _of_requests(group: Sequence[_Request], now: float) -> tuple[Requests | None, list[int]]:
    """What the log has of requests: their ids (None where none has one), and how long they took, for each row."""
    latencies: list[int] = []
    for request in group:
        latency = int((now - request.received) * 1e6)
        latencies += [latency] * request.rows.count if request.rows.count > 1 else (latency,)
    if all(request.request_id is None for request in group):
        return None, latencies
    return [(request.request_id, request.rows.count) for request in group], latencies
