"""ASGI middleware for servers of MLflow's protocol: what they answer is logged before the answer leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog

from feedback_loop.capture.client import Client
from feedback_loop.capture.payloads import read_answer, read_request
from feedback_loop.errors import BadInput, FeedbackLoopError, traceback_of
from feedback_loop.schema import PredictionId
from feedback_loop.schema.budget import UNPACKED, Budget
from feedback_loop.schema.protocol import encode_error

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

IDS_HEADER = b"x-prediction-ids"
MOST_IDS = 100
"""More ids are no header that every proxy lets through: outcomes of such requests name the key."""

_log = structlog.get_logger(__name__)


@dataclass
class AnswerCounts:
    """Answers that were logged, that left without, and that were held back because they could not be."""

    logged: int = 0
    missed: int = 0
    refused: int = 0


@dataclass
class _Exchange:
    """One request and its answer, as far as they were seen and are no larger than allowed."""

    content_type: str
    request_id: str | None
    most_bytes: int
    began: float = field(default_factory=time.perf_counter)
    request: list[bytes] = field(default_factory=list)
    answer: list[bytes] = field(default_factory=list)
    rows: int = 1  # until they are read, one is what it has at least
    sizes: dict[str, int] = field(default_factory=dict)

    def keep(self, side: Literal["request", "answer"], part: bytes) -> None:
        """Keeps a part of a body, or (beyond the limit) only its size."""
        self.sizes[side] = self.sizes.get(side, 0) + len(part)
        parts: list[bytes] = getattr(self, side)
        parts.append(part)
        if self.sizes[side] > self.most_bytes and side == "request":
            parts.clear()

    @property
    def is_too_large(self) -> bool:
        """Whether one of the bodies is over the limit."""
        return any(size > self.most_bytes for size in self.sizes.values())


class CaptureMiddleware:
    """Logs each successful answer to `POST path` and adds its ids as the header `x-prediction-ids`.

    Bodies stay as they are. An answer that can't be logged is held back and 503 sent instead (`on_error="refuse"`:
    nothing acknowledged is lost), or it leaves all the same and is counted (`"pass"`). `version` is the one that the
    application has loaded (default: the one that the model's alias means). Compression belongs outside of this.
    """

    def __init__(
        self,
        app: ASGIApp,
        client: Client,
        *,
        model: str,
        version: str | None = None,
        path: str = "/invocations",
        on_error: Literal["refuse", "pass"] = "refuse",
        most_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._app = app
        self._client = client
        self._model = model
        self._version = version
        self._path = path
        self._on_error = on_error
        self._most_bytes = most_bytes
        self._budget = Budget(unpacked_bytes=UNPACKED * most_bytes)
        self.counts = AnswerCounts()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One connection, as ASGI 3 wants it."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        exchange = _Exchange(headers.get(b"content-type", ""), headers.get(b"x-request-id"), self._most_bytes)
        await self._app(scope, _kept(receive, exchange), _Answer(self, exchange, send).send)

    async def log(self, exchange: _Exchange) -> list[PredictionId] | None:
        """Makes the exchange durable; None where it could not be, which is said in the log."""
        try:
            ids = await asyncio.to_thread(self._logged, exchange)
        except FeedbackLoopError as error:
            _log.warning("answer not logged", model=self._model, cause=str(error))
        except Exception as error:  # noqa: BLE001 (whatever it is, the application that is served here has answered)
            _log.error("answer not logged", model=self._model, exception=traceback_of(error))
        else:
            self.counts.logged += 1
            return ids
        return None

    def lets_pass(self, exchange: _Exchange) -> bool:
        """Whether an answer that is not logged may leave; counts it, also in the client's accounts."""
        count, rows = self._client.accounts.count, exchange.rows
        if self._on_error == "refuse":
            self.counts.refused += 1
            count(self._model, refused=rows)
            return False
        self.counts.missed += 1
        count(self._model, answered=rows, dropped=rows)
        return True

    def _logged(self, exchange: _Exchange) -> list[PredictionId]:
        if exchange.is_too_large:
            raise BadInput.of("body", f"is over {self._most_bytes:,} bytes", cure="Send fewer rows, or score a file.")
        deployed = self._client.deployed(self._model, self._version)
        inputs = read_request(b"".join(exchange.request), deployed.contract, exchange.content_type, self._budget)
        exchange.rows = inputs.num_rows
        outputs = read_answer(b"".join(exchange.answer), deployed.contract, self._budget)
        latency_us = int((time.perf_counter() - exchange.began) * 1e6)
        return self._client.log_rows(deployed, inputs, outputs, request_id=exchange.request_id, latency_us=latency_us)


class _Answer:
    """Holds an answer back until it is logged; anything but a success goes on as it comes."""

    def __init__(self, middleware: CaptureMiddleware, exchange: _Exchange, send: Send) -> None:
        self._middleware = middleware
        self._exchange = exchange
        self._send = send
        self._start: Message | None = None
        self._is_through = False

    async def send(self, message: Message) -> None:
        """Takes a message of the application."""
        if message["type"] == "http.response.start" and 200 <= message["status"] < 300:
            self._start = message
        elif message["type"] != "http.response.body" or self._start is None or self._is_through:
            await self._send(message)
        else:
            await self._hold(message)

    async def _hold(self, message: Message) -> None:
        self._exchange.keep("answer", message.get("body", b""))
        is_whole = not message.get("more_body", False)
        if not is_whole and not self._exchange.is_too_large:
            return
        self._is_through = True
        assert self._start is not None
        ids = await self._middleware.log(self._exchange)
        if ids is None and not self._middleware.lets_pass(self._exchange):
            await _refuse(self._send)
            self._send = _nowhere  # whatever of the answer is still to come
            return
        headers = list(self._start.get("headers", []))
        if ids is not None and len(ids) <= MOST_IDS:
            headers.append((IDS_HEADER, ",".join(ids).encode()))
        await self._send({**self._start, "headers": headers})
        body = b"".join(self._exchange.answer)
        await self._send({"type": "http.response.body", "body": body, "more_body": not is_whole})


def _kept(receive: Receive, exchange: _Exchange) -> Receive:
    async def receive_and_keep() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            exchange.keep("request", message.get("body", b""))
        return message

    return receive_and_keep


async def _refuse(send: Send) -> None:
    body = encode_error("TEMPORARILY_UNAVAILABLE", "The answer could not be logged, so it is not given.")
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _nowhere(message: Message) -> None:
    del message
