"""OpenTelemetry traces of requests, batches, writes to the log and turns of the loop, where they are asked for.

Nothing of OpenTelemetry is imported, and nothing is paid but the look at an empty variable, unless `serving.trace`,
`scheduler.trace` or `dashboard.trace` is set. Where spans go and which are sampled is said by OpenTelemetry's own
variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, …).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from feedback_loop.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

Header = Callable[[str], str | None]

MOST_LINKS = 128
"""So many links a span has: OpenTelemetry keeps no more of them unless it is told to."""


@dataclass(frozen=True)
class Traced:
    """A span that is under way, of a request or of a batch."""

    tracer: Tracer
    span: Span
    requests: Sequence[Traced] = ()  # of a batch, and of the steps in it


_current: ContextVar[Traced | None] = ContextVar("traced", default=None)
Note = Callable[[object], None]
"""Is told a result: its plain values become attributes of the span, by their names."""

_NOTHING: AbstractContextManager[Any] = nullcontext(lambda _: None)


def current() -> Traced | None:
    """What this request (on the event loop) or batch (in its thread) is traced by; None: it is not."""
    return _current.get()


def trace_id() -> str | None:
    """The id of the trace that is under way, in 32 hexadecimal digits; None where none is, or it is not sampled."""
    traced = _current.get()
    if traced is None:
        return None
    context = traced.span.get_span_context()
    return f"{context.trace_id:032x}" if context.trace_flags.sampled else None


def traceparents() -> bytes:
    """Whose rows are at hand: the `traceparent` of each of the sampled requests, with spaces between them."""
    traced = _current.get()
    requests = () if traced is None else traced.requests or (traced,)
    contexts = [request.span.get_span_context() for request in requests]
    return b" ".join(
        b"00-%032x-%016x-01" % (own.trace_id, own.span_id) for own in contexts if own.trace_flags.sampled
    )


def step(name: str) -> AbstractContextManager[Note]:
    """A span within the one that is under way: `decode`, `model`, `commit`, a job. Nothing, where none is.

    What is entered is told what is to be noted of it, by name; of nested values nothing is noted.
    """
    traced = _current.get()
    return _NOTHING if traced is None else _step(traced, name)


def batch(requests: Sequence[Traced], rows: int, model: str, version: str) -> AbstractContextManager[None]:
    """A span of a batch, linked to those of the requests in it. Nothing, where none of them is traced."""
    return _linked("batch", requests, rows=rows, model=model, version=version) if requests else _NOTHING


class Tracing:
    """Makes spans of requests and turns. `provider` is handed in, and shut down with `stop`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("feedback_loop")

    @contextmanager
    def turn(self, model: str, scheduled_at: str) -> Iterator[None]:
        """A trace of a model's jobs; what this thread does within the block is traced by it."""
        attributes = {"feedback_loop.model": model, "feedback_loop.scheduled_at": scheduled_at}
        with self._tracer.start_as_current_span("turn", context=_no_parent(), attributes=attributes) as span:
            token = _current.set(Traced(self._tracer, span))
            try:
                yield
            finally:
                _current.reset(token)

    @contextmanager
    def log(self, noted: Iterable[bytes], rows: int, model: str) -> Iterator[None]:
        """Spans of the write of rows to the log, linked to the requests that `traceparents` has noted of them.

        Each is within the trace of the first of its requests, by which it is sampled. Of none, there is no span.
        """
        from opentelemetry.trace import get_current_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        extract = TraceContextTextMapPropagator().extract
        texts = dict.fromkeys(b" ".join(noted).decode(errors="replace").split(" "))
        spans = [get_current_span(extract({"traceparent": text})) for text in texts]
        requests = [Traced(self._tracer, span) for span in spans if span.get_span_context().is_valid]
        with ExitStack() as stack:
            for start in range(0, len(requests), MOST_LINKS):
                some = requests[start : start + MOST_LINKS]
                stack.enter_context(_linked("log", some, some[0], rows=rows, model=model))
            yield

    def begin(self, method: str, route: str, header: Header) -> Traced:
        """The span of a request, a child of the caller's (`traceparent`); this task's work is traced by it."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        names = ("traceparent", "tracestate")
        carrier = {name: value for name in names if (value := header(name)) is not None}
        parent = TraceContextTextMapPropagator().extract(carrier)
        attributes = {"http.request.method": method, "http.route": route}
        span = self._tracer.start_span(f"{method} {route}", parent, SpanKind.SERVER, attributes)
        traced = Traced(self._tracer, span)
        _current.set(traced)
        return traced

    @staticmethod
    def name(traced: Traced, method: str, route: str) -> None:
        """Names a request's span by its route, where that was not known when it began."""
        traced.span.update_name(f"{method} {route}")
        traced.span.set_attribute("http.route", route)

    @staticmethod
    def end(traced: Traced, status: int, **attributes: Any) -> None:
        """Ends a request's span; attributes without a value are left out."""
        from opentelemetry.trace import Status, StatusCode

        _current.set(None)
        traced.span.set_attribute("http.response.status_code", status)
        for name, value in attributes.items():
            if value is not None:
                traced.span.set_attribute(f"feedback_loop.{name}", value)
        if status >= 500:
            traced.span.set_status(Status(StatusCode.ERROR))
        traced.span.end()

    def stop(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


def require_tracing(find: Callable[[str], object | None] = find_spec, key: str = "serving.trace") -> None:
    """Raises ConfigError where the packages that traces need are missing; loads none of them."""
    if find("opentelemetry.sdk") is None or find("opentelemetry.exporter") is None:
        raise ConfigError(
            f"{key} needs packages that are not installed.",
            cure="Install them: pip install 'feedback-loop[tracing]'.",
            key=key,
        )


def start_tracing() -> Tracing:
    """Traces that are sent by OTLP over HTTP; `require_tracing` has said that they can be."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "feedback-loop")}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


@contextmanager
def _step(traced: Traced, name: str) -> Iterator[Note]:
    from opentelemetry.trace import set_span_in_context

    with traced.tracer.start_as_current_span(name, set_span_in_context(traced.span)) as span:

        def note(result: object) -> None:
            for field, value in result.items() if isinstance(result, dict) else ():
                if isinstance(value, str | bool | int | float):
                    span.set_attribute(f"feedback_loop.{field}", value)

        token = _current.set(Traced(traced.tracer, span, traced.requests))
        try:
            yield note
        finally:
            _current.reset(token)


def _no_parent() -> Any:
    from opentelemetry.context import Context

    return Context()


@contextmanager
def _linked(
    name: str, requests: Sequence[Traced], parent: Traced | None = None, **attributes: str | int
) -> Iterator[None]:
    """A span that is linked to requests; without a parent in a trace of its own, since it belongs to many."""
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, set_span_in_context

    tracer = requests[0].tracer
    span = tracer.start_span(
        name,
        Context() if parent is None else set_span_in_context(parent.span, Context()),
        links=[Link(request.span.get_span_context()) for request in requests],
        attributes={f"feedback_loop.{key}": value for key, value in attributes.items()}
        | {"feedback_loop.requests": len(requests)},
    )
    token = _current.set(Traced(tracer, span, requests))
    try:
        yield
    except BaseException as error:
        span.record_exception(error)
        raise
    finally:
        _current.reset(token)
        span.end()
