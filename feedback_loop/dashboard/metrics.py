"""What Prometheus reads of the pages: their requests, and the figures of the loop as a scheduler shows them."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Depends
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feedback_loop.dashboard.access import admitted
from feedback_loop.dashboard.rights import Visitor
from feedback_loop.loop import FeedbackLoop
from feedback_loop.scheduling.metrics import LoopFigures
from feedback_loop.serving.metrics import CONTENT_TYPE
from feedback_loop.store.keys import Scope as Right
from feedback_loop.tracing import Tracing

PATH = "/metrics"
_OTHER = "other"
"""What paths that are none of ours are counted under."""


class Figures:
    """Counts of one application's requests, by the patterns of their paths."""

    def __init__(self, loop: FeedbackLoop) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(LoopFigures(loop.store, list(loop.settings.models), loop.clock))
        self._requests = Counter(
            "feedback_loop_pages_requests",
            "Requests by path and status.",
            ["path", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "feedback_loop_pages_seconds", "Time to the whole answer.", ["path"], registry=self._registry
        )

    def count(self, path: str, status: int, seconds: float) -> None:
        """One more request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)


class Counted:
    """Counts every request of an application, and gives it a span where traces are asked for."""

    def __init__(self, app: ASGIApp, figures: Figures, tracing: Tracing | None) -> None:
        self._app = app
        self._figures = figures
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, method = time.perf_counter(), 500, scope["method"]
        tracing = self._tracing
        traced = tracing.begin(method, _OTHER, Headers(scope=scope).get) if tracing is not None else None

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            path = getattr(scope.get("route"), "path", _OTHER)
            self._figures.count(path, status, time.perf_counter() - began)
            if tracing is not None and traced is not None:
                tracing.name(traced, method, path)
                tracing.end(traced, status)


def metrics(request: Request, visitor: Annotated[Visitor, Depends(admitted)]) -> Response:
    """The figures, for a key that is for all models."""
    visitor.require_all(Right.READ)
    figures: Figures = request.app.state.figures
    return Response(figures.text(), media_type=CONTENT_TYPE)
