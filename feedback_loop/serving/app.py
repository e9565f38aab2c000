"""The HTTP application (RSGI): routes, guards, and errors as callers of MLflow know them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.metadata import version as package_version
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec
import structlog

from feedback_loop.capture import Forwarder, read_event
from feedback_loop.errors import BadInput, FeedbackLoopError, ModelRefused, NotFound, Refused, Unavailable
from feedback_loop.inference import Scorer
from feedback_loop.schema.protocol import (
    Decoder,
    WireError,
    encode_answer,
    encode_error,
    make_decoder,
    refused_by_model,
    rows_table,
)
from feedback_loop.serving.batcher import Batcher
from feedback_loop.serving.board import ROUTES, Board
from feedback_loop.serving.endpoints import Endpoints
from feedback_loop.serving.guard import Denied, Guard
from feedback_loop.serving.health import readiness
from feedback_loop.serving.metrics import CONTENT_TYPE, Metrics
from feedback_loop.store.keys import Scope

TakeOutcomes = Callable[[str, bytes, str, str], dict[str, Any]]
"""Takes a body of outcomes of a model in (its format; bad rows: `refuse` or `skip`) and says what became of them."""

TakeHalf = Callable[[str, Any, str | None], str]
"""Takes half of a call in that another server logged (and the version that answered) and says what became of it."""

METRICS = "/metrics"
READY = "/ready"

_JSON = ("content-type", "application/json")
_log = structlog.get_logger(__name__)


class _Problem(Exception):
    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers


class App:
    """Answers requests for the endpoints' models. Granian calls `__rsgi__` and the two around it."""

    def __init__(
        self,
        endpoints: Endpoints,
        batcher: Batcher,
        guard: Guard,
        take_outcomes: TakeOutcomes,
        take_half: TakeHalf,
        *,
        forwarder: Forwarder,
        board: Board,
        metrics: Metrics,
        most_bytes: int,
        spool_trouble: Callable[[], str | None],
    ) -> None:
        self._endpoints = endpoints
        self._batcher = batcher
        self._guard = guard
        self._take_outcomes = take_outcomes
        self._take_half = take_half
        self._forwarder = forwarder
        self._board = board
        self._metrics = metrics
        self._most_bytes = most_bytes
        self._spool_trouble = spool_trouble
        self._decoders: dict[str, tuple[Scorer, Decoder]] = {}

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called once a worker is up."""
        del loop
        self._batcher.start()
        self._forwarder.start()

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called when a worker has answered its last request."""
        del loop
        self._endpoints.stop()
        self._batcher.stop()
        self._forwarder.stop()

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """One request."""
        began = time.perf_counter()
        self._board.request_began()
        try:
            status, body, headers = await self._respond(scope, protocol)
        except _Problem as problem:
            status, body = problem.status, encode_error(problem.code, problem.message)
            headers = [_JSON, *((name.replace("_", "-"), value) for name, value in problem.headers.items())]
        except Denied as denied:
            status, body = denied.status, encode_error(denied.code, denied.message)
            headers = [_JSON, *denied.headers.items()]
        except WireError as error:
            status, body, headers = error.status, error.body(), [("content-type", error.content_type)]
        except ModelRefused as error:
            status, body, headers = 400, refused_by_model(str(error)).body(), [_JSON]
        except BadInput as error:
            problems = [asdict(problem) for problem in error.problems]
            status, body, headers = 400, encode_error("BAD_REQUEST", str(error), problems), [_JSON]
        except NotFound as error:
            status, body, headers = 404, encode_error("RESOURCE_DOES_NOT_EXIST", str(error)), [_JSON]
        except Unavailable as error:
            _log.error("unavailable", path=scope.path, cause=str(error))
            message = f"The {error.service} takes nothing at the moment. Nothing was logged."
            status, headers = 503, [_JSON, ("retry-after", "1")]
            body = encode_error("TEMPORARILY_UNAVAILABLE", message)
        except (Refused, FeedbackLoopError) as error:
            status, body, headers = 409, encode_error("REFUSED", str(error)), [_JSON]
        except Exception:  # noqa: BLE001 (a caller gets a number, the log the rest)
            incident = uuid.uuid4().hex[:8]
            _log.exception("request failed", path=scope.path, incident=incident)
            body = encode_error("INTERNAL_ERROR", f"It is in the server's log under {incident}.")
            status, headers = 500, [_JSON]
        protocol.response_bytes(status, headers, body)
        self._board.request_done(_route_name(scope.path), status, time.perf_counter() - began)

    async def _respond(self, scope: Any, protocol: Any) -> tuple[int, bytes, list[tuple[str, str]]]:
        if scope.path == READY:
            self._expect(scope.method, "GET")
            ready = readiness(self._endpoints.versions(), await asyncio.to_thread(self._spool_trouble))
            return ready.status, ready.body, [_JSON]
        handler, model = self._route(scope.method, scope.path)
        if handler is None:
            plain = package_version("mlflow") if scope.path == "/version" else "\n"
            return 200, plain.encode(), [("content-type", "text/plain")]
        self._guard.admits(scope.headers.get("authorization"), _SCOPES[_route_name(scope.path)])
        body = await self._read(scope, protocol)
        answer = await handler(model, scope, body)
        if scope.path == METRICS:
            return 200, answer, [("content-type", CONTENT_TYPE)]
        return 202 if handler == self._events else 200, answer, [_JSON]

    def _route(self, method: str, path: str) -> tuple[Callable[..., Awaitable[bytes]] | None, str | None]:
        if path in ("/ping", "/health", "/version"):
            self._expect(method, "GET")
            return None, None
        if path == METRICS:
            self._expect(method, "GET")
            return self._tell_metrics, None
        handlers = {"invocations": self._invoke, "outcomes": self._outcomes, "events": self._events}
        parts = path.strip("/").split("/")
        if path in ("/invocations", "/events"):
            self._expect(method, "POST")
            return handlers[parts[0]], None
        if len(parts) == 3 and parts[0] == "models" and parts[2] in handlers:
            self._expect(method, "POST")
            return handlers[parts[2]], unquote(parts[1])
        raise _Problem(404, "ENDPOINT_NOT_FOUND", f"There is no {path} here.")

    @staticmethod
    def _expect(method: str, wanted: str) -> None:
        if method != wanted and not (wanted == "GET" and method == "HEAD"):
            raise _Problem(405, "METHOD_NOT_ALLOWED", f"Use {wanted}.", allow=wanted)

    async def _read(self, scope: Any, protocol: Any) -> bytes:
        """The body, never more of it in memory than is allowed."""
        length = scope.headers.get("content-length") or "0"
        if length.isdigit() and int(length) > self._most_bytes:
            raise self._too_large()
        parts, size = [], 0
        async for part in protocol:
            size += len(part)
            if size > self._most_bytes:
                raise self._too_large()
            parts.append(bytes(part))
        return b"".join(parts)

    def _too_large(self) -> _Problem:
        message = f"The body is over {self._most_bytes:,} bytes. Send fewer rows, or score a file."
        return _Problem(413, "REQUEST_LIMIT_EXCEEDED", message)

    async def _invoke(self, model: str | None, scope: Any, body: bytes) -> bytes:
        scorer = self._endpoints.scorer(model)
        rows = self._decoder(scorer).decode(body, scope.headers.get("content-type") or "", scope.headers.get)
        table = rows_table(scorer.contract, [rows])
        answer = self._batcher.submit(scorer, table, scope.headers.get("x-request-id"))
        answered = await asyncio.wrap_future(answer)
        return encode_answer(answered.answers, answered.ids, answered.version)

    def _decoder(self, scorer: Scorer) -> Decoder:
        """A version's decoder, made when it is first asked for."""
        made = self._decoders.get(scorer.contract.model)
        if made is None or made[0] is not scorer:
            made = scorer, make_decoder(scorer.contract, scorer.loaded.signature)
            self._decoders[scorer.contract.model] = made
        return made[1]

    async def _tell_metrics(self, model: str | None, scope: Any, body: bytes) -> bytes:
        del model, scope, body
        return await asyncio.to_thread(self._metrics.text)  # it may wait for a commit

    async def _outcomes(self, model: str | None, scope: Any, body: bytes) -> bytes:
        name = self._endpoints.scorer(model).contract.model
        content_type = (scope.headers.get("content-type") or "").partition(";")[0].strip().lower()
        if content_type not in _OUTCOME_FORMATS:
            message = f"The content type {content_type!r} is not taken. Send {', '.join(_OUTCOME_FORMATS)}."
            raise _Problem(415, "UNSUPPORTED_MEDIA_TYPE", message)
        on_error = parse_qs(scope.query_string).get("on_error", ["refuse"])[0]
        if on_error not in ("refuse", "skip"):
            raise BadInput.of("on_error", f"is {on_error!r}", cure="Say refuse or skip.")
        kind = _OUTCOME_FORMATS[content_type]
        return msgspec.json.encode(await asyncio.to_thread(self._take_outcomes, name, body, kind, on_error))

    async def _events(self, model: str | None, scope: Any, body: bytes) -> bytes:
        event = read_event(scope.headers.get, body)
        name = self._endpoints.scorer(model or event.service).contract.model
        version = parse_qs(scope.query_string).get("version", [None])[0]
        became = await asyncio.to_thread(self._take_half, name, event.half, version)
        return msgspec.json.encode({"event": became})


_OUTCOME_FORMATS = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "application/vnd.apache.arrow.stream": "arrow",
}


def _route_name(path: str) -> str:
    """What a request is counted under: few names, whatever callers ask for."""
    last = path.rpartition("/")[2]
    return last if last in ROUTES else "other"


_SCOPES = {
    "invocations": Scope.PREDICT,
    "events": Scope.PREDICT,
    "outcomes": Scope.OUTCOMES,
    "metrics": Scope.READ,
}
