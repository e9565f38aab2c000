"""The server as a real process, over real HTTP."""

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.schema import prediction_ids
from feedback_loop.store import predictions
from feedback_loop.store.coverage import count_outcomes
from tests.builders import churn_loop, customers, register_churn
from tests.integration.processes import call, end, server, wait_until

RECORD = {"age": 40.0, "plan": "pro", "customer": 1, "month": "2026-03"}


@pytest.fixture
def clock():
    return ManualClock(datetime.now(UTC))


@pytest.fixture(scope="module")
def shared(tmp_path_factory, warm):
    """One loop and one server for the tests that only ask: they count what they added."""
    folder = tmp_path_factory.mktemp("server")
    made = churn_loop(folder, ManualClock(datetime.now(UTC)))
    with server(folder / "feedback_loop.toml", log=folder / "server.log", warm=warm) as (port, _):
        yield made, port
    made.close()


@pytest.fixture
def served(shared):
    return shared[0]


@pytest.fixture
def port(shared):
    return shared[1]


def count(loop):
    """The rows in the store, once all that was answered is there."""
    loop.forward()
    return sum(predictions.count_predictions(loop.store, "churn").values())


def test_every_format_is_answered_as_scikit_learn_would_and_logged(served, port):
    import pandas as pd

    before = count(served)
    rows = pd.DataFrame(customers(5, 3))[["age", "plan"]]
    model = served.scorer(served.champion("churn")).loaded.estimator
    expected = model.predict(rows).tolist()
    split = {"columns": ["age", "plan"], "data": rows.to_numpy().tolist()}
    bodies = [
        {"dataframe_split": split},
        {"dataframe_records": rows.to_dict(orient="records")},
        {"instances": rows.to_dict(orient="records")},
        {"inputs": rows.to_dict(orient="list")},
    ]
    for body in bodies:
        status, answer, _ = call(port, "POST", "/invocations", body)
        assert (status, answer["predictions"]) == (200, expected)
        assert len(set(answer["prediction_ids"])) == 5
        assert answer["model_version"] == "1"
    text = rows.to_csv(index=False)
    status, answer, _ = call(port, "POST", "/models/churn/invocations", text, {"content-type": "text/csv"})
    assert (status, answer["predictions"]) == (200, expected)
    assert count(served) - before == 25


def test_health_and_version_are_mlflows(port):
    import mlflow

    assert call(port, "GET", "/ping")[:2] == (200, b"\n")
    assert call(port, "GET", "/health")[:2] == (200, b"\n")
    assert call(port, "GET", "/version")[1] == mlflow.__version__.encode()


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "said"),
    [
        ("POST", "/invocations", b"{", {}, 400, "valid JSON formatted string"),
        ("POST", "/invocations", {"instances": [[1]]}, {}, 400, "missing inputs ['age', 'plan']"),
        ("POST", "/invocations", {"dataframe_records": [{"age": 1.0}]}, {}, 400, "missing inputs ['plan']"),
        (
            "POST",
            "/invocations",
            {"dataframe_records": [{**RECORD, "age": "old"}]},
            {},
            400,
            "Failed to convert column age",
        ),
        (
            "POST",
            "/invocations",
            {"dataframe_records": [{**RECORD, "age": None}]},
            {},
            400,
            "unexpected error while evaluating",
        ),
        (
            "POST",
            "/invocations",
            {"dataframe_records": [RECORD], "prediction_ids": ["x"]},
            {},
            400,
            "prediction_id: 'x' is not a UUID",
        ),
        ("GET", "/invocations", None, {}, 405, "Use POST"),
        ("GET", "/nothing", None, {}, 404, "There is no /nothing"),
        ("POST", "/models/other/invocations", {}, {}, 404, "Served: churn"),
        ("POST", "/models/churn/outcomes", b"[[]]", {}, 400, "not a list of objects"),
        ("POST", "/models/churn/outcomes", {"outcomes": [{"churned": True}]}, {}, 400, "names no prediction"),
    ],
)
def test_a_wrong_request_says_what_was_expected(served, port, method, path, body, headers, status, said):
    before = count(served)
    found, answer, _ = call(port, method, path, body, headers)
    assert found == status
    assert said in answer["message"]
    assert answer["error_code"]
    assert count(served) == before


def test_too_large_a_body_is_refused_and_the_server_goes_on(loop, tmp_path, warm):
    settings = {"FEEDBACK_LOOP_SERVING__MAX_BODY_BYTES": "2000"}
    with server(tmp_path / "feedback_loop.toml", log=tmp_path / "server.log", warm=warm, **settings) as (port, _):
        rows = {"dataframe_records": [RECORD] * 100}
        status, answer, _ = call(port, "POST", "/invocations", rows)
        assert status == 413
        assert "2,000 bytes" in answer["message"]
        assert call(port, "POST", "/invocations", {"dataframe_records": [RECORD]})[0] == 200


def test_a_call_that_is_sent_again_with_its_ids_is_logged_once(served, port):
    own = [str(each) for each in prediction_ids(datetime.now(UTC), 3)]
    body = {"dataframe_records": [RECORD] * 3, "prediction_ids": own}
    before = count(served)
    answers = [call(port, "POST", "/invocations", body) for _ in range(2)]
    assert [(status, answer["prediction_ids"]) for status, answer, _ in answers] == [(200, own)] * 2
    assert count(served) - before == 3


def test_outcomes_come_in_over_http_and_a_retry_changes_nothing(served, port):
    record = {**RECORD, "month": "outcomes"}
    call(port, "POST", "/invocations", {"dataframe_records": [record]})
    served.forward()  # else the outcome of a prediction that is still in the spool is early
    before = count_outcomes(served.store, "churn")
    body = {
        "outcomes": [
            {"customer": 1, "month": "outcomes", "churned": True},
            {"customer": 2, "month": "outcomes", "churned": False},
        ]
    }
    status, answer, _ = call(port, "POST", "/models/churn/outcomes", body)
    counts = {"received": 2, "new": 2, "corrected": 0, "unchanged": 0, "unmatched": 1, "erased": 0}
    assert (status, answer) == (200, counts)
    assert call(port, "POST", "/models/churn/outcomes", body)[1]["unchanged"] == 2
    actions = {"actions": [{"customer": 1, "month": "outcomes", "propensity": 0.5}]}
    status, answer, _ = call(port, "POST", "/models/churn/actions", actions)
    assert (status, answer) == (200, counts | {"received": 1, "new": 1, "unmatched": 0})
    assert count_outcomes(served.store, "churn") - before == 2


def test_many_callers_at_once_get_their_own_answers_and_every_row_is_there(served, port):
    import numpy as np

    ages = np.random.default_rng(0).uniform(18, 90, 200)
    model = served.scorer(served.champion("churn")).loaded.estimator
    import pandas as pd

    expected = model.predict(pd.DataFrame({"age": ages, "plan": "pro"})).tolist()

    def ask(place):
        record = {**RECORD, "age": float(ages[place]), "customer": place, "month": "many"}
        status, answer, _ = call(
            port, "POST", "/invocations", {"dataframe_records": [record]}, {"x-request-id": f"r{place}"}
        )
        assert status == 200
        return answer["predictions"][0], answer["prediction_ids"][0]

    with ThreadPoolExecutor(16) as callers:
        answers = list(callers.map(ask, range(200)))
    assert [answer for answer, _ in answers] == expected
    assert len({identifier for _, identifier in answers}) == 200
    served.forward()
    with served.store.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT customer, prediction_id, request_id, source, latency_us FROM predictions_churn "
            "WHERE month = 'many'"
        ).all()
    assert {(row[0], row[1]) for row in rows} == {(place, answers[place][1]) for place in range(200)}
    assert {row[2] for row in rows} == {f"r{place}" for place in range(200)}
    assert {row[3] for row in rows} == {"online"}
    assert all(row[4] > 0 for row in rows)


def test_a_bad_request_does_not_spoil_the_ones_that_came_with_it(served, port):
    before = count(served)
    good = {"dataframe_records": [RECORD]}
    bad = {"dataframe_records": [{**RECORD, "age": None}]}
    with ThreadPoolExecutor(16) as callers:
        statuses = list(
            callers.map(lambda n: call(port, "POST", "/invocations", bad if n % 4 == 0 else good)[0], range(80))
        )
    assert statuses == [400 if place % 4 == 0 else 200 for place in range(80)]
    assert count(served) - before == 60


def test_a_promotion_reaches_the_server_without_a_failed_answer(loop, tmp_path, clock, warm):
    settings = {"FEEDBACK_LOOP_SERVING__POLL_ALIAS": "1s"}
    log = tmp_path / "server.log"
    with server(tmp_path / "feedback_loop.toml", log=log, warm=warm, **settings) as (port, process):
        stop, seen = threading.Event(), []

        def ask():
            while not stop.is_set():
                status, answer, _ = call(port, "POST", "/invocations", {"dataframe_records": [RECORD]})
                seen.append((status, answer.get("model_version")))

        caller = threading.Thread(target=ask)
        caller.start()
        loop.promote("churn", register_churn(loop.registry, clock(), seed=4).version)
        wait_until(lambda: (200, "2") in seen, process, log)
        stop.set()
        caller.join()
    versions = [version for _, version in seen]
    assert {status for status, _ in seen} == {200}
    assert versions == sorted(versions)
    by_version = predictions.count_predictions(loop.store, "churn")
    assert by_version["1", "champion", "online"] == versions.count("1")
    assert by_version["2", "champion", "online"] == versions.count("2")


def test_a_request_that_is_in_flight_when_the_server_is_told_to_stop_is_answered(loop, tmp_path, warm):
    log = tmp_path / "server.log"
    with server(tmp_path / "feedback_loop.toml", log=log, warm=warm) as (port, process):
        rows = {"dataframe_records": [RECORD] * 20_000}
        with ThreadPoolExecutor(1) as caller:
            answer = caller.submit(call, port, "POST", "/invocations", rows)
            wait_until(answer.running, process, log)
            threading.Event().wait(0.3)
            code = end(process)
            assert answer.result()[0] == 200
        assert code == 0
    assert count(loop) == 20_000


def test_a_server_without_a_champion_says_so_and_ends(mlflow_uri, tmp_path, warm):
    from tests.builders import write_config

    command = [warm / "feedback-loop", "serve", "churn", "--config", str(write_config(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert "There is no model with that alias 'churn@champion'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_refused_and_not_shared_with_another_server(served, port, warm):
    config = served.settings.home / "feedback_loop.toml"
    command = [warm / "feedback-loop", "serve", "churn", "--config", str(config), "--port", str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert f"Nothing can be served at 127.0.0.1:{port}: Address already in use." in done.stderr


def test_a_server_that_starts_while_store_and_registry_are_away_answers_from_what_is_local(loop, tmp_path, warm):
    config, log = tmp_path / "feedback_loop.toml", tmp_path / "server.log"
    with server(config, log=log, warm=warm) as (port, _):
        assert call(port, "POST", "/invocations", {"dataframe_records": [RECORD]})[0] == 200
    said = config.read_text()
    away = said.replace("sqlite:///store.db", "postgresql://nobody@127.0.0.1:1/nothing")
    config.write_text(away.replace(loop.registry.name, "http://127.0.0.1:1"))
    with server(config, log=log, warm=warm) as (port, process):
        answers = [call(port, "POST", "/invocations", {"dataframe_records": [RECORD]}) for _ in range(3)]
        wait_until(lambda: "rows wait" in log.read_text(), process, log)
    assert "stager ended" not in log.read_text()
    assert [status for status, _, _ in answers] == [200] * 3
    config.write_text(said)
    assert count(loop) == 4


def test_time_in_answers_is_the_clocks(loop, tmp_path, warm):
    start = datetime(2025, 1, 1, tzinfo=UTC)
    arguments = ("--clock-start", start.isoformat())
    with server(tmp_path / "feedback_loop.toml", *arguments, log=tmp_path / "server.log", warm=warm) as (port, _):
        call(port, "POST", "/invocations", {"dataframe_records": [RECORD]})
    first, _ = predictions.predicted_span(loop.store, "churn")
    assert start <= first < start + timedelta(minutes=5)


def test_a_model_that_can_not_be_served_leaves_the_others_and_is_named(churn_home, tmp_path, warm):
    text = (churn_home / "feedback_loop.toml").read_text().replace("sqlite:///", f"sqlite:///{churn_home}/")
    config = tmp_path / "feedback_loop.toml"
    config.write_text(text + '[models.other]\ntask = "regression"\nlabel = "y"\n')
    body = {"dataframe_records": [RECORD]}
    with server(config, "other", log=tmp_path / "server.log", warm=warm) as (port, _):
        assert call(port, "POST", "/models/churn/invocations", body)[0] == 200
        assert call(port, "POST", "/models/other/invocations", body)[0] == 503
        status, ready, _ = call(port, "GET", "/ready")
        assert (status, ready["models"], ready["not_served"]) == (200, {"churn": "1", "other": None}, ["other"])
        assert call(port, "GET", "/openapi.json")[0] == 200
    assert "Traceback" not in (tmp_path / "server.log").read_text()
