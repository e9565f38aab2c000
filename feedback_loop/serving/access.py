"""What is recorded of every request: its figures, its trace, and its line in the access log.

The access log has one structured line a request where that is wanted, and some of the failed ones always.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog

from feedback_loop.serving.board import Board
from feedback_loop.serving.request import Request
from feedback_loop.tracing import Tracing

ERRORS_PER_SECOND = 10
"""So many failed requests are logged where not all requests are; of the others it is said how many there were."""

GONE_SECONDS = 60.0
"""How often it is told how many callers went away in the middle of a body."""

MOST_LETTERS = 200
"""What a caller may put into a line with its path or its request id."""

_log = structlog.get_logger("feedback_loop.access")


class Observer:
    """Sees requests come and go, on the event loop."""

    def __init__(self, board: Board, access: AccessLog, tracing: Tracing | None = None) -> None:
        self._board = board
        self._access = access
        self._tracing = tracing

    def began(self, request: Request, route: str) -> None:
        """A request has come."""
        self._board.request_began()
        if self._tracing is not None:
            request.traced = self._tracing.begin(request.scope.method, route, request.header)

    def done(self, request: Request, route: str, status: int) -> None:
        """Its answer has left."""
        seconds = time.perf_counter() - request.began
        self._board.request_done(route, status, seconds)
        if status >= 400 or self._access.has_every_request:
            self._access.done(request, status, seconds)
        if self._tracing is not None and request.traced is not None:
            self._tracing.end(request.traced, status, model=request.model, version=request.version, rows=request.rows)

    def stop(self) -> None:
        """Sends what is left of the traces."""
        if self._tracing is not None:
            self._tracing.stop()


class AccessLog:
    """Writes lines from the event loop's thread. `clock` gives seconds that only grow."""

    def __init__(self, *, every_request: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.has_every_request = every_request
        self._clock = clock
        self._second = 0
        self._written = 0
        self._left_out = 0
        self._gone = 0
        self._gone_written_at: float | None = None

    def done(self, request: Request, status: int, seconds: float) -> None:
        """A request whose answer has left, a failed one unless all are wanted."""
        if self.has_every_request:
            write = _log.info if status < 400 else _log.warning
            write("request", **_line(request, status, seconds))
        elif request.has_gone:
            self._write_gone()
        elif self._has_room():
            left_out, self._left_out = self._left_out, 0
            more = {"left_out": left_out} if left_out else {}
            _log.warning("request", **_line(request, status, seconds), **more)

    def _write_gone(self) -> None:
        """It is their own doing: how many there were is said now and then."""
        self._gone += 1
        now = self._clock()
        if self._gone_written_at is None or now - self._gone_written_at >= GONE_SECONDS:
            _log.warning("callers went away before their body was whole", requests=self._gone)
            self._gone, self._gone_written_at = 0, now

    def _has_room(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._written = second, 0
        self._written += 1
        if self._written > ERRORS_PER_SECOND:
            self._left_out += 1
            return False
        return True


def _line(request: Request, status: int, seconds: float) -> dict[str, Any]:
    request_id = request.header("x-request-id")
    fields = {
        "method": request.scope.method,
        "path": request.scope.path[:MOST_LETTERS],
        "status": status,
        "ms": round(seconds * 1000, 3),
        "model": request.model,
        "version": request.version,
        "rows": request.rows,
        "request_id": request_id[:MOST_LETTERS] if request_id is not None else None,
        "key": request.caller.key,
    }
    return {name: value for name, value in fields.items() if value is not None}
