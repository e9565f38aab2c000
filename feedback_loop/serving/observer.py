"""What is kept of every request: its figures, its line in the access log, its trace."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Any

from feedback_loop.serving.access import AccessLog, Seen
from feedback_loop.serving.board import Board
from feedback_loop.serving.tracing import Tracing, current

_seen: ContextVar[Seen | None] = ContextVar("seen", default=None)


def note(model: str, version: str | None, rows: int) -> None:
    """Keeps of the request that is answered here which model and version (None: several) answer how many rows."""
    seen = _seen.get()
    if seen is not None:
        seen.model, seen.version, seen.rows = model, version, rows


class Observer:
    """Sees requests come and go, on the event loop."""

    def __init__(self, board: Board, access: AccessLog, tracing: Tracing | None = None) -> None:
        self._board = board
        self._access = access
        self._tracing = tracing

    def began(self, scope: Any, route: str) -> Seen:
        """A request has come: what is learned of it is kept in what this gives back, and by `note`."""
        self._board.request_began()
        seen = Seen(time.perf_counter())
        _seen.set(seen)
        if self._tracing is not None:
            self._tracing.begin(scope.method, route, scope.headers.get)
        return seen

    def done(self, scope: Any, route: str, status: int, seen: Seen) -> None:
        """Its answer has left."""
        seconds = time.perf_counter() - seen.began
        self._board.request_done(route, status, seconds)
        if status >= 400 or self._access.has_every_request:
            self._access.done(scope, status, seconds, seen)
        if self._tracing is not None and (traced := current()) is not None:
            self._tracing.end(traced, status, model=seen.model, version=seen.version, rows=seen.rows)

    def stop(self) -> None:
        """Sends what is left of the traces."""
        if self._tracing is not None:
            self._tracing.stop()
