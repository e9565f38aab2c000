"""Each request to the pages and their API is a span, a child of its caller's, named by its route."""

from contextlib import closing

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from starlette.testclient import TestClient

from feedback_loop.clock import ManualClock
from feedback_loop.dashboard import create_app
from feedback_loop.tracing import Tracing, trace_id
from tests.builders import churn_loop
from tests.conftest import NOW

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    with closing(churn_loop(tmp_path_factory.mktemp("pages"), ManualClock(NOW))) as made:
        yield made


def test_a_request_to_the_pages_is_a_span_of_its_callers_trace(loop):
    exported, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    app, seen = create_app(loop, host="127.0.0.1", tracing=Tracing(provider)), []

    @app.get("/broken")
    def broken():  # in one of the threads that pages are made in
        seen.append(trace_id())
        raise ValueError("no")

    client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    for path in ("/models/churn", "/api/models", "/nothing/here", "/broken"):
        client.get(path, headers={"traceparent": PARENT})
    provider.shutdown()
    spans = exported.get_finished_spans()
    told = [
        (span.name, span.attributes["http.route"], span.attributes["http.response.status_code"]) for span in spans
    ]
    assert told == [
        ("GET /models/{model}", "/models/{model}", 200),
        ("GET /api/models", "/api/models", 200),
        ("GET other", "other", 404),
        ("GET /broken", "/broken", 500),
    ]
    assert {f"{span.context.trace_id:032x}" for span in spans} == {PARENT.split("-")[1]} == set(seen)
    assert spans[-1].status.status_code is StatusCode.ERROR


def test_without_being_asked_pages_have_no_spans(loop):
    assert create_app(loop, host="127.0.0.1").state.tracing is None
