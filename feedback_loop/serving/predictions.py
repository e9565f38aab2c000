"""Requests for predictions: decoded, sent to whoever answers them, encoded. The way that must be short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
import pyarrow as pa

from feedback_loop.capture import LONGEST_REQUEST_ID, checked_ids
from feedback_loop.clock import Clock
from feedback_loop.schema import PredictionId
from feedback_loop.schema.protocol import Rows, encode_answer
from feedback_loop.serving.batcher import QUICK_ROWS, Answered, Batcher
from feedback_loop.serving.endpoints import Endpoints
from feedback_loop.serving.http_errors import JSON, Headers
from feedback_loop.serving.request import Request
from feedback_loop.serving.traffic import Traffic
from feedback_loop.tracing import step, trace_id

QUICK_BYTES = 32 * 1024
"""A longer body is read by a thread: the loop goes on reading and telling of its health."""

_Result = TypeVar("_Result")


async def aside(work: Callable[[], _Result], *, is_long: bool) -> _Result:
    """What the work gives; where it takes long a thread does it."""
    return await asyncio.to_thread(work) if is_long else work()


@dataclass(frozen=True, slots=True)
class Mixed:
    """Answers of one request that a champion and a canary gave: `versions` says whose each row's is."""

    answers: list[Any]
    ids: list[PredictionId]
    versions: list[str]
    outputs: pa.Table
    beside: dict[str, list[Any]]


class Predictions:
    """Answers MLflow's scoring protocol. Its methods run on the event loop."""

    def __init__(self, endpoints: Endpoints, batcher: Batcher, clock: Clock) -> None:
        self._endpoints = endpoints
        self._batcher = batcher
        self._clock = clock

    async def invoke(self, request: Request, body: bytes) -> tuple[int, bytes, Headers]:
        """A request of `POST /invocations`."""
        began = time.perf_counter()
        asked, header = request.asked, request.headers.get
        traffic = self._endpoints.loaded(asked) or await self._endpoints.answering(asked)
        with step("decode"):
            decoding = partial(traffic.decoder.decode, body, header("content-type") or "", header)
            rows = await aside(decoding, is_long=len(body) > QUICK_BYTES)
        request.unpacked(len(body), rows.count, rows.width)
        answered = await self.predict(traffic, rows, header("x-request-id") or trace_id(), began)
        name = traffic.contract.model
        if isinstance(answered, Answered):
            request.answered_by(name, answered.version, rows.count)
            encoding = partial(encode_answer, answered.response, answered.ids, answered.version, answered.beside)
        else:
            request.answered_by(name, None, rows.count)
            encoding = partial(_encode_mixed, answered)
        return 200, await aside(encoding, is_long=rows.count > QUICK_ROWS), JSON

    async def predict(self, traffic: Traffic, rows: Rows, request_id: str | None, began: float) -> Answered | Mixed:
        """The answers to decoded rows, once they are durable; raises what went wrong."""
        is_long = rows.count > QUICK_ROWS
        if rows.ids != _NO_ID:
            ids = await aside(partial(checked_ids, rows.ids, self._clock()), is_long=is_long)
            rows = Rows(rows.count, rows.columns, list(ids), rows.params)
        if request_id is not None:
            request_id = request_id[:LONGEST_REQUEST_ID].replace("\0", "")  # no database of ours holds one
        if traffic.canary is None:
            return await self._batcher.submit(traffic.champion, rows, request_id, began)
        parts = await aside(partial(traffic.split, rows, self._clock()), is_long=is_long)
        if len(parts) == 1:
            return await self._batcher.submit(parts[0][0], parts[0][1], request_id, began)
        sent = self._batcher.submit_together([(target, mine) for target, mine, _ in parts], request_id, began)
        answered = await asyncio.gather(*sent)
        return await aside(partial(_merged, answered, [places for _, _, places in parts]), is_long=is_long)


def _merged(answered: Sequence[Answered], places: Sequence[Sequence[int]]) -> Mixed:
    """Each row's answer in its place."""
    rows = [
        (place, answer, identifier, part.version)
        for part, mine in zip(answered, places, strict=True)
        for place, answer, identifier in zip(mine, part.answers, part.ids, strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda row: rows[row][0])
    outputs = pa.concat_tables([part.outputs for part in answered], promote_options="default").take(order)
    parts = [(part.beside, len(part.ids)) for part in answered]
    beside = {
        name: [value for own, count in parts for value in own.get(name, [None] * count)]
        for name in dict.fromkeys(name for own, _ in parts for name in own)
    }
    return Mixed(
        [rows[at][1] for at in order],
        [rows[at][2] for at in order],
        [rows[at][3] for at in order],
        outputs,
        {name: [values[at] for at in order] for name, values in beside.items()},
    )


def _encode_mixed(mixed: Mixed) -> bytes:
    """No single version answered, so none is named but each row's."""
    body = {"predictions": mixed.answers, "prediction_ids": mixed.ids, "model_versions": mixed.versions}
    return msgspec.json.encode({**body, **mixed.beside})


_NO_ID = [None]
