"""The HTTP application (RSGI): routes, guards, and errors as callers of MLflow know them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.metadata import version as package_version
from typing import Any
from urllib.parse import unquote

import msgspec
import structlog

from feedback_loop.errors import BadInput, FeedbackLoopError, NotFound, Refused, Unavailable
from feedback_loop.serving.batcher import Batcher
from feedback_loop.serving.endpoints import Endpoints, Guard
from feedback_loop.serving.protocol import decode_request, encode_answer, encode_error

TakeOutcomes = Callable[[str, Any], dict[str, Any]]
"""Takes rows of outcomes of a model in and says what became of them."""

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
        self, endpoints: Endpoints, batcher: Batcher, guard: Guard, take_outcomes: TakeOutcomes, *, most_bytes: int
    ) -> None:
        self._endpoints = endpoints
        self._batcher = batcher
        self._guard = guard
        self._take_outcomes = take_outcomes
        self._most_bytes = most_bytes

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called once a worker is up."""
        del loop
        self._batcher.start()

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called when a worker has answered its last request."""
        del loop
        self._endpoints.stop()
        self._batcher.stop()

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """One request."""
        try:
            status, body, headers = await self._respond(scope, protocol)
        except _Problem as problem:
            status, body = problem.status, encode_error(problem.code, problem.message)
            headers = [_JSON, *((name.replace("_", "-"), value) for name, value in problem.headers.items())]
        except BadInput as error:
            problems = [asdict(problem) for problem in error.problems]
            status, body, headers = 400, encode_error("BAD_REQUEST", str(error), problems), [_JSON]
        except NotFound as error:
            status, body, headers = 404, encode_error("RESOURCE_DOES_NOT_EXIST", str(error)), [_JSON]
        except Unavailable as error:
            _log.error("unavailable", path=scope.path, cause=str(error))
            body = encode_error("TEMPORARILY_UNAVAILABLE", f"The {error.service} did not answer. Nothing was logged.")
            status, headers = 503, [_JSON, ("retry-after", "1")]
        except (Refused, FeedbackLoopError) as error:
            status, body, headers = 409, encode_error("REFUSED", str(error)), [_JSON]
        except Exception:  # noqa: BLE001 (a caller gets a number, the log the rest)
            incident = uuid.uuid4().hex[:8]
            _log.exception("request failed", path=scope.path, incident=incident)
            body = encode_error("INTERNAL_ERROR", f"It is in the server's log under {incident}.")
            status, headers = 500, [_JSON]
        protocol.response_bytes(status, headers, body)

    async def _respond(self, scope: Any, protocol: Any) -> tuple[int, bytes, list[tuple[str, str]]]:
        handler, model = self._route(scope.method, scope.path)
        if handler is None:
            plain = f"{package_version('mlflow')}\n" if scope.path == "/version" else "\n"
            return 200, plain.encode(), [("content-type", "text/plain")]
        if not self._guard.admits(scope.headers.get("authorization") or ""):
            message = "A valid key is needed: Authorization: Bearer fl_…"
            raise _Problem(401, "UNAUTHENTICATED", message, www_authenticate="Bearer")
        body = await self._read(scope, protocol)
        return 200, await handler(model, scope, body), [_JSON]

    def _route(self, method: str, path: str) -> tuple[Callable[..., Awaitable[bytes]] | None, str | None]:
        if path in ("/ping", "/health", "/version"):
            self._expect(method, "GET")
            return None, None
        if path == "/invocations":
            self._expect(method, "POST")
            return self._invoke, None
        parts = path.strip("/").split("/")
        if len(parts) == 3 and parts[0] == "models" and parts[2] in ("invocations", "outcomes"):
            self._expect(method, "POST")
            return (self._invoke if parts[2] == "invocations" else self._outcomes), unquote(parts[1])
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
        content_type = scope.headers.get("content-type") or ""
        if content_type.partition(";")[0].strip().lower() not in ("application/json", "text/csv"):
            message = f"The content type {content_type!r} is not taken. Send application/json or text/csv."
            raise _Problem(415, "UNSUPPORTED_MEDIA_TYPE", message)
        scorer = self._endpoints.scorer(model)
        decoded = decode_request(body, content_type, scorer.contract)
        rows = scorer.rows_of(decoded.columns, text=decoded.is_text)
        answer = self._batcher.submit(scorer, rows, scope.headers.get("x-request-id"))
        answered = await asyncio.wrap_future(answer)
        return encode_answer(answered.answers, answered.ids, answered.version)

    async def _outcomes(self, model: str | None, scope: Any, body: bytes) -> bytes:
        del scope
        name = self._endpoints.scorer(model).contract.model
        try:
            given = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadInput.of("body", f"is not JSON: {error}", cure=_OUTCOMES) from error
        rows = given.get("outcomes") if isinstance(given, dict) else given
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadInput.of("outcomes", "is not a list of objects", cure=_OUTCOMES)
        result = await asyncio.to_thread(self._take_outcomes, name, rows)
        return msgspec.json.encode(result)


_OUTCOMES = 'Send {"outcomes": [{"prediction_id": "…" or the key\'s columns, "<label>": …, "occurred_at": "…"}]}.'
