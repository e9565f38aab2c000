"""Shadows: what the champion answered is scored by a challenger too, after the answer has left, and only logged."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from feedback_loop.capture import Recorder, Requests
from feedback_loop.inference import Marks, Scorer
from feedback_loop.schema import PredictionId, Role, Source, derived_bits, moment_of, prediction_id
from feedback_loop.schema.protocol import Rows
from feedback_loop.serving.traffic import fitted

MOST_WAITING = 64
"""Batches that wait for a shadow; what comes then is not shadowed, and counted."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A batch that was answered: its rows, and the ids under which they are in the log."""

    scorer: Scorer
    rows: Rows
    ids: Sequence[PredictionId]
    moment: datetime
    requests: Requests | None
    marks: Marks | None = None  # of what was served: it alone leads to action


class Shadows:
    """One thread that scores for every shadow of a server. What it does wrong is told in the log and nowhere else.

    The recorder's sink should not make it wait for the disk: nobody is answered by it. `dropped` is told of rows of a
    model that no shadow has scored, since it was too slow or failed, by the thread that offers.
    """

    def __init__(self, recorder: Recorder, dropped: Callable[[str, int], None]) -> None:
        self._recorder = recorder
        self._dropped = dropped
        self._waiting: queue.Queue[Job | None] = queue.Queue(MOST_WAITING)
        self._failed: deque[Job] = deque()
        self._thread = threading.Thread(target=self._work, name="shadows", daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Ends after what is waiting, but for at most so long: answers have left long ago."""
        try:
            self._waiting.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def offer(self, job: Job) -> None:
        """Takes a batch if there is room; never waits."""
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            self._failed.append(job)
        while self._failed:
            lost = self._failed.popleft()
            self._dropped(lost.scorer.contract.model, lost.rows.count)

    def _work(self) -> None:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            while (job := self._waiting.get()) is not None:
                try:
                    self._score(job)
                except Exception as error:  # noqa: BLE001 (a challenger may do what it wants, the next batch comes)
                    self._failed.append(job)
                    version = job.scorer.version
                    _log.warning("shadow failed", model=version.model, version=version.version, cause=str(error))

    def _score(self, job: Job) -> None:
        scorer = job.scorer
        rows = fitted(job.rows, scorer.contract)
        scored = replace(scorer.score_rows(rows), marks=job.marks)
        ids = [shadow_id(identifier, scorer.version.version) for identifier in job.ids]
        self._recorder.record(
            scorer,
            rows,
            scored,
            ids,
            job.moment,
            role=Role.SHADOW,
            source=Source.ONLINE,
            requests=job.requests,
        )


def shadow_id(answered: PredictionId, version: str) -> PredictionId:
    """The id of a shadow's row: of the same moment as the one that was answered, and always the same."""
    return prediction_id(moment_of(answered), derived_bits(f"{answered}:{version}"))
