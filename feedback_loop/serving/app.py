"""The HTTP application (RSGI): routes, guards, and errors as callers of MLflow know them."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as package_version
from typing import Any
from urllib.parse import parse_qs

import msgspec

from feedback_loop.capture import Spool, read_event
from feedback_loop.errors import BadInput
from feedback_loop.serving.access import Observer
from feedback_loop.serving.batcher import Batcher
from feedback_loop.serving.board import ROUTES
from feedback_loop.serving.bodies import Bodies, CutOff
from feedback_loop.serving.connections import Connections
from feedback_loop.serving.endpoints import Endpoints
from feedback_loop.serving.guard import Guard
from feedback_loop.serving.health import Readiness
from feedback_loop.serving.http_errors import INFERENCE, JSON, Headers, HttpError, explained, media_type
from feedback_loop.serving.metrics import CONTENT_TYPE, Metrics
from feedback_loop.serving.oip import OpenInference
from feedback_loop.serving.openapi import describe
from feedback_loop.serving.origins import Origins
from feedback_loop.serving.predictions import QUICK_BYTES, Predictions, aside
from feedback_loop.serving.request import Request, Unpacked
from feedback_loop.serving.room import Room
from feedback_loop.serving.webhooks import Webhooks
from feedback_loop.store.keys import Scope

TakeReports = Callable[[str, str, bytes, str, str, str | None, Unpacked], tuple[int, dict[str, Any]]]
"""Takes a body of `outcomes` or `actions` of a model in (its format; bad rows: `refuse` or `skip`; the name of the
caller's key; who is told what it became) and says what became of them: the answer's status, 202 where they wait for
the store, and what is in it.
"""

TakeHalf = Callable[[str, Any, str | None, Unpacked], str]
"""Takes half of a call in that another server logged (the version that answered; who is told what the body became)
and says what became of it.
"""

WEBHOOK = "/webhooks/mlflow"

MOST_WEBHOOK_BYTES = 64 * 1024
"""MLflow's deliveries have a few hundred."""

ENDING = (signal.SIGTERM, signal.SIGINT)
"""What ends a worker, once its loop runs."""

Answer = tuple[int, bytes, Headers]
Handler = Callable[[Request, bytes], Awaitable[Answer]]


@dataclass(frozen=True)
class Intakes:
    """What requests that are no predictions are handed to. `webhooks` is None where none are expected; `close` is
    called when the last request is answered.
    """

    take_reports: TakeReports
    take_half: TakeHalf
    readiness: Callable[[], Readiness]
    origins: Origins
    close: Callable[[], None]
    webhooks: Webhooks | None = None


@dataclass(frozen=True)
class Limits:
    """How much a server takes: bytes of a body, time that it may take to come, requests at a time, and their bytes
    together.
    """

    body_bytes: int
    body_seconds: float
    in_flight: int
    connections: Connections
    room: Room


@dataclass(frozen=True)
class _Route:
    handler: Handler
    method: str = "POST"
    scope: Scope | None = None  # None: open to everybody
    is_limited: bool = True
    judge: Callable[[Request], str | None] | None = None  # before a body is read; the model that it is about
    most_bytes: int | None = None


class App:
    """Answers requests for the endpoints' models. Granian calls `__rsgi__` and the two around it."""

    def __init__(
        self,
        endpoints: Endpoints,
        batcher: Batcher,
        guard: Guard,
        predictions: Predictions,
        intakes: Intakes,
        *,
        spool: Spool,
        observer: Observer,
        metrics: Metrics,
        limits: Limits,
    ) -> None:
        self._endpoints = endpoints
        self._batcher = batcher
        self._guard = guard
        self._intakes = intakes
        self._spool = spool
        self._observer = observer
        self._bodies = Bodies(limits.body_bytes, limits.body_seconds)
        self._metrics = metrics
        self._limits = limits
        self._in_flight = 0
        predict = _Route(predictions.invoke, scope=Scope.PREDICT, judge=self._served)
        self._of_models = {
            "invocations": predict,
            **{
                kind: _Route(partial(self._reports, kind), scope=Scope.OUTCOMES, judge=self._takes_reports)
                for kind in ("outcomes", "actions")
            },
            "events": _Route(self._events, scope=Scope.PREDICT),
        }
        self._plain = {
            "/invocations": predict,
            "/events": self._of_models["events"],
            "/metrics": _Route(self._tell_metrics, "GET", Scope.READ, is_limited=False),
            "/ping": _Route(self._ping, "GET", is_limited=False),
            "/health": _Route(self._ping, "GET", is_limited=False),
            "/ready": _Route(self._ready, "GET", is_limited=False),
            "/version": _Route(self._version, "GET", is_limited=False),
            WEBHOOK: _Route(self._webhook, judge=self._expects_webhook, most_bytes=MOST_WEBHOOK_BYTES),
            "/openapi.json": _Route(self._describe, "GET", Scope.READ, is_limited=False),
        }
        inference = OpenInference(endpoints, predictions, intakes.readiness)
        metadata = _Route(inference.tell, "GET", is_limited=False)
        self._plain |= dict.fromkeys((INFERENCE, f"{INFERENCE}/health/live", f"{INFERENCE}/health/ready"), metadata)
        self._infer = _Route(inference.infer, scope=Scope.PREDICT, judge=inference.judge)
        self._of_inference = _Route(inference.tell, "GET", Scope.READ, judge=inference.model)

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called once a worker is up."""
        self._batcher.start(loop)
        self._bodies.start(loop)
        self._limits.connections.start()
        loop.call_soon(signal.pthread_sigmask, signal.SIG_UNBLOCK, ENDING)  # they were held until now

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called when a worker has answered its last request."""
        del loop
        self._bodies.stop()
        self._limits.connections.stop()
        self._endpoints.stop()
        self._batcher.stop()
        self._spool.close()
        self._intakes.close()
        self._observer.stop()

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """One request."""
        request = Request(scope)
        path = request.path
        name = _route_name(path)
        self._observer.began(request, name)
        self._limits.connections.heard(scope.client)
        self._in_flight += 1
        try:
            status, body, headers = await self._respond(request, protocol)
        except CutOff as error:
            request.has_gone = True
            status, body, headers = explained(error, path)
        except Exception as error:  # noqa: BLE001 (whatever it is, a caller is told what it needs to know)
            status, body, headers = explained(error, path)
            if not request.is_read and scope.method not in ("GET", "HEAD"):
                headers = [*headers, _CLOSE]
        finally:
            self._in_flight -= 1
        protocol.response_bytes(status, headers, body)
        self._observer.done(request, name, status)

    async def _respond(self, request: Request, protocol: Any) -> Answer:
        scope = request.scope
        self._intakes.origins.check(request.headers)
        route = self._plain.get(request.path)
        if route is None:
            route, request.asked = self._of_model(request.path)
        if scope.method != route.method and not (scope.method == "HEAD" and route.method == "GET"):
            raise HttpError(405, "METHOD_NOT_ALLOWED", f"Use {route.method}.", allow=route.method)
        if route.is_limited and self._in_flight > self._limits.in_flight:
            raise HttpError(429, "TOO_MANY_REQUESTS", "Too many requests are under way here.", retry_after="1")
        if route.scope is not None and self._guard.is_needed:
            request.caller = self._guard.admits(request.header("authorization"), route.scope)
            if request.asked is not None:
                request.caller.require(request.asked)  # before it is said whether there is such a model
        about = route.judge(request) if route.judge is not None else None
        if route.scope is not None and about is not None:
            request.caller.require(about)
        if route.method == "GET":
            request.is_read = True
            return await route.handler(request, b"")
        with self._limits.room.share() as request.share:
            body = await self._bodies.read(request.headers, protocol, request.came, route.most_bytes)
            request.is_read = True
            return await route.handler(request, body)

    def _of_model(self, path: str) -> tuple[_Route, str | None]:
        parts = path.strip("/").split("/")
        if len(parts) == 3 and parts[0] == "models" and parts[2] in self._of_models:
            return self._of_models[parts[2]], parts[1]
        if len(parts) == 3 and parts[0] == "endpoints" and parts[2] == "invocations":
            # mlflow.deployments calls it so
            return self._plain["/invocations"], parts[1]
        if path.startswith(f"{INFERENCE}/models/"):
            return (self._infer if parts[-1] == "infer" else self._of_inference), None
        raise HttpError(404, "ENDPOINT_NOT_FOUND", f"There is no {path} here.")

    async def _ping(self, request: Request, body: bytes) -> Answer:
        del request, body
        return 200, b"\n", JSON  # so says MLflow

    async def _version(self, request: Request, body: bytes) -> Answer:
        del request, body
        return 200, package_version("mlflow").encode(), JSON

    async def _describe(self, request: Request, body: bytes) -> Answer:
        del body
        models = request.caller.models
        names = [name for name in self._endpoints.served if models is None or name in models]
        contracts = await asyncio.to_thread(lambda: [self._endpoints.contract(name) for name in names])
        return 200, msgspec.json.encode(describe(contracts, package_version("feedback-loop"))), JSON

    async def _ready(self, request: Request, body: bytes) -> Answer:
        del request, body
        readiness = await asyncio.to_thread(self._intakes.readiness)
        return readiness.status, readiness.body, JSON

    async def _tell_metrics(self, request: Request, body: bytes) -> Answer:
        del body
        request.caller.require(None)  # they tell of every model
        text = await asyncio.to_thread(self._metrics.text)  # it may wait for a commit
        return 200, text, [("content-type", CONTENT_TYPE)]

    async def _webhook(self, request: Request, body: bytes) -> Answer:
        webhooks = self._intakes.webhooks
        assert webhooks is not None  # it was judged
        if not await asyncio.to_thread(webhooks.take, request.header, body):
            raise _not_genuine()
        return 202, b"{}", JSON

    def _expects_webhook(self, request: Request) -> str | None:
        """Refuses deliveries that nobody expects, or that can't be genuine whatever is in them."""
        if self._intakes.webhooks is None:
            raise HttpError(404, "ENDPOINT_NOT_FOUND", "No webhooks are expected: serving.webhook_secret is not set.")
        if not self._intakes.webhooks.may_be_genuine(request.header):
            raise _not_genuine()
        return None

    def _served(self, request: Request) -> str:
        """The model that a path names, or the default one; raises NotFound."""
        return self._endpoints.name(request.asked)

    def _takes_reports(self, request: Request) -> str:
        """The model, if a body of that type is taken."""
        name = self._served(request)
        content_type = media_type(request.headers)
        if content_type not in _OUTCOME_FORMATS:
            message = f"The content type {content_type!r} is not taken. Send {', '.join(_OUTCOME_FORMATS)}."
            raise HttpError(415, "UNSUPPORTED_MEDIA_TYPE", message)
        return name

    async def _reports(self, what: str, request: Request, body: bytes) -> Answer:
        name = self._endpoints.name(request.asked)
        on_error = parse_qs(request.scope.query_string).get("on_error", ["refuse"])[0]
        if on_error not in ("refuse", "skip"):
            raise BadInput.of("on_error", f"is {on_error[:_MOST_SHOWN]!r}", cure="Say refuse or skip.")
        kind = _OUTCOME_FORMATS[media_type(request.headers)]
        take, key = self._intakes.take_reports, request.caller.key
        status, taken = await asyncio.to_thread(take, what, name, body, kind, on_error, key, request.unpacked)
        return status, msgspec.json.encode(taken), JSON

    async def _events(self, request: Request, body: bytes) -> Answer:
        event = await aside(partial(read_event, request.header, body), is_long=len(body) > QUICK_BYTES)
        name = self._endpoints.name(request.asked or event.service)
        request.caller.require(name)
        version = parse_qs(request.scope.query_string).get("version", [None])[0]
        if version is not None and not _VERSION.fullmatch(version):
            raise BadInput.of("version", f"{version[:_MOST_SHOWN]!r} is no version of a model")
        became = await asyncio.to_thread(self._intakes.take_half, name, event.half, version, request.unpacked)
        return 202, msgspec.json.encode({"event": became}), JSON


_VERSION = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?", re.ASCII)
_MOST_SHOWN = 100

_CLOSE = ("connection", "close")
"""Said where a body is left unread: the server below closes the connection then, and a caller should know."""

_OUTCOME_FORMATS = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "application/vnd.apache.arrow.stream": "arrow",
}


def _not_genuine() -> HttpError:
    return HttpError(401, "UNAUTHENTICATED", "The signature is not MLflow's, it is old, or it came before.")


def _route_name(path: str) -> str:
    """What a request is counted under: few names, whatever callers ask for."""
    if path == WEBHOOK:
        return "webhooks"
    last = path.rpartition("/")[2]
    if last in ROUTES:
        return last
    if path.startswith(INFERENCE):
        return "metadata"
    return "openapi" if path == "/openapi.json" else "other"
