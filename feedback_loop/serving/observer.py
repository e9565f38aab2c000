"""What is kept of every request: its figures, its line in the access log, its trace."""

from __future__ import annotations

import time

from feedback_loop.serving.access import AccessLog
from feedback_loop.serving.board import Board
from feedback_loop.serving.request import Request
from feedback_loop.serving.tracing import Tracing


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
