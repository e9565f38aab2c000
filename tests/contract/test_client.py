"""What others predicted, logged by the client, in both databases."""

import asyncio
import threading
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from feedback_loop.capture import (
    AsyncClient,
    Client,
    Deployed,
    Deployments,
    Spool,
)
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.errors import BadInput, Unavailable
from feedback_loop.schema import make_redaction, moment_of, prediction_id
from feedback_loop.store.predictions import PredictionLog, count_predictions
from tests.contract.external import CONTRACT, DAY, NOW, column, rows

FEATURES = {"age": [30.0, 40.0], "plan": ["basic", "pro"]}
KEYS = {"customer": [1, 2], "month": ["m", "m"]}


@pytest.fixture
def client(store, deployments, clock):
    return Client(deployments, PredictionLog(store), clock)


def test_whatever_the_client_was_given_is_in_an_account(sqlite_store, clock, tmp_path):
    def sampled(model, version):
        return Deployed(make_redaction(CONTRACT, {}, b""), "1", sample=0.25)

    spool = Spool(tmp_path, CaptureSettings(), lambda _: LogSettings())
    client = Client(Deployments(sampled, DAY), spool, clock, accounts=spool)
    for customer in range(100):
        client.log("churn", {"age": [30.0], "plan": ["pro"]}, [True], keys={"customer": [customer], "month": ["m"]})
    counts = spool.counts()["churn"]
    spool.close()
    assert counts.answered == 100
    assert 0 < counts.spooled < 100
    assert counts.unsampled == 100 - counts.spooled


def test_what_is_logged_comes_back_as_it_was_given(store, client):
    ids = client.log(
        "churn",
        FEATURES,
        pd.DataFrame({"prediction": [True, False], "probability": [0.9, 0.1]}),
        keys=KEYS,
        predicted_at=[NOW - DAY, NOW - 2 * DAY],
        version="7",
        request_id="r",
        latency_us=[10, 20],
    )
    found = {row["prediction_id"]: row for row in rows(store)}
    assert set(found) == set(ids)
    first = found[ids[0]]
    assert (first["age"], first["plan"], first["customer"], first["month"]) == (30.0, "basic", 1, "m")
    assert (first["prediction"], first["probability"], first["model_version"]) == (True, 0.9, "7")
    assert (first["predicted_at"], moment_of(ids[0])) == (NOW - DAY, NOW - DAY)
    assert (first["request_id"], first["latency_us"], first["source"]) == ("r", 10, "external")
    assert (first["role"], first["sample_weight"]) == ("champion", 1.0)
    assert found[ids[1]]["latency_us"] == 20


@pytest.mark.parametrize(
    "features",
    [
        FEATURES,
        pd.DataFrame(FEATURES),
        pa.table(FEATURES),
        [{"age": 30.0, "plan": "basic"}, {"age": 40.0, "plan": "pro"}],
        [[30.0, "basic"], [40.0, "pro"]],
        [(30.0, "basic"), (40.0, "pro")],
        np.array([[30.0, "basic"], [40.0, "pro"]], dtype=object),
    ],
)
def test_features_may_come_in_any_shape(sqlite_store, deployments, clock, features):
    Client(deployments, PredictionLog(sqlite_store), clock).log("churn", features, [True, False], keys=KEYS)
    assert column(sqlite_store, "age") == [30.0, 40.0]
    assert column(sqlite_store, "plan") == ["basic", "pro"]
    assert column(sqlite_store, "predicted_at") == [NOW, NOW]


def test_a_retry_with_the_same_ids_is_no_second_row_and_changes_nothing(store, client):
    ids = [prediction_id(NOW), prediction_id(NOW)]
    for plan in ("basic", "other"):
        again = {**FEATURES, "plan": [plan, plan]}
        assert client.log("churn", again, [True, False], keys=KEYS, ids=ids) == ids
    assert count_predictions(store, "churn") == {("1", "champion", "external"): 2}
    assert column(store, "plan") == ["basic", "basic"]


def test_after_an_outage_the_same_call_is_made_again_and_every_row_is_there_once(store, deployments, clock):
    class Flickering:
        """A store that keeps what it gets, but whose acknowledgement is lost every other time."""

        def __init__(self):
            self.log, self.calls = PredictionLog(store), 0

        def append(self, contract, table, now):
            self.calls += 1
            if self.calls % 4 == 1:
                raise Unavailable("database", "away before")
            new = self.log.append(contract, table, now)
            if self.calls % 4 == 2:
                raise Unavailable("database", "away after")
            return new

    client, acknowledged = Client(deployments, Flickering(), clock), []
    for place in range(10):
        ids = [prediction_id(NOW)]
        while True:
            try:
                acknowledged += client.log(
                    "churn", [[30.0, "pro"]], [True], keys={"customer": [place], "month": ["m"]}, ids=ids
                )
                break
            except Unavailable:
                continue
    assert sorted(row["prediction_id"] for row in rows(store)) == sorted(acknowledged)
    assert column(store, "customer") == list(range(10))


@pytest.mark.parametrize(
    ("features", "predictions", "options", "said"),
    [
        ({"age": [30.0]}, [True], {}, "plan: is missing"),
        ({"age": ["old"], "plan": ["pro"]}, [True], {}, "row 0: age: 'old' does not fit"),
        (FEATURES, [True], {}, "there are 1 for 2 rows"),
        (FEATURES, [True, False], {"keys": {"customer": [1]}}, "keys: has 1 rows"),
        (FEATURES, [True, False], {"ids": ["x", "y"]}, "row 0: prediction_id: 'x' is not a UUID"),
        (FEATURES, [True, False], {"ids": [prediction_id(NOW)] * 2}, "the same id is given to several rows"),
        (FEATURES, [True, False], {"ids": [prediction_id(NOW)]}, "prediction_id: there are 1 for 2 rows"),
        (FEATURES, [True, False], {"predicted_at": NOW.replace(tzinfo=None)}, "has no time zone"),
        (FEATURES, [True, False], {"predicted_at": NOW + 2 * DAY}, "row 0: predicted_at: is from the future"),
        (FEATURES, [True, False], {"predicted_at": datetime(1999, 1, 1, tzinfo=UTC)}, "is before the year 2000"),
        (FEATURES, [True, False], {"latency_us": 2**40}, "latency_us"),
        ([[30.0]], [True], {}, "row 0: body: has 1 values, where 2 columns"),
    ],
)
def test_bad_rows_are_refused_with_row_and_field_and_nothing_is_logged(
    sqlite_store, deployments, clock, features, predictions, options, said
):
    client = Client(deployments, PredictionLog(sqlite_store), clock)
    with pytest.raises(BadInput) as caught:
        client.log("churn", features, predictions, **options)
    assert said in str(caught.value)
    assert count_predictions(sqlite_store, "churn") == {}


def test_many_threads_and_tasks_lose_nothing_and_double_nothing(store, client):
    logged = []

    def work(thread):
        for place in range(5):
            key = {"customer": [thread * 5 + place], "month": ["m"]}
            logged.extend(client.log("churn", [[30.0, "pro"]], [True], keys=key))

    async def tasks():
        asynchronous = AsyncClient(client)

        async def one(place):
            key = {"customer": [100 + place], "month": ["m"]}
            logged.extend(await asynchronous.log("churn", [[30.0, "pro"]], [True], keys=key))

        await asyncio.gather(*(one(place) for place in range(20)))

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(tasks())
    for thread in threads:
        thread.join()
    assert sorted(row["prediction_id"] for row in rows(store)) == sorted(logged)
    assert column(store, "customer") == [*range(20), *range(100, 120)]


def test_the_event_loop_goes_on_while_rows_become_durable(sqlite_store, deployments, clock):
    class Slow:
        def __init__(self):
            self.may_go_on = threading.Event()

        def append(self, contract, table, now):
            assert self.may_go_on.wait(60)
            return PredictionLog(sqlite_store).append(contract, table, now)

    async def scenario():
        sink, closed = Slow(), []
        async with AsyncClient(Client(deployments, sink, clock, close=lambda: closed.append(True))) as client:
            logging = asyncio.create_task(client.log("churn", [[30.0, "pro"]], [True]))
            await asyncio.sleep(0.05)
            assert not logging.done()
            sink.may_go_on.set()  # the loop was free to do this
            assert len(await logging) == 1
        assert closed == [True]

    asyncio.run(scenario())
    assert count_predictions(sqlite_store, "churn") == {("1", "champion", "external"): 1}


def test_a_context_closes_what_the_client_was_opened_with(sqlite_store, deployments, clock):
    closed = []
    with Client(deployments, PredictionLog(sqlite_store), clock, close=lambda: closed.append(True)) as client:
        assert client.deployed("churn").version == "1"
        assert closed == []
    assert closed == [True]
