"""Guards of the server as a real process: keys and scopes, readiness, and pickles that nobody opens."""

import base64
import http.client
import io
import json
import pickle
import secrets
import socket
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.store import keys
from feedback_loop.store.keys import Scope
from tests.builders import open_loop
from tests.integration.processes import call, server, wait_until

RECORD = {"age": 40.0, "plan": "pro", "customer": 1, "month": "2026-03"}
BODY = {"dataframe_records": [RECORD]}
OUTCOMES = {"outcomes": [{"customer": 1, "month": "2026-03", "churned": True}]}
EVENT = {"ce-type": "org.kubeflow.serving.inference.request", "ce-id": "guarded"}

MOST_CONNECTIONS = 20
MANY = 1_100  # half heads of one address once held a server for ten seconds

ROUTES = [
    ("POST", "/invocations", BODY, {}, "predict"),
    ("POST", "/models/churn/invocations", BODY, {}, "predict"),
    ("POST", "/models/churn/events", BODY, EVENT, "predict"),
    ("POST", "/models/churn/outcomes", OUTCOMES, {}, "outcomes"),
    ("GET", "/metrics", None, {}, "read"),
    ("GET", "/openapi.json", None, {}, "read"),
    ("GET", "/v2/models/churn", None, {}, "read"),
    ("GET", "/v2/models/churn/ready", None, {}, "read"),
]


@pytest.fixture(scope="module")
def guarded(churn_home, tmp_path_factory, warm):
    """A loop, and a server of it that asks for keys."""
    loop = open_loop(churn_home / "feedback_loop.toml", ManualClock(datetime.now(UTC)))
    again = secrets.token_hex(4)  # whoever runs tests in any order may make this fixture twice in one home
    names = {scope: f"only {scope} {again}" for scope in Scope}
    made = {scope.value: keys.create_key(loop.store, name, loop.clock(), [scope]) for scope, name in names.items()}
    settings = {"FEEDBACK_LOOP_SERVING__REQUIRE_KEY": "always", "FEEDBACK_LOOP_SERVING__POLL_ALIAS": "1s"}
    settings["FEEDBACK_LOOP_SERVING__MAX_CONNECTIONS_PER_ADDRESS"] = str(MOST_CONNECTIONS)
    settings["FEEDBACK_LOOP_SERVING__HEADER_TIMEOUT"] = "5m"  # what is closed here is closed by count, not by time
    settings["FEEDBACK_LOOP_SERVING__WEBHOOK_SECRET"] = secrets.token_hex()
    log = tmp_path_factory.mktemp("guards") / "server.log"
    with server(churn_home / "feedback_loop.toml", log=log, warm=warm, **settings) as (port, process):
        yield loop, port, process, log, made
    loop.close()


@pytest.mark.parametrize(("method", "path", "body", "headers", "scope"), ROUTES)
def test_each_route_wants_its_scope(guarded, method, path, body, headers, scope):
    _, port, _, _, made = guarded
    status, answer, told = call(port, method, path, body, headers)
    assert (status, told["www-authenticate"]) == (401, "Bearer")
    assert path.startswith("/v2") or answer["error_code"] == "UNAUTHENTICATED"
    for held, key in made.items():
        status, answer, _ = call(port, method, path, body, {**headers, "authorization": f"Bearer {key}"})
        if held in (scope, "admin"):
            assert status in (200, 202)
        else:
            assert status == 403
            assert path.startswith("/v2") or answer["error_code"] == "PERMISSION_DENIED"


TENSORS = {
    "inputs": [
        {"name": "age", "datatype": "FP64", "shape": [1], "data": [40.0]},
        {"name": "plan", "datatype": "BYTES", "shape": [1], "data": ["pro"]},
    ]
}
OF_MODELS = [
    *((method, path, body, headers) for method, path, body, headers, scope in ROUTES if scope != "read"),
    ("POST", "/endpoints/churn/invocations", BODY, {}),
    ("POST", "/v2/models/churn/infer", TENSORS, {}),
    ("GET", "/v2/models/churn", None, {}),
    ("POST", "/events", BODY, {**EVENT, "ce-inferenceservicename": "churn"}),
]


def test_a_key_is_for_its_models_by_every_verb(guarded):
    loop, port, process, log, _ = guarded
    names = {model: f"{model} {secrets.token_hex(4)}" for model in ("churn", "other")}
    made = {
        model: {"authorization": f"Bearer {keys.create_key(loop.store, name, loop.clock(), [*Scope], [model])}"}
        for model, name in names.items()
    }
    wait_until(lambda: call(port, "POST", "/invocations", BODY, made["churn"])[0] == 200, process, log)
    for method, path, body, headers in OF_MODELS:
        assert call(port, method, path, body, {**headers, **made["churn"]})[0] in (200, 202), path
        status, answer, _ = call(port, method, path, body, {**headers, **made["other"]})
        assert status == 403, path
        assert names["other"] in json.dumps(answer)
    for key in made.values():
        assert call(port, "GET", "/metrics", None, key)[0] == 403
    paths = {model: call(port, "GET", "/openapi.json", None, key)[1]["paths"] for model, key in made.items()}
    assert [any("churn" in path for path in paths[model]) for model in names] == [True, False]
    rows = [{"customer": 77, "month": "2026-03", "churned": True}]
    assert call(port, "POST", "/models/churn/outcomes", {"outcomes": rows}, made["churn"])[0] == 200
    with loop.store.read() as connection:
        sources = connection.exec_driver_sql("SELECT source FROM outcomes_churn WHERE customer = 77").scalars().all()
    assert sources == [f"http:{names['churn']}"]


def test_whether_it_lives_and_is_ready_anybody_may_ask(guarded):
    _, port, _, _, _ = guarded
    assert [call(port, "GET", path)[0] for path in ("/ping", "/health", "/version")] == [200, 200, 200]
    assert call(port, "GET", "/ready")[:2] == (200, {"ready": True, "models": {"churn": "1"}, "reasons": []})


def test_a_key_that_is_revoked_is_refused_without_a_restart(guarded):
    loop, port, process, log, _ = guarded
    key = keys.create_key(loop.store, "short", loop.clock(), [Scope.PREDICT])
    shown = {"authorization": f"Bearer {key}"}
    wait_until(lambda: call(port, "POST", "/invocations", BODY, shown)[0] == 200, process, log)
    keys.revoke_key(loop.store, "short", loop.clock())
    wait_until(lambda: call(port, "POST", "/invocations", BODY, shown)[0] == 401, process, log)


def test_a_server_whose_spool_takes_nothing_says_why_it_is_not_ready(churn_home, tmp_path, warm):
    spool = tmp_path / "spool"
    spool.write_text("in the way")
    settings = {"FEEDBACK_LOOP_CAPTURE__FOLDER": str(spool)}
    with server(churn_home / "feedback_loop.toml", log=tmp_path / "server.log", warm=warm, **settings) as (port, _):
        status, answer, _ = call(port, "GET", "/ready")
        assert (status, answer["ready"], answer["models"]) == (503, False, {"churn": "1"})
        assert "the spool takes no rows" in json.dumps(answer["reasons"])
        assert call(port, "GET", "/health")[0] == 200
        spool.unlink()
        assert call(port, "GET", "/ready")[0] == 200


def test_callers_whose_body_is_not_read_are_told_that_the_connection_ends(guarded):
    _, port, _, _, _ = guarded
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for path, status in [("/invocations", 401), ("/nothing", 404), ("/metrics", 405)] * 20:
            connection.request("POST", path, b"x" * 100_000)
            answer = connection.getresponse()
            answer.read()
            assert (answer.status, answer.getheader("connection")) == (status, "close")


def said_without_a_body(port, path, headers=""):
    """The status of a request whose body of a MiB never comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2**20}\r\n{headers}\r\n".encode()
        )
        return int(connection.recv(100).split()[1])


def test_requests_are_judged_before_their_body_is_read(guarded):
    _, port, _, _, made = guarded
    key = f"Authorization: Bearer {made['admin']}\r\n"
    signed = "x-mlflow-delivery-id: 1\r\nx-mlflow-signature: v1,x\r\nx-mlflow-timestamp: "
    assert said_without_a_body(port, "/webhooks/mlflow") == 401
    assert said_without_a_body(port, "/webhooks/mlflow", f"{signed}100\r\n") == 401
    assert said_without_a_body(port, "/webhooks/mlflow", f"{signed}{int(time.time())}\r\n") == 413
    assert said_without_a_body(port, "/models/other/invocations", key) == 404
    assert said_without_a_body(port, "/models/churn/outcomes", f"{key}Content-Type: text/csv\r\n") == 415


def test_an_address_has_so_many_connections_and_those_that_say_nothing_go_first(guarded):
    _, port, _, _, _ = guarded
    with ExitStack() as opened:
        kept = opened.enter_context(closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)))
        kept.request("GET", "/ping")
        kept.getresponse().read()
        silent = [opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(MANY)]
        for connection in silent:
            connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: ")
            connection.settimeout(5)
        deadline = time.monotonic() + 60
        while sum(is_closed(connection) for connection in silent) < MANY - MOST_CONNECTIONS:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        kept.request("GET", "/ping")
        assert kept.getresponse().status == 200


def is_closed(connection):
    connection.setblocking(False)
    try:
        return connection.recv(100) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


# No pickle that comes in a request is ever loaded: each of these would make a file.

CONTENT_TYPES = [
    "application/json",
    "application/x-ndjson",
    "text/csv",
    "application/vnd.apache.arrow.stream",
    "application/vnd.apache.arrow.file",
    "application/vnd.apache.parquet",
    "application/octet-stream",
    "application/x-pickle",
    "application/python-pickle",
    "application/x-python-serialize",
    "application/cloudevents+json",
    "multipart/form-data; boundary=x",
    "",
]
PATHS = [
    "/invocations",
    "/models/churn/invocations",
    "/models/churn/outcomes",
    "/models/churn/events",
    "/events",
    "/v2/models/churn/infer",
    "/webhooks/mlflow",
    "/ping",
    "/metrics",
]


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def arrow_with(pickled):
    """A table whose schema asks for a type that is unpickled (CVE-2023-47248), and holds pickles as values."""
    asking = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled}
    fields = [pa.field("customer", pa.int64(), metadata=asking), pa.field("churned", pa.binary())]
    schema = pa.schema(fields, metadata={b"pandas": pickled})
    return pa.table({"customer": [1], "churned": [pickled]}, schema=schema)


def bodies(pickled):
    table = arrow_with(pickled)
    stream, file, parquet, array = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    pq.write_table(table, parquet)
    np.save(array, np.array([None], dtype=object), allow_pickle=True)
    text = base64.b64encode(pickled).decode()
    records = f'{{"dataframe_records": [{{"age": 1.0, "plan": "{text}"}}], "outcomes": [{{"churned": "{text}"}}]}}'
    npy = array.getvalue().partition(b"\n")[0] + b"\n" + pickled
    return [pickled, stream.getvalue(), file.getvalue(), parquet.getvalue(), npy, records.encode(), text.encode()]


def test_the_payload_does_what_it_is_feared_for(tmp_path):
    made = pickle.loads(pickle.dumps(Payload(tmp_path / "made")))  # noqa: S301 (our own)
    made.close()
    assert (tmp_path / "made").exists()


def test_no_route_loads_a_pickle_in_any_content_type(guarded, tmp_path):
    _, port, _, _, made = guarded
    shown = {"authorization": f"Bearer {made['admin']}"}
    target = tmp_path / "made"
    statuses = set()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for body in bodies(pickle.dumps(Payload(target))):
            for path in PATHS:
                for content_type in CONTENT_TYPES:
                    headers = {**shown, "ce-type": "org.kubeflow.serving.inference.request", "ce-id": "p"}
                    connection.request("POST", path, body, {**headers, "content-type": content_type})
                    answer = connection.getresponse()
                    said = answer.read()
                    statuses.add(answer.status)
                    assert answer.status < 500, (path, content_type, body[:40], said)
                    assert not target.exists(), (path, content_type, body[:40])
    assert statuses & {400, 415}
    assert call(port, "POST", "/invocations", BODY, shown)[0] == 200
