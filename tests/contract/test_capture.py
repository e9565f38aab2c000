"""What others predicted, in both databases: by the client, in bulk, and as events of two halves."""

import asyncio
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from feedback_loop.capture import (
    AsyncClient,
    Client,
    Deployed,
    Deployments,
    EventIntake,
    Spool,
    erase_waiting,
    import_predictions,
)
from feedback_loop.capture.importing import CHUNK_ROWS
from feedback_loop.clock import Window
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.errors import BadInput, NotFound, Unavailable
from feedback_loop.progress import Silent
from feedback_loop.schema import as_table, make_redaction, moment_of, prediction_id
from feedback_loop.store import Store, erasure, payloads
from feedback_loop.store.payloads import ErasedPayloads, Half, PayloadAccount
from feedback_loop.store.predictions import PredictionLog, count_predictions, read_labelled
from feedback_loop.store.query import Query
from tests.builders import binary_contract

NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
DAY = timedelta(days=1)
WHOLE = Window(NOW - 400 * DAY, NOW + 400 * DAY)
CONTRACT = binary_contract()
FEATURES = {"age": [30.0, 40.0], "plan": ["basic", "pro"]}
KEYS = {"customer": [1, 2], "month": ["m", "m"]}


def find(model, version):
    if version == "9":
        raise NotFound("model version", f"{model}/9")
    return Deployed(make_redaction(CONTRACT, {}, b""), version or "1")


@pytest.fixture
def deployments():
    return Deployments(find, timedelta(seconds=10))


@pytest.fixture
def client(store, deployments, clock):
    return Client(deployments, PredictionLog(store), clock)


def rows(store):
    return read_labelled(store, CONTRACT, WHOLE).to_pylist()


def column(store, name):
    return read_labelled(store, CONTRACT, WHOLE).sort_by("customer").column(name).to_pylist()


# The client


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
            assert self.may_go_on.wait(10)
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


# In bulk


def answered(count, first=0):
    """A table of what was answered, a minute apart."""
    return pa.table(
        {
            "customer": list(range(first, first + count)),
            "month": ["m"] * count,
            "age": [30.0 + place % 50 for place in range(count)],
            "plan": ["pro"] * count,
            "prediction": [place % 2 == 0 for place in range(count)],
            "probability": [0.5] * count,
            "predicted_at": [NOW - timedelta(minutes=count - place) for place in range(count)],
            "latency_us": [7] * count,
            "unrelated": ["x"] * count,
        }
    )


def bring(store, deployments, *chunks, **options):
    return import_predictions(
        iter(chunks), "churn", deployments, PredictionLog(store), now=NOW, progress=Silent(), **options
    )


def test_every_row_of_every_chunk_is_there_and_a_second_run_changes_nothing(store, deployments):
    chunks = answered(300), answered(200, first=300)
    first = bring(store, deployments, *chunks)
    assert (first.rows, first.logged, first.known, first.skipped, first.versions) == (500, 500, 0, 0, ("1",))
    before = rows(store)
    second = bring(store, deployments, *chunks)
    assert (second.rows, second.logged, second.known) == (500, 0, 500)
    assert rows(store) == before
    assert column(store, "customer") == list(range(500))
    assert {(row["source"], row["latency_us"], row["model_version"]) for row in before} == {("external", 7, "1")}
    assert all(moment_of(row["prediction_id"]) == row["predicted_at"] for row in before)


def test_an_import_that_was_interrupted_is_run_again_and_every_row_is_there_once(store, deployments):
    class Breaking:
        def __init__(self):
            self.log, self.batches = PredictionLog(store), 0

        def append_counted(self, contract, table, now):
            self.batches += 1
            if self.batches == 2:
                raise Unavailable("database", "it went away")
            return self.log.append_counted(contract, table, now)

    table = answered(CHUNK_ROWS + 50)
    with pytest.raises(Unavailable):
        import_predictions(iter([table]), "churn", deployments, Breaking(), now=NOW, progress=Silent())
    assert count_predictions(store, "churn") == {("1", "champion", "external"): CHUNK_ROWS}
    again = bring(store, deployments, table)
    assert (again.logged, again.known) == (50, CHUNK_ROWS)


def test_an_import_without_the_key_is_refused_with_the_column_that_is_nearest(store, deployments):
    table = answered(3).rename_columns(
        ["custmer" if name == "customer" else name for name in answered(1).column_names]
    )
    with pytest.raises(BadInput, match="customer: is missing") as caught:
        bring(store, deployments, table, on_error="skip")
    assert "Is custmer meant to be customer?" in caught.value.cure
    with pytest.raises(BadInput, match="There is month, age, "):
        bring(store, deployments, table.drop_columns(["custmer", "unrelated"]))
    own = pa.array([prediction_id(NOW - DAY), None, prediction_id(NOW - DAY)])
    with pytest.raises(BadInput, match="row 1: customer: is missing, and the row has no prediction_id"):
        bring(store, deployments, table.append_column("prediction_id", own))
    done = bring(store, deployments, table.append_column("prediction_id", own), on_error="skip")
    assert (done.logged, done.skipped) == (2, 1)


def test_an_import_counts_what_was_erased_and_what_is_not_in_the_sample(store, deployments):
    assert bring(store, deployments, answered(50)).logged == 50
    erasure.remember(store, "churn", {"customer": 7}, NOW)
    assert erasure.remove(store, "churn", {"customer": 7}, NOW).predictions == 1
    again = bring(store, deployments, answered(50))
    assert (again.rows, again.logged, again.known, again.erased, again.unsampled) == (50, 0, 49, 1, 0)
    sampled = Deployments(lambda *_: replace(deployments.find("churn"), sample=0.5), DAY)
    done = bring(store, sampled, answered(400, first=1000))
    assert (done.known, done.erased, done.logged + done.unsampled) == (0, 0, 400)
    assert done.unsampled > 0


def test_rows_of_a_query_whose_values_are_of_another_kind_are_left_out(store, deployments):
    rows = answered(4).to_pylist()
    rows[1]["age"], rows[2]["predicted_at"] = "old", 5
    done = bring(store, deployments, as_table(rows), on_error="skip")
    assert (done.logged, [(each.row, each.field) for each in done.problems]) == (2, [(1, "age"), (2, "predicted_at")])


def test_rows_say_their_own_version_and_id(store, deployments):
    own = [prediction_id(NOW - DAY), None, None]
    table = answered(3).append_column("model_version", pa.array([7, None, 8]))
    table = table.append_column("prediction_id", pa.array(own))
    assert bring(store, deployments, table, version="3").versions == ("3", "7", "8")
    assert column(store, "model_version") == ["7", "3", "8"]
    assert column(store, "prediction_id")[0] == own[0]


def test_without_a_key_rows_are_told_apart_by_what_they_hold(store, deployments):
    table = answered(3).drop_columns(["customer", "month"])
    for name in ("customer", "month"):
        table = table.append_column(name, pa.nulls(3))
    same_moment = table.set_column(table.column_names.index("predicted_at"), "predicted_at", [[NOW - DAY] * 3])
    assert bring(store, deployments, same_moment).logged == 3
    assert bring(store, deployments, same_moment).logged == 0
    keyed = answered(1)
    other = keyed.set_column(keyed.column_names.index("age"), "age", [[99.0]])
    assert bring(store, deployments, keyed).logged == 1
    assert bring(store, deployments, other).logged == 0  # the same key, moment and version: the same prediction


def test_text_gives_the_same_rows_as_typed_values(sqlite_store, deployments):
    typed = answered(20)
    texts = pa.table({name: [str(value) for value in typed.column(name).to_pylist()] for name in typed.column_names})
    assert bring(sqlite_store, deployments, typed).logged == 20
    assert bring(sqlite_store, deployments, texts, text=True).logged == 0


def test_zeros_and_ones_are_booleans_where_a_database_has_none(sqlite_store, deployments):
    table = answered(4)
    numbers = table.set_column(table.column_names.index("prediction"), "prediction", [[1, 0, 1, None]])
    bring(sqlite_store, deployments, numbers)
    assert column(sqlite_store, "prediction") == [True, False, True, None]


def bad(table, name, row, value):
    values = table.column(name).to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_a_bad_row_refuses_all_unless_it_may_be_left_out(store, deployments):
    second = bad(bad(answered(100, first=100), "predicted_at", 3, None), "probability", 5, 1.5)
    second = second.append_column("model_version", pa.array(["9" if row == 7 else "1" for row in range(100)]))
    with pytest.raises(BadInput) as caught:
        bring(store, deployments, answered(100), second)
    found = {(problem.row, problem.field) for problem in caught.value.problems}
    assert found == {(103, "predicted_at"), (105, "probability"), (107, "model_version")}
    assert caught.value.total == 3
    assert "--on-error skip" in caught.value.cure
    assert count_predictions(store, "churn") == {}
    result = bring(store, deployments, answered(100), second, on_error="skip")
    assert (result.rows, result.logged, result.known, result.skipped) == (200, 197, 0, 3)
    assert {(problem.row, problem.field) for problem in result.problems} == found
    assert set(range(200)) - set(column(store, "customer")) == {103, 105, 107}


def test_more_bad_rows_than_can_be_told_are_all_left_out_and_counted(sqlite_store, deployments):
    table = answered(500)
    odd = [1.5 if row % 2 else 0.5 for row in range(500)]
    table = table.set_column(table.column_names.index("probability"), "probability", [odd])
    result = bring(sqlite_store, deployments, table, on_error="skip")
    assert (result.logged, result.skipped, len(result.problems)) == (250, 250, 100)
    with pytest.raises(BadInput) as caught:
        bring(sqlite_store, deployments, table)
    assert (caught.value.total, len(caught.value.problems)) == (250, 100)


@pytest.mark.parametrize(
    ("dropped", "said"),
    [
        (["predicted_at"], "predicted_at: is missing"),
        (["age"], "age: is missing"),
        (["prediction", "probability"], "none of the columns prediction, probability"),
    ],
)
def test_a_column_that_is_missing_is_never_left_out(sqlite_store, deployments, dropped, said):
    with pytest.raises(BadInput) as caught:
        bring(sqlite_store, deployments, answered(3).drop_columns(dropped), on_error="skip")
    assert said in str(caught.value)
    assert count_predictions(sqlite_store, "churn") == {}


def test_a_version_that_is_not_registered_is_not_found(sqlite_store, deployments):
    with pytest.raises(NotFound):
        bring(sqlite_store, deployments, answered(3), version="9")


def test_a_query_of_either_database_brings_what_a_file_would(store, deployments, tmp_path):
    from feedback_loop.store import migrate

    bring(store, deployments, answered(250))
    url = store.url.render_as_string(hide_password=False).replace("postgresql+psycopg:", "postgresql:")
    columns = "customer, month, age, plan, prediction, probability, predicted_at, model_version, latency_us"
    statement = f"SELECT {columns} FROM predictions_churn WHERE month LIKE '%m' ORDER BY customer"  # noqa: S608
    chunks = list(Query(url, statement).chunks(100))
    assert [chunk.num_rows for chunk in chunks] == [100, 100, 50]
    other = Store(f"sqlite:///{tmp_path}/other.db")
    migrate.prepare(other)
    assert bring(other, deployments, *chunks).logged == 250
    assert [row["prediction_id"] for row in rows(other)] == [row["prediction_id"] for row in rows(store)]
    other.close()


def test_numbers_and_ids_of_postgresql_become_plain_ones(postgres_url):
    statement = "SELECT 1.5::numeric AS n, gen_random_uuid() AS u, '12:30' AS t, NULL AS nothing"
    (chunk,) = Query(postgres_url, statement).chunks(10)
    (row,) = chunk.to_pylist()
    assert (row["n"], len(row["u"]), row["t"], row["nothing"]) == (1.5, 36, "12:30", None)


def test_a_database_that_is_away_is_unavailable(tmp_path):
    with pytest.raises(Unavailable) as caught:
        next(Query("postgresql://nobody:secret@127.0.0.1:1/none", "SELECT 1").chunks(10))
    assert "secret" not in str(caught.value)


def test_a_column_of_several_kinds_keeps_each_value_as_it_is():
    statement = "SELECT 1 AS x UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 'four'"
    assert [chunk.to_pydict() for chunk in Query("sqlite://", statement).chunks(2)] == [
        {"x": [1, 2]},
        {"x": [3, "four"]},
    ]


# Events


REQUEST = json.dumps({"instances": [{"age": 30, "plan": "pro", "customer": 1}, {"age": 40, "plan": "pro"}]}).encode()
ANSWER = json.dumps({"predictions": [0.9, 0.2]}).encode()


def halves(event="call-1", request=REQUEST, answer=ANSWER, moment=NOW - timedelta(minutes=5)):
    return Half(event, True, request, "application/json", moment), Half(event, False, answer, "", NOW)


@pytest.fixture
def events(store, deployments, clock):
    return EventIntake(store, deployments, PredictionLog(store), clock, timedelta(hours=1))


def test_in_any_order_and_twice_a_pair_is_logged_exactly_once(store, events):
    request, answer = halves()
    seen = set()
    for place, order in enumerate(set(permutations([request, request, answer, answer]))):
        call = f"call-{place}"
        became = [events.take("churn", Half(call, *_rest(half))) for half in order]
        assert became.count("logged") == 1
        seen.add(tuple(became))
    assert ("waiting", "logged", "known", "known") in seen
    assert ("waiting", "waiting", "logged", "known") in seen
    assert count_predictions(store, "churn") == {("1", "champion", "external"): 12}
    assert payloads.load_account(store, "churn") == PayloadAccount(logged=6)
    assert {row["predicted_at"] for row in rows(store)} == {NOW - timedelta(minutes=5)}
    assert sorted({row["probability"] for row in rows(store)}) == [0.2, 0.9]


def _rest(half):
    return half.is_request, half.body, half.content_type, half.moment


def test_a_pairs_ids_come_from_its_event_so_that_another_store_has_the_same(store, events, clock, tmp_path):
    from feedback_loop.store import migrate

    other = Store(f"sqlite:///{tmp_path}/other.db")
    migrate.prepare(other)
    elsewhere = EventIntake(other, Deployments(find, DAY), PredictionLog(other), clock, timedelta(hours=1))
    for intake, order in ((events, halves()), (elsewhere, halves()[::-1])):
        for half in order:
            intake.take("churn", half)
    assert [row["prediction_id"] for row in rows(store)] == [row["prediction_id"] for row in rows(other)]
    other.close()


def test_the_first_half_outlives_the_process_that_took_it(store, deployments, clock, events):
    request, answer = halves()
    assert events.take("churn", request) == "waiting"
    again = Store(store.url.render_as_string(hide_password=False))
    another = EventIntake(again, deployments, PredictionLog(again), clock, timedelta(hours=1))
    assert another.take("churn", answer) == "logged"
    again.close()
    assert len(rows(store)) == 2


def test_a_pair_that_could_not_be_stored_is_stored_by_the_next_sweep(store, deployments, clock):
    class Away:
        is_away = True

        def append(self, contract, table, now):
            if self.is_away:
                raise Unavailable("database", "away")
            return PredictionLog(store).append(contract, table, now)

    sink = Away()
    events = EventIntake(store, deployments, sink, clock, timedelta(hours=1))
    request, answer = halves()
    events.take("churn", request)
    with pytest.raises(Unavailable):
        events.take("churn", answer)
    clock.set(NOW + timedelta(minutes=1))
    events.sweep("churn")
    assert payloads.load_account(store, "churn") == PayloadAccount(waiting=1)
    sink.is_away = False
    events.sweep("churn")
    assert payloads.load_account(store, "churn") == PayloadAccount(logged=1)
    assert len(rows(store)) == 2
    assert events.take("churn", answer) == "known"


def test_a_half_whose_other_half_never_comes_expires_and_is_counted(store, events, clock):
    request, answer = halves()
    events.take("churn", request)
    events.take("churn", Half("call-2", *_rest(answer)))
    clock.set(NOW + timedelta(minutes=59))
    events.sweep("churn")
    assert payloads.load_account(store, "churn") == PayloadAccount(waiting=2)
    clock.set(NOW + timedelta(minutes=61))
    events.sweep("churn")
    assert payloads.load_account(store, "churn") == PayloadAccount(expired=2)
    events.sweep("churn")
    assert payloads.load_account(store, "churn") == PayloadAccount(expired=2)
    assert count_predictions(store, "churn") == {}


def test_the_bodies_of_a_pair_are_gone_once_it_is_logged_and_its_trace_after_a_while(store, events, clock):
    for half in (*halves(), halves()[0]):
        events.take("churn", half)

    def kept():
        with store.read() as connection:
            return connection.exec_driver_sql("SELECT request, answer FROM payloads").all()

    assert kept() == [(None, None)]
    clock.set(NOW + timedelta(hours=2))
    events.sweep("churn")
    assert kept() == []
    assert payloads.load_account(store, "churn") == PayloadAccount(logged=1)


def test_halves_that_do_not_fit_each_other_are_refused_and_counted(store, events):
    request, answer = halves(answer=b'{"predictions": [0.9]}')
    events.take("churn", request)
    with pytest.raises(BadInput, match="there are 1 for 2 rows"):
        events.take("churn", answer)
    assert payloads.load_account(store, "churn") == PayloadAccount(refused=1)
    assert count_predictions(store, "churn") == {}


@pytest.mark.parametrize(
    "half",
    [
        Half("call", True, b'{"instances": [[1]]}'),
        Half("call", False, b'{"predictions": ["yes"]}'),
        Half("call", True, REQUEST, "", NOW + 2 * DAY),
    ],
)
def test_a_half_that_does_not_fit_the_model_is_refused_and_does_not_wait(store, events, half):
    with pytest.raises(BadInput):
        events.take("churn", half)
    assert payloads.load_account(store, "churn") == PayloadAccount()


def test_a_request_that_waits_is_erased_with_the_key_that_it_holds(store, deployments, events):
    """The request of customers 1 and 2 waits, another's too, and one that nothing can read any more."""
    request, answer = halves("theirs")
    other = json.dumps({"dataframe_records": [{"age": 30.0, "plan": "pro", "customer": 3, "month": "m"}]}).encode()
    events.take("churn", request)
    events.take("churn", Half("another's", is_request=True, body=other))
    payloads.keep_half(store, "churn", Half("odd", is_request=True, body=b"{"), None, NOW)
    events.take("churn", Half("an answer", *_rest(answer)))
    for dry_run, left in ((True, 4), (False, 3)):
        done = erase_waiting(store, deployments, "churn", {"customer": 1}, NOW, dry_run=dry_run)
        assert (done, payloads.load_account(store, "churn").waiting) == (ErasedPayloads(erased=1, unread=1), left)
    assert [pair.event for pair in payloads.open_requests(store, "churn")] == ["another's", "odd"]
    assert [events.take("churn", half) for half in (answer, request)] == ["known", "known"]
    assert rows(store) == []


def test_open_requests_are_all_found_however_many_there_are(store, monkeypatch):
    monkeypatch.setattr(payloads, "_PAGE", 3)
    names = [f"call-{number}" for number in range(7)]
    for name in names:
        payloads.keep_half(store, "churn", Half(name, is_request=True, body=b"{}"), None, NOW)
    assert [pair.event for pair in payloads.open_requests(store, "churn")] == names


def test_the_version_is_the_one_that_the_sender_said(store, events):
    request, answer = halves()
    events.take("churn", answer, "7")
    events.take("churn", request)
    assert {row["model_version"] for row in rows(store)} == {"7"}
    with pytest.raises(NotFound):
        events.take("churn", request, "9")


def test_many_halves_at_once_are_paired_once_each(store, deployments, clock):
    failures = []

    def work(half_of):
        own = Store(store.url.render_as_string(hide_password=False))
        events = EventIntake(own, deployments, PredictionLog(own), clock, timedelta(hours=1))
        try:
            for place in range(15):
                events.take("churn", halves(f"call-{place}")[half_of])
        except Exception as error:  # noqa: BLE001
            failures.append(error)
        own.close()

    threads = [threading.Thread(target=work, args=[half_of]) for half_of in (0, 1, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert payloads.load_account(store, "churn") == PayloadAccount(logged=15)
    assert count_predictions(store, "churn") == {("1", "champion", "external"): 30}
