"""Payload events of KServe and MLServer, sent over HTTP to a real server."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.store import payloads, predictions
from feedback_loop.store.payloads import PayloadAccount
from tests.builders import churn_loop
from tests.integration.processes import call, kill_all, server, wait_until

REQUEST = {"instances": [[40.0, "pro"], [70.0, "basic"]]}
ANSWER = {"predictions": [False, True]}
KSERVE = "org.kubeflow.serving.inference."
SELDON = "io.seldon.serving.inference."


@pytest.fixture
def loop(tmp_path):
    made = churn_loop(tmp_path, ManualClock(datetime.now(UTC)))
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory, warm):
    folder = tmp_path_factory.mktemp("events")
    made = churn_loop(folder, ManualClock(datetime.now(UTC)))
    with server(folder / "feedback_loop.toml", log=folder / "server.log", warm=warm) as (port, _):
        yield made, port
    made.close()


def headers(kind, call_id, **more):
    """What KServe sends, but for what the caller's own request says."""
    said = {
        "ce-specversion": "1.0",
        "ce-type": kind,
        "ce-id": call_id,
        "ce-source": "http://localhost:9081/",
        "ce-time": (datetime.now(UTC) - timedelta(seconds=5)).isoformat().replace("+00:00", "Z"),
        "ce-inferenceservicename": "churn",
        "ce-namespace": "default",
        "ce-component": "predictor",
        "ce-endpoint": "",
    }
    return said | {f"ce-{name}": value for name, value in more.items()}


def count(loop):
    loop.forward()
    return sum(predictions.count_predictions(loop.store, "churn").values())


def test_kserves_two_halves_become_rows_in_either_order(shared):
    loop, port = shared
    before = count(loop)
    for order in ("request", "response"), ("response", "request"):
        call_id = f"kserve-{order[0]}"
        said = []
        for half in (*order, order[0]):
            body = REQUEST if half == "request" else ANSWER
            # KServe passes the caller's content type on: curl's, where none was given.
            kind = {"content-type": "application/x-www-form-urlencoded"}
            status, answer, _ = call(
                port, "POST", "/models/churn/events", json.dumps(body), headers(KSERVE + half, call_id) | kind
            )
            assert status == 202
            said.append(answer["event"])
        assert said == ["waiting", "logged", "known"]
    assert count(loop) - before == 4
    assert predictions.count_predictions(loop.store, "churn")["1", "champion", "external"] >= 4
    with loop.store.read() as connection:
        ages = connection.exec_driver_sql("SELECT age, prediction FROM predictions_churn ORDER BY age").all()
    assert {(age, bool(churned)) for age, churned in ages} >= {(40.0, False), (70.0, True)}


def test_seldons_halves_find_each_other_by_their_request(shared):
    loop, port = shared
    before = count(loop)
    tensors = [
        {"name": "age", "shape": [1], "datatype": "FP64", "data": [40]},
        {"name": "plan", "shape": [1], "datatype": "BYTES", "data": ["pro"]},
    ]
    request = {"inputs": tensors}
    answer = {"outputs": [{"name": "predict_proba", "shape": [1, 2], "datatype": "FP64", "data": [0.25, 0.75]}]}
    for number, (half, body) in enumerate({"request": request, "response": answer}.items()):
        said = headers(SELDON + half, f"own-{number}", requestid="seldon-1", modelid="classifier")
        assert call(port, "POST", "/models/churn/events", body, said)[0] == 202
    assert count(loop) - before == 1


def test_open_inference_and_the_structured_mode_are_taken_too(shared):
    loop, port = shared
    before = count(loop)
    tensors = [
        {"name": "age", "shape": [1], "datatype": "FP64", "data": [40]},
        {"name": "plan", "shape": [1], "datatype": "BYTES", "data": ["pro"]},
    ]
    answer = {"outputs": [{"name": "predict", "shape": [1, 1], "datatype": "BOOL", "data": [True]}]}
    for half, data in ("request", {"inputs": tensors}), ("response", answer):
        event = {"specversion": "1.0", "id": "v2-1", "type": KSERVE + half, "source": "x", "data": data}
        kind = {"content-type": "application/cloudevents+json"}
        # No name in the path and none in the event: the first model that is served.
        assert call(port, "POST", "/events", event, kind)[0] == 202
    assert count(loop) - before == 1


def test_the_service_or_the_path_names_the_model_and_the_path_the_version(shared):
    _, port = shared
    said = headers(KSERVE + "request", "named")
    assert call(port, "POST", "/events", REQUEST, said)[0] == 202
    other = said | {"ce-inferenceservicename": "another"}
    status, answer, _ = call(port, "POST", "/events", REQUEST, other)
    assert (status, "Served: churn" in answer["message"]) == (404, True)
    assert call(port, "POST", "/models/churn/events", REQUEST, other)[0] == 202
    assert (
        call(port, "POST", "/models/churn/events?version=1", ANSWER, headers(KSERVE + "response", "named"))[0] == 202
    )
    status, said, _ = call(port, "POST", "/models/churn/events?version=9", ANSWER, headers(KSERVE + "response", "x"))
    assert (status, "made ready here" in said["message"]) == (404, True)  # whether the registry has it or not


@pytest.mark.parametrize(
    ("body", "changes", "said"),
    [
        (b"{", {}, "is not JSON"),
        ({"instances": [[1]]}, {}, "has 1 values"),
        (REQUEST, {"ce-type": "io.seldon.serving.feedback"}, "is not taken"),
        (REQUEST, {"ce-id": ""}, "ce-id: is missing"),
        (REQUEST, {"ce-time": "soon"}, "RFC 3339"),
        (REQUEST, {"ce-time": "2200-01-01T00:00:00Z"}, "no time of a prediction"),
    ],
)
def test_a_bad_event_is_refused_and_does_not_wait(shared, body, changes, said):
    loop, port = shared
    before = payloads.load_account(loop.store, "churn")
    status, answer, _ = call(port, "POST", "/models/churn/events", body, headers(KSERVE + "request", "bad") | changes)
    assert (status, answer["error_code"]) == (400, "BAD_REQUEST")
    assert said in answer["message"]
    assert payloads.load_account(loop.store, "churn") == before


def test_a_half_that_was_acknowledged_outlives_the_server_and_one_that_stays_alone_expires(loop, tmp_path, warm):
    config, log = tmp_path / "feedback_loop.toml", tmp_path / "server.log"
    with server(config, log=log, warm=warm) as (port, process):
        for call_id in ("met", "alone"):
            said = headers(KSERVE + "request", call_id)
            assert call(port, "POST", "/models/churn/events", REQUEST, said)[0] == 202
        kill_all(process, log)
    with loop.store.write() as connection:  # as if it had waited for hours
        connection.exec_driver_sql(
            "UPDATE fl_payloads SET received_at = '2026-01-01 00:00:00.000000' WHERE event LIKE 'alone%'"
        )
    with server(config, log=log, warm=warm, FEEDBACK_LOOP_SERVING__POLL_ALIAS="1s") as (port, process):
        said = headers(KSERVE + "response", "met")
        status, answer, _ = call(port, "POST", "/models/churn/events", ANSWER, said)
        assert (status, answer["event"]) == (202, "logged")
        wait_until(lambda: payloads.load_account(loop.store, "churn").waiting == 0, process, log)
    assert payloads.load_account(loop.store, "churn") == PayloadAccount(logged=1, expired=1)
    assert count(loop) == 2
    assert "payloads expired" in log.read_text()
