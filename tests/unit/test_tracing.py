"""Traces: of requests, of their batches, and of nothing where nobody asked."""

import io
import json
import logging
import subprocess
import threading

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from feedback_loop.cli.output import configure_logging, take_library_logs
from feedback_loop.errors import ConfigError
from feedback_loop.tracing import Tracing, batch, current, require_tracing, step, trace_id, traceparents
from tests.warm import FRESH

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exported():
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exported):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    made = Tracing(provider)
    yield made
    made.stop()


def test_a_request_is_a_child_of_its_callers_span_and_has_steps(tracing, exported):
    traced = tracing.begin("POST", "invocations", {"traceparent": PARENT}.get)
    with step("decode"):
        pass
    tracing.end(traced, 200, model="churn", version="3", rows=1)
    decode, request = exported.get_finished_spans()
    assert f"{request.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{request.parent.span_id:016x}" == PARENT.split("-")[2]
    assert (request.name, request.kind) == ("POST invocations", SpanKind.SERVER)
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "invocations",
        "http.response.status_code": 200,
        "feedback_loop.model": "churn",
        "feedback_loop.version": "3",
        "feedback_loop.rows": 1,
    }
    assert (decode.name, decode.parent.span_id) == ("decode", request.context.span_id)
    assert current() is None


def test_a_batch_is_linked_to_its_requests_and_holds_model_and_commit(tracing, exported):
    requests = [tracing.begin("POST", "invocations", {}.get) for _ in range(2)]

    def work():
        with batch(requests, 7, "churn", "3"):
            with step("model"):
                pass
            with step("commit"):
                pass
        assert current() is None

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    model, commit, whole = exported.get_finished_spans()
    assert [link.context.span_id for link in whole.links] == [
        each.span.get_span_context().span_id for each in requests
    ]
    assert whole.parent is None
    assert {model.parent.span_id, commit.parent.span_id} == {whole.context.span_id}
    assert (whole.attributes["feedback_loop.rows"], whole.attributes["feedback_loop.requests"]) == (7, 2)


def test_the_rows_at_hand_are_those_of_the_sampled_requests_of_a_batch_or_of_the_one_request(tracing):
    unsampled = tracing.begin("POST", "invocations", {"traceparent": f"{PARENT[:-1]}0"}.get)
    assert traceparents() == b""
    sampled = tracing.begin("POST", "events", {"traceparent": PARENT}.get)
    own = f"{PARENT[:36]}{sampled.span.get_span_context().span_id:016x}-01".encode()
    assert traceparents() == own
    with batch([unsampled, sampled, sampled], 3, "churn", "3"), step("commit"):
        assert traceparents() == own + b" " + own
    for request in (sampled, unsampled):
        tracing.end(request, 200)
    assert traceparents() == b""


def test_what_fails_is_marked(tracing, exported):
    traced = tracing.begin("POST", "invocations", {"traceparent": "nonsense"}.get)

    def fail():
        with batch([traced], 1, "churn", "3"), step("model"):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    tracing.end(traced, 500)
    model, whole, request = exported.get_finished_spans()
    assert (request.status.status_code, request.parent) == (StatusCode.ERROR, None)
    assert (model.events[0].name, whole.events[0].name) == ("exception", "exception")


def test_a_turn_of_the_loop_is_a_trace_whose_jobs_note_what_they_gave(tracing, exported):
    with pytest.raises(ValueError, match="no"), tracing.turn("churn", "2026-03-02T00:00:00+00:00"):  # noqa: PT012
        with step("join") as note, step("read"):
            note({"pairs": 7, "of": {"left": 1}})
        within = trace_id()
        with step("decide") as note:
            note({"state": "degraded", "acts": True})
        with step("promote"):
            raise ValueError("no")
    assert trace_id() is None
    spans = {span.name: span for span in exported.get_finished_spans()}
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {within}
    assert spans["turn"].parent is None
    turn = spans["turn"].context.span_id
    assert [spans[name].parent.span_id for name in ("join", "decide", "promote")] == [turn] * 3
    assert spans["read"].parent.span_id == spans["join"].context.span_id
    assert dict(spans["join"].attributes) == {"feedback_loop.pairs": 7}
    assert dict(spans["decide"].attributes) == {"feedback_loop.state": "degraded", "feedback_loop.acts": True}
    assert spans["promote"].status.status_code is StatusCode.ERROR


def test_lines_of_the_log_name_the_trace_in_which_they_were_written(tracing):
    stream = io.StringIO()
    configure_logging(stream)
    log = structlog.get_logger()
    log.info("before")
    traced = tracing.begin("POST", "invocations", {"traceparent": PARENT}.get)
    log.info("within")
    tracing.end(traced, 200)
    before, within = map(json.loads, stream.getvalue().splitlines())
    assert "trace_id" not in before
    assert within["trace_id"] == PARENT.split("-")[1]


def test_what_a_library_warns_of_is_a_line_of_ours(tracing):
    stream = io.StringIO()
    handler = take_library_logs(stream)
    try:
        logging.getLogger("apscheduler").info("as usual")
        try:
            int("postgresql://ada:s3cr3t@host/x")
        except ValueError:
            logging.getLogger("apscheduler.executors").exception("Job %s raised", "churn")
    finally:
        logging.getLogger().removeHandler(handler)
    [line] = map(json.loads, stream.getvalue().splitlines())
    assert (line["event"], line["level"], line["logger"]) == ("Job churn raised", "error", "apscheduler.executors")
    assert "postgresql://ada:***@host/x" in line["exception"]
    assert "timestamp" in line


def test_where_nothing_is_traced_nothing_of_opentelemetry_is_loaded():
    program = """
import sys
from feedback_loop.errors import ConfigError
from feedback_loop.tracing import batch, current, step
with step("decode"), batch([], 1, "churn", "3"), step("model") as note:
    note({"rows": 1})
    assert current() is None
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([FRESH, "-c", program], check=True, timeout=200)


def test_packages_that_are_missing_are_named_before_a_server_starts():
    require_tracing()
    with pytest.raises(ConfigError, match=r"feedback-loop\[tracing\]"):
        require_tracing(lambda _: None)
