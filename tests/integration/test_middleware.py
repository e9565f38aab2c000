"""The middleware around MLflow's own scoring server, with a real model of a real registry."""

import asyncio
import http.client
import json
from datetime import UTC, datetime

import httpx
import pandas as pd
import pytest

from feedback_loop import CaptureMiddleware
from feedback_loop.capture import Client, Deployments, Spool, SpoolView
from feedback_loop.clock import ManualClock, Window
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.errors import Unavailable
from feedback_loop.store.predictions import count_predictions, read_labelled
from tests.builders import customers
from tests.integration.processes import call, free_port, kill_all, running, wait_until

RECORD = {"age": 40.0, "plan": "pro", "customer": 1, "month": "2026-03"}
JSON = {"content-type": "application/json"}
ALWAYS = Window(datetime(2020, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC))


@pytest.fixture
def pyfunc(loop):
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(loop.scorer(loop.champion("churn")).loaded.path))


@pytest.fixture
def scoring_server(pyfunc, monkeypatch):
    from mlflow.pyfunc import scoring_server

    monkeypatch.setenv("__MLFLOW_IS_IN_SERVING_ENVIRONMENT", "false")  # what the next line sets ends with the test
    return scoring_server.init(pyfunc)


def ask(app, *requests, **options):
    """Sends requests (body, headers) to the application; returns the answers."""

    async def go():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return [
                await client.post(options.get("path", "/invocations"), content=body, headers=headers)
                for body, headers in requests
            ]

    return asyncio.run(go())


def logged(loop):
    loop.forward()
    version = loop.champion("churn")
    return read_labelled(loop.store, loop.scorer(version).contract, ALWAYS).to_pylist()


def count(loop):
    loop.forward()
    return sum(count_predictions(loop.store, "churn").values())


class Away:
    def append(self, *_):
        raise Unavailable("database", "it is away")


class Broken:
    def append(self, *_):
        raise ZeroDivisionError


def client_into(loop, sink):
    return Client(Deployments(loop.context.deployed, loop.settings.serving.poll_alias), sink, loop.clock)


def test_every_format_is_logged_with_mlflows_own_answer_untouched(loop, scoring_server):
    app = CaptureMiddleware(scoring_server, loop.capture_client(), model="churn")
    frame = pd.DataFrame(customers(3, 3))[["age", "plan"]]
    bodies = [
        {"dataframe_split": frame.to_dict(orient="split")},
        {"dataframe_records": frame.assign(customer=7, month="m").to_dict(orient="records")},
        {"instances": frame.to_dict(orient="records")},
        {"inputs": frame.to_dict(orient="list")},
    ]
    requests = [(json.dumps(body).encode(), JSON) for body in bodies]
    requests.append((frame.to_csv(index=False).encode(), {"content-type": "text/csv"}))
    requests.append((frame.to_parquet(index=False), {"content-type": "application/vnd.apache.parquet"}))
    bare, captured = ask(scoring_server, *requests), ask(app, *requests)
    assert [answer.status_code for answer in captured] == [200] * 6
    assert [answer.content for answer in captured] == [answer.content for answer in bare]
    rows = {row["prediction_id"]: row for row in logged(loop)}
    assert len(rows) == 18
    for answer in captured:
        ids = answer.headers["x-prediction-ids"].split(",")
        assert [rows[each]["prediction"] for each in ids] == answer.json()["predictions"]
        assert [rows[each]["age"] for each in ids] == frame["age"].tolist()
        assert {rows[each]["source"] for each in ids} == {"external"}
        assert all(rows[each]["latency_us"] > 0 for each in ids)
    keyed = [rows[each]["customer"] for each in captured[1].headers["x-prediction-ids"].split(",")]
    assert keyed == [7, 7, 7]
    assert app.counts.logged == 6


def test_the_version_and_the_request_are_written_beside(loop, scoring_server, clock):
    from tests.builders import register_churn

    app = CaptureMiddleware(scoring_server, loop.capture_client(), model="churn", version="1")
    loop.promote("churn", register_churn(loop.registry, clock(), seed=4).version)  # not what this server has loaded
    ask(app, (json.dumps({"dataframe_records": [RECORD]}).encode(), {**JSON, "x-request-id": "r1"}))
    (row,) = logged(loop)
    assert (row["model_version"], row["request_id"], row["predicted_at"]) == ("1", "r1", clock())


def test_what_is_no_answer_goes_through_and_is_not_logged(loop, scoring_server):
    app = CaptureMiddleware(scoring_server, loop.capture_client(), model="churn")
    (bad,) = ask(app, (b'{"dataframe_records": [{"age": "old"}]}', JSON))
    assert (bad.status_code, bad.json()["error_code"]) == (400, "BAD_REQUEST")
    (elsewhere,) = ask(app, (b"{}", JSON), path="/nothing")
    assert elsewhere.status_code == 404

    async def ping():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get("/ping")

    assert asyncio.run(ping()).status_code == 200
    assert count(loop) == 0
    assert (app.counts.logged, app.counts.missed, app.counts.refused) == (0, 0, 0)


@pytest.mark.parametrize("sink", [Away, Broken])
def test_an_answer_that_can_not_be_logged_is_not_given_or_counted_as_is_wanted(loop, scoring_server, sink):
    client, request = client_into(loop, sink()), (json.dumps({"dataframe_records": [RECORD]}).encode(), JSON)
    refusing = CaptureMiddleware(scoring_server, client, model="churn")
    (answer,) = ask(refusing, request)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "could not be logged" in answer.json()["message"]
    assert refusing.counts.refused == 1
    passing = CaptureMiddleware(scoring_server, client, model="churn", on_error="pass")
    (answer,) = ask(passing, request)
    assert (answer.status_code, len(answer.json()["predictions"])) == (200, 1)
    assert "x-prediction-ids" not in answer.headers
    assert (passing.counts.missed, passing.counts.logged) == (1, 0)


def test_answers_that_left_unlogged_are_in_the_accounts_that_everybody_sees(loop, scoring_server):
    client = loop.capture_client()
    app = CaptureMiddleware(scoring_server, client, model="churn", on_error="pass", most_bytes=1000)
    small = json.dumps({"dataframe_records": [RECORD] * 2}).encode()
    large = json.dumps({"dataframe_records": [RECORD] * 200}).encode()
    assert [answer.status_code for answer in ask(app, (small, JSON), (large, JSON))] == [200, 200]
    client.close()
    (account,) = loop.accounts("churn")
    # How many rows the large one had was not read: one at least.
    assert (account.answered, account.spooled, account.stored, account.dropped) == (3, 2, 2, 1)


@pytest.mark.parametrize(("on_error", "status"), [("pass", 200), ("refuse", 503)])
def test_rows_that_a_full_spool_turns_away_are_in_one_account_and_never_in_two(
    loop, scoring_server, clock, on_error, status
):
    """The counter of refused rows only ever grows: what a server showed once is never taken back."""
    spool = Spool(loop.context.spools, CaptureSettings(max_bytes=1), lambda _: LogSettings())
    counted = []

    class Watched:
        def count(self, model, **rows):
            counted.append(rows)
            spool.count(model, **rows)

    found = Deployments(loop.context.deployed, loop.settings.serving.poll_alias)
    client = Client(found, SpoolView(spool, counts=False), clock, accounts=Watched())
    app = CaptureMiddleware(scoring_server, client, model="churn", on_error=on_error)
    (answer,) = ask(app, (json.dumps({"dataframe_records": [RECORD] * 3}).encode(), JSON))
    counts = spool.counts()["churn"]
    with pytest.raises(Unavailable):
        client.log("churn", {"age": [30.0], "plan": ["pro"]}, [True])
    refused = spool.counts()["churn"].refused
    spool.close()
    assert answer.status_code == status
    left = (counts.answered, counts.dropped, counts.refused, counts.spooled)
    assert left == ((3, 3, 0, 0) if on_error == "pass" else (0, 0, 3, 0))
    assert refused == counts.refused + 1
    assert all(rows >= 0 for each in counted for rows in each.values())


def test_an_answer_in_many_parts_is_logged_whole_or_passed_on_as_it_comes(loop):
    parts = [b'{"predictions": [', b"true", b", ", b"false", b"]}"]

    async def application(scope, receive, send):
        while (await receive()).get("more_body"):
            continue
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    body = json.dumps({"instances": [[30.0, "pro"], [40.0, "pro"]]}).encode()
    app = CaptureMiddleware(application, loop.capture_client(), model="churn")
    (answer,) = ask(app, (body, JSON))
    assert (answer.content, answer.headers["x-own"]) == (b"".join(parts), "1")
    assert len(answer.headers["x-prediction-ids"].split(",")) == count(loop) == 2
    limits = {"most_bytes": 18, "on_error": "pass"}
    small = CaptureMiddleware(application, loop.capture_client(), model="churn", **limits)
    assert ask(small, (body, JSON))[0].content == b"".join(parts)
    refusing = CaptureMiddleware(application, loop.capture_client(), model="churn", most_bytes=18)
    assert ask(refusing, (body, JSON))[0].status_code == 503
    assert count(loop) == 2


def test_more_ids_than_a_header_takes_are_left_to_the_key(loop, scoring_server):
    app = CaptureMiddleware(scoring_server, loop.capture_client(), model="churn")
    (answer,) = ask(app, (json.dumps({"dataframe_records": [RECORD] * 101}).encode(), JSON))
    assert "x-prediction-ids" not in answer.headers
    assert count(loop) == 101


def test_other_kinds_of_connections_reach_the_application():
    seen = []

    async def application(scope, receive, send):
        seen.append(scope["type"])

    app = CaptureMiddleware(application, None, model="churn")
    asyncio.run(app({"type": "lifespan"}, None, None))
    asyncio.run(app({"type": "websocket", "path": "/invocations"}, None, None))
    assert seen == ["lifespan", "websocket"]


SERVER = """
import sys
import mlflow.pyfunc
import uvicorn
from mlflow.pyfunc import scoring_server
from feedback_loop import open_client
from feedback_loop.capture import CaptureMiddleware

config, path, port = sys.argv[1:]
app = scoring_server.init(mlflow.pyfunc.load_model(path))
captured = CaptureMiddleware(app, open_client(config), model="churn", version="1")
uvicorn.run(captured, port=int(port), log_level="warning")
"""


def test_every_acknowledged_row_is_there_after_the_server_is_killed(loop, warm, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    (tmp_path / "serve.py").write_text(SERVER)
    path, port, log = loop.scorer(loop.champion("churn")).loaded.path, free_port(), tmp_path / "server.log"
    command = [warm / "python", tmp_path / "serve.py", tmp_path / "feedback_loop.toml", path, str(port)]
    acknowledged = []

    def asks():
        for _ in range(1000):
            try:
                status, _, headers = call(port, "POST", "/invocations", {"dataframe_records": [RECORD]})
            except (OSError, http.client.HTTPException):  # the server is gone
                return
            assert status == 200
            acknowledged.append(headers["x-prediction-ids"])

    with running(command, log) as process:
        wait_until(lambda: call(port, "GET", "/ping")[0] == 200, process, log)
        with ThreadPoolExecutor(4) as callers:
            for _ in range(4):
                callers.submit(asks)
            wait_until(lambda: len(acknowledged) >= 40, process, log)
            kill_all(process, log)
    stored = {row["prediction_id"] for row in logged(loop)}
    assert len(acknowledged) >= 40
    assert set(acknowledged) <= stored


def test_a_client_opened_by_its_configuration_logs_and_closes(loop, tmp_path, clock):
    import feedback_loop

    with feedback_loop.open_client(tmp_path / "feedback_loop.toml", clock=ManualClock(clock())) as client:
        assert client.deployed("churn").version == "1"
        ids = client.log("churn", pd.DataFrame([RECORD]), [0.5])
    (row,) = logged(loop)
    assert [row["prediction_id"]] == ids
    assert (row["customer"], row["prediction"], row["probability"]) == (1, None, 0.5)
