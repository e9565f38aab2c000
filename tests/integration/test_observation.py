"""What is seen of a server with two workers: figures, lines, traces."""

import http.server
import json
import secrets
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from feedback_loop.clock import ManualClock
from feedback_loop.store import Store, keys, predictions
from tests.builders import churn_loop, open_loop
from tests.integration.processes import call, end, server, wait_until

RECORD = {"age": 40.0, "plan": "pro", "customer": 1, "month": "2026-03"}
BODY = {"dataframe_records": [RECORD, RECORD]}


@pytest.fixture(scope="module")
def receiver():
    """A collector of traces by OTLP over HTTP: its address, and the spans that it has got."""
    spans = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            for resource in sent.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{made.server_port}", spans=spans)
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(scope="module")
def watched(churn_home, tmp_path_factory, receiver, warm):
    loop = open_loop(churn_home / "feedback_loop.toml", ManualClock(datetime.now(UTC)))
    name = f"web {secrets.token_hex(4)}"  # the home may have seen this fixture before
    key = keys.create_key(loop.store, name, loop.clock(), [*keys.Scope])
    loop.close()
    settings = {
        "FEEDBACK_LOOP_SERVING__REQUIRE_KEY": "always",
        "FEEDBACK_LOOP_SERVING__ACCESS_LOG": "true",
        "FEEDBACK_LOOP_SERVING__TRACE": "true",
        "FEEDBACK_LOOP_SERVING__WORKERS": "2",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    log = tmp_path_factory.mktemp("watched") / "server.log"
    with server(churn_home / "feedback_loop.toml", log=log, warm=warm, **settings) as (port, process):
        wait_until(lambda: figures(port, key).get(("workers",)) == 2, process, log)
        shown = {"authorization": f"Bearer {key}"}
        yield SimpleNamespace(port=port, process=process, log=log, key=shown, secret=key, key_name=name)


def figures(port, key):
    status, body, _ = call(port, "GET", "/metrics", None, {"authorization": f"Bearer {key}"})
    assert status == 200
    return {
        (sample.name.removeprefix("feedback_loop_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_each_scrape_tells_of_both_workers_and_no_count_ever_falls(watched):
    asked = ("requests_total", "invocations", "200")
    before = figures(watched.port, watched.secret).get(asked, 0)
    with ThreadPoolExecutor(8) as callers:
        answers = list(
            callers.map(lambda _: call(watched.port, "POST", "/invocations", BODY, watched.key)[0], range(100))
        )
    assert answers == [200] * 100
    scrapes = [figures(watched.port, watched.secret) for _ in range(12)]
    assert {each[asked] - before for each in scrapes} == {100}
    assert {each["version_in_service", "churn", "champion", "1"] for each in scrapes} == {2}
    for name in ("answered", "spooled", "stored"):
        told = [each[f"rows_{name}_total", "churn"] for each in scrapes]
        assert told == sorted(told)
    assert scrapes[0]["rows_spooled_total", "churn"] >= 200
    assert scrapes[0]["batch_rows_sum",] == scrapes[0]["rows_spooled_total", "churn"]
    assert scrapes[0]["requests_in_flight",] >= 1  # the scrape itself


def test_each_request_leaves_a_line_that_names_the_key_and_does_not_hold_it(watched):
    call(watched.port, "POST", "/models/churn/invocations?secret=1", BODY, {**watched.key, "x-request-id": "line"})
    call(watched.port, "POST", "/invocations", BODY, {"x-request-id": "refused"})

    def lines():
        written = [json.loads(line) for line in watched.log.read_text().splitlines() if line.startswith("{")]
        found = {line.get("request_id"): line for line in written}
        return found if {"line", "refused"} <= set(found) else None

    found = wait_until(lines, watched.process, watched.log)
    line = found["line"]
    assert (line["event"], line["method"], line["path"]) == ("request", "POST", "/models/churn/invocations")
    assert (line["status"], line["model"], line["version"], line["rows"], line["key"]) == (
        200,
        "churn",
        "1",
        2,
        watched.key_name,
    )
    assert line["ms"] > 0
    assert found["refused"]["status"] == 401
    assert "key" not in found["refused"]
    assert watched.secret not in watched.log.read_text()


def linked(spans, name):
    """The ids of the spans to which those of that name are linked."""
    return {link.span_id for span in spans if span.name == name for link in span.links}


def test_a_request_and_its_batch_are_traced_from_the_callers_span_into_the_log(watched, receiver, churn_home):
    def ask(number):
        parent = f"00-{number:032x}-{number:016x}-01"
        assert call(watched.port, "POST", "/invocations", BODY, {**watched.key, "traceparent": parent})[0] == 200

    numbers = range(1000, 1020)
    with ThreadPoolExecutor(8) as callers:
        list(callers.map(ask, numbers))

    def traced():
        mine = {int.from_bytes(span.trace_id): span for span in receiver.spans if span.name == "POST invocations"}
        batches, logs = (linked(receiver.spans, name) for name in ("batch", "log"))
        found = [mine.get(number) for number in numbers]
        return found if all(span is not None and span.span_id in batches & logs for span in found) else None

    requests = wait_until(traced, watched.process, watched.log)
    for number, request in zip(numbers, requests, strict=True):
        assert int.from_bytes(request.parent_span_id) == number
        attributes = {each.key: each.value for each in request.attributes}
        assert attributes["feedback_loop.version"].string_value == "1"
        assert attributes["feedback_loop.rows"].int_value == 2
        of_it = [span for span in receiver.spans if span.parent_span_id == request.span_id]
        [decode] = [span for span in of_it if span.name != "log"]  # which is within the first of its requests
        assert (decode.name, decode.trace_id) == ("decode", request.trace_id)
    for batch in [span for span in receiver.spans if span.name == "batch"]:
        inside = sorted(span.name for span in receiver.spans if span.parent_span_id == batch.span_id)
        assert inside == ["commit", "model"]

    def logged():
        with closing(sqlite3.connect(churn_home / "store.db")) as store:
            rows = store.execute("SELECT request_id FROM predictions_churn WHERE length(request_id) = 32").fetchall()
        return {request_id for (request_id,) in rows} >= {f"{number:032x}" for number in numbers}

    wait_until(logged, watched.process, watched.log)  # who brought no id of their own finds the trace's in the log


def test_on_postgresql_too_a_request_is_followed_into_the_store_and_what_is_not_sent_yet_is_at_the_end(
    receiver, postgres_url, tmp_path, warm
):
    churn_loop(tmp_path, ManualClock(datetime.now(UTC))).close()
    settings = {
        "FEEDBACK_LOOP_STORE__URL": postgres_url,
        "FEEDBACK_LOOP_SERVING__TRACE": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_BSP_SCHEDULE_DELAY": str(3600 * 1000),
    }
    log, store = tmp_path / "server.log", Store(postgres_url)

    def ask(number):
        parent = f"00-{number:032x}-{number:016x}-01"
        assert call(port, "POST", "/invocations", BODY, {"traceparent": parent})[0] == 200

    def rows():
        return sum(predictions.count_predictions(store, "churn").values())

    with server(tmp_path / "feedback_loop.toml", log=log, warm=warm, **settings) as (port, process):
        for number in range(2000, 2010):
            ask(number)
        wait_until(lambda: rows() == 20, process, log)
        ask(2010)  # whoever brings it to the store
        assert end(process) == 0
    assert rows() == 22
    store.close()
    requests = {int.from_bytes(span.trace_id): span for span in receiver.spans if span.name == "POST invocations"}
    logs = linked(receiver.spans, "log")
    assert all(requests[number].span_id in logs for number in range(2000, 2011))
