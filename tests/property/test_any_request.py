"""What holds of any bytes and headers at every door: no 5xx, no answer of another caller's,
memory is given back, and nothing is answered that the store refuses.

The application of a worker is driven as Granian drives it, in this process: requests cost what they cost, and no
socket.
"""

import asyncio
import gc
import itertools
import json
import random
import secrets
import time
from contextlib import ExitStack
from types import SimpleNamespace

import psutil
import pyarrow as pa
import pytest

from feedback_loop.capture import Forwarder, put_aside
from feedback_loop.clock import system_clock
from feedback_loop.config import load_settings
from feedback_loop.schema import prediction_id
from feedback_loop.serving import Stager
from feedback_loop.serving.places import places_of, served_models
from feedback_loop.serving.stager_process import Wants
from feedback_loop.serving.worker_process import make_app
from feedback_loop.store.coverage import count_outcomes
from feedback_loop.store.predictions import PredictionLog
from tests.bombs import ARROW, CSV, FILES, JSON, PARQUET, TEXTS, packed, stream
from tests.builders import copy_home, new_database, open_loop, write_config

STREAM = "application/vnd.apache.arrow.stream"
SERVING = f'[serving]\npoll_alias = "1h"\nwebhook_secret = "{secrets.token_hex()}"\n'

TOGETHER = 16
"""So many requests are in flight at a time."""


class Headers(dict):
    """As RSGI has them."""

    def get_all(self, name):
        return [self[name]] if name in self else []


class Exchange:
    """A request, as RSGI's scope and protocol, and its answer."""

    def __init__(self, method, path, headers, body, query="", *, in_parts=False):
        self.scope = SimpleNamespace(
            method=method, path=path, query_string=query, headers=Headers(headers), client="127.0.0.1:1", proto="http"
        )
        self.body, self.in_parts = body, in_parts
        if not in_parts:
            self.scope.headers.setdefault("content-length", str(len(body)))
        self.answers = []

    async def __call__(self):
        return self.body

    async def __aiter__(self):
        for start in range(0, len(self.body), 1000):
            yield self.body[start : start + 1000]
        yield b""

    def response_bytes(self, status, headers, body):
        assert all(isinstance(text, str) for pair in headers for text in pair)
        self.answers.append((status, body))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def served(request, churn_home, tmp_path_factory):
    """The application of one worker, its settings and a store."""
    folder = tmp_path_factory.mktemp("doors")
    copy_home(churn_home, folder)
    with ExitStack() as stack:
        url = "sqlite:///store.db"
        if request.param == "postgresql":
            postgres, prepared = map(request.getfixturevalue, ("postgres", "prepared_postgres"))
            url = stack.enter_context(new_database(postgres, prepared))
        config = write_config(folder, store=url, more=SERVING)
        settings, loop = load_settings(config), open_loop(config, system_clock)
        stack.callback(loop.close)
        places, references = places_of(settings, ["churn"]), served_models(settings, ["churn"])
        wants = Wants(settings, loop.store, loop.registry, system_clock)
        Stager([wants.served_model(references[name], places[name]) for name in references]).refresh()
        app = make_app(settings, ["churn"], system_clock, folder / f"figures-{secrets.token_hex(4)}")
        events = asyncio.new_event_loop()
        stack.callback(events.close)
        app.__rsgi_init__(events)
        yield app, settings, loop.store, events
        app.__rsgi_del__(events)


# What is right, at each door: (method, path, headers, body), with an id of the request's own.


def _infer(own):
    inputs = [
        {"name": "age", "datatype": "FP64", "shape": [1], "data": [40.5]},
        {"name": "plan", "datatype": "BYTES", "shape": [1], "data": ["pro"]},
        {"name": "customer", "datatype": "INT64", "shape": [1], "data": [3]},
        {"name": "prediction_id", "datatype": "BYTES", "shape": [1], "data": [own]},
    ]
    return json.dumps({"id": own, "inputs": inputs, "outputs": [{"name": "prediction"}]}).encode()


def _binary(own):
    head = {"inputs": [{"name": "age", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}}]}
    head["inputs"].append({"name": "plan", "datatype": "BYTES", "shape": [1], "data": [f"{own[:8]}"]})
    text = json.dumps(head).encode()
    return text + b"\0\0\0\0\0\0\xf0?", {"inference-header-content-length": str(len(text)), "x-prediction-id": own}


def requests_of(random):
    own = prediction_id(system_clock(), random.getrandbits)
    row = {"age": random.uniform(1, 99), "plan": "pro", "customer": random.randrange(99), "month": "2026-03"}
    mine = {**row, "prediction_id": own}
    outcome = {"customer": random.randrange(99), "month": "2026-03", "churned": random.random() < 0.5}
    columns = {name: [value] for name, value in mine.items()}
    event = {"specversion": "1.0", "id": own, "source": "s", "time": "2026-03-01T00:00:00Z"}
    event |= {"type": "org.kubeflow.serving.inference." + random.choice(["request", "response"])}
    data = {"instances": [row]} if event["type"].endswith("request") else {"predictions": [True]}
    binary, header = _binary(own)
    split = {"columns": list(mine), "data": [list(mine.values())]}
    yield own, "/invocations", {"content-type": JSON}, json.dumps({"dataframe_records": [mine]}).encode()
    yield own, "/models/churn/invocations", {"content-type": JSON}, json.dumps({"dataframe_split": split}).encode()
    yield own, "/endpoints/churn/invocations", {"content-type": JSON}, json.dumps({"inputs": columns}).encode()
    text = ",".join(mine) + "\n" + ",".join(map(str, mine.values()))
    yield own, "/invocations", {"content-type": CSV}, text.encode()
    yield own, "/invocations", {"content-type": PARQUET}, packed(columns)
    yield own, "/v2/models/churn/infer", {"content-type": JSON}, _infer(own)
    yield own, "/v2/models/churn/versions/1/infer", {**header}, binary
    for kind, body in (
        (JSON, json.dumps({"outcomes": [outcome]}).encode()),
        ("application/x-ndjson", json.dumps(outcome).encode() + b"\n" + json.dumps(outcome).encode()),
        (STREAM, stream(pa.table({name: [value] for name, value in outcome.items()}))),
    ):
        yield own, "/models/churn/outcomes", {"content-type": kind}, body
    structured = json.dumps({**event, "data": data}).encode()
    yield own, "/models/churn/events", {"content-type": "application/cloudevents+json"}, structured
    headers = {f"ce-{name}": str(value) for name, value in event.items()}
    yield own, "/events", {"content-type": JSON, **headers}, json.dumps(data).encode()
    signed = {"x-mlflow-delivery-id": own, "x-mlflow-signature": "v1,x", "x-mlflow-timestamp": str(int(time.time()))}
    yield own, "/webhooks/mlflow", {"content-type": JSON, **signed}, b"{}"


NASTY = [
    b"\0", b"\xff", b"\xed\xa0\x80", b'"\\ud800"', b'"\\u0000"', b"NaN", b"Infinity", b"-1e999", b"1" * 400, b"1e400",
    b"null", b"true", b"[]", b"{}", b'""', b"[" * 300, b'{"a":' * 300, b'"9999-12-31T23:59:59-23:59"',
    b"18446744073709551616", b'"0001-01-01T00:00:00+23:59"', b"-9223372036854775809", b'"' + b"x" * 3000 + b'"',
    b",", b":", b'"', b"\r\n", b"\\",
]  # fmt: skip
VALUES = [
    None, True, 0, -1, 2**31, 2**63, 2**70, 0.5, 1e308, float("nan"), float("inf"), "", "x" * 600, "\ud800", "a\0b",
    [], {}, [[]], [None], {"a": 1}, [{}, "x"], "2026-03-01", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00+23:59",
    "0", "\U0001f600", 1e-320,
]  # fmt: skip
WORDS = [
    "",
    "x",
    "\0",
    "%00",
    "é",
    "\x7f",
    "1e400",
    "-1",
    "9" * 30,
    "[",
    '["\\ud800"]',
    '["a\\u0000"]',
    "a, b",
    "../..",
    "x" * 5000,
]
NAMES = [
    "content-type", "content-encoding", "x-prediction-id", "x-key-customer", "x-key-month", "x-request-id",
    "ce-id", "ce-type", "ce-time", "ce-requestid", "ce-modelid", "ce-inferenceservicename",
    "inference-header-content-length", "authorization", "traceparent", "x-mlflow-timestamp",
    "x-mlflow-signature", "host", "origin", "content-length",
]  # fmt: skip
TYPES = [
    JSON,
    CSV,
    PARQUET,
    STREAM,
    "application/x-ndjson",
    "application/octet-stream",
    "application/cloudevents+json",
    "text/plain",
    "text/csv; charset=latin1",
]
QUERIES = [
    "",
    "on_error=skip",
    "on_error=",
    "version=1",
    "version=../..",
    "version=%00",
    "version=9",
    "&" * 50,
    "%ff=%ff",
    "on_error=skip&on_error=refuse",
]


def changed_json(random, content):
    """The same with a node in the place of another."""
    if random.random() < 0.3 or not isinstance(content, list | dict) or not content:
        return random.choice(VALUES)
    if isinstance(content, dict):
        name = random.choice([*content])
        if random.random() < 0.15:
            return {
                **content,
                random.choice([*content, "x", "", "\ud800", "occurred_at", "predictions"]): random.choice(VALUES),
            }
        return {**content, name: changed_json(random, content[name])}
    place = random.randrange(len(content))
    return [*content[:place], changed_json(random, content[place]), *content[place + random.randrange(2) :]]


def changed_bytes(random, body):
    for _ in range(random.choice([1, 1, 2, 8])):
        start, end = sorted(random.randrange(len(body) + 1) for _ in range(2))
        end = min(end, start + random.choice([0, 1, 4, 40]))
        new = random.choice(
            [random.choice(NASTY), random.randbytes(random.randrange(1, 9)), body[start:end] * 3, b""]
        )
        body = body[:start] + new + body[end:]
    return body[: random.randrange(len(body) + 1)] if random.random() < 0.1 else body


def changed(random, path, headers, body):
    """A request that is nearly right, and in how many ways it is not."""
    query, method, headers = "", "POST", {"host": "localhost", **headers}
    for _ in range(random.choice([0, 1, 1, 1, 2, 3])):
        way = random.random()
        if way < 0.4 and body[:1] in b"{[" and body:
            try:
                body = json.dumps(changed_json(random, json.loads(body))).encode()
            except ValueError:
                body = changed_bytes(random, body)
        elif way < 0.7:
            body = changed_bytes(random, body)
        elif way < 0.9:
            name = random.choice(NAMES)
            headers[name] = random.choice(TYPES if name == "content-type" else [*WORDS, *headers.values()])
        elif way < 0.95:
            query = random.choice(QUERIES)
        else:
            path = random.choice(
                [path + "/", path.replace("churn", random.choice(WORDS)), path + random.choice(WORDS)]
            )
            method = random.choice(["POST", "POST", "PUT", "GET", "HEAD", "OPTIONS", "\xff"])
    return method, path, headers, body, query


def play(served, count, seed):
    app, settings, store, events = served
    drawn = random.Random(seed)
    sent = (each for _ in itertools.count() for each in requests_of(drawn))
    statuses, right, faults = {}, 0, []
    for _ in range(0, count, TOGETHER):
        batch = []
        for own, path, headers, body in itertools.islice(sent, TOGETHER):
            plain = {"host": "localhost", **headers}, body
            made = changed(drawn, path, headers, body)
            exchange = Exchange(*made, in_parts=drawn.random() < 0.2)
            batch.append((own, made == ("POST", path, *plain, ""), exchange))

        async def together(exchanges):
            await asyncio.gather(*(app.__rsgi__(each.scope, each) for each in exchanges))

        events.run_until_complete(together([exchange for _, _, exchange in batch]))
        for own, is_right, exchange in batch:
            ((status, body),) = exchange.answers
            said = (exchange.scope.method, exchange.scope.path, dict(exchange.scope.headers), exchange.body, body)
            if status >= 500:
                faults.append(said)
            others = [other for other, _, _ in batch if other != own and other.encode() not in exchange.body]
            assert not any(other.encode() in body for other in others), said
            if is_right and ("invocations" in exchange.scope.path or exchange.scope.path.endswith("/infer")):
                assert status in (200, 404), said
                assert status == 404 or own.encode() in body, said
                right += status == 200
            statuses[status] = statuses.get(status, 0) + 1
    assert not faults, (len(faults), faults[:3])
    assert {200, 202, 400} <= statuses.keys()
    assert right > count / 20
    folder = settings.path(settings.capture.folder)
    Forwarder(folder, PredictionLog(store), store, system_clock, settings.capture).drain()
    assert put_aside(folder) == {}
    assert count_outcomes(store, "churn") > 0


def test_no_bytes_and_no_headers_are_a_fault_of_the_server(served):
    play(served, 400, seed=0)


@pytest.mark.statistics
@pytest.mark.parametrize("seed", range(1, 6))
def test_no_bytes_and_no_headers_are_a_fault_of_the_server_however_many_there_are(served, seed):
    play(served, 6_000, seed)


def bombs():
    outcomes = "/models/churn/outcomes"
    found = [(outcomes, STREAM, make()) for make in ARROW.values()]
    found += [("/invocations", PARQUET, make()) for make in FILES.values()]
    found += [("/invocations", kind, text.encode()) for kind, text in (make() for make in TEXTS.values())]
    found.append((outcomes, JSON, json.dumps([{"customer": "x"}] * 100_000).encode()))
    bad = json.dumps([{"customer": "x", "churned": True}] * 20_000).encode()
    return [*found, (f"{outcomes}?on_error=skip", JSON, bad)]


@pytest.mark.parametrize("served", ["sqlite"], indirect=True)
def test_memory_is_given_back_after_each_bomb(served):
    app, _, _, events = served
    process, made, before = psutil.Process(), bombs(), 0
    for url, kind, body in [made[0], *made]:
        path, _, query = url.partition("?")
        exchange = Exchange("POST", path, {"host": "localhost", "content-type": kind}, body, query)
        events.run_until_complete(app.__rsgi__(exchange.scope, exchange))
        assert exchange.answers[0][0] in (200, 400, 413), (path, kind, exchange.answers[0][1][:200])
        gc.collect()
        now = process.memory_info().rss
        before = before or now
        assert now <= 1.2 * before, (path, kind, body[:60], before, now)
