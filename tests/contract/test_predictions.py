"""The prediction log, on both databases."""

import threading
import traceback
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from feedback_loop.clock import Window
from feedback_loop.errors import NotFound, Refused, Unavailable
from feedback_loop.outcomes import record_outcomes
from feedback_loop.schema import Column, ColumnType, prediction_id
from feedback_loop.store import Store, fence
from feedback_loop.store.model_tables import find_tables
from feedback_loop.store.predictions import (
    PredictionLog,
    count_predictions,
    predicted_span,
    read_labelled,
    versions_in,
)
from tests.builders import binary_contract, prediction_rows, regression_contract

C, T = Column, ColumnType
START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WHOLE = Window(START - 400 * DAY, START + 400 * DAY)


@pytest.fixture
def log(store):
    return PredictionLog(store)


def moments(count, step=timedelta(minutes=1)):
    return [START + place * step for place in range(count)]


def test_rows_come_back_as_they_went_in(store, log):
    contract = binary_contract(
        features=(
            C("flag", T.BOOLEAN),
            C("small", T.INTEGER),
            C("big", T.LONG),
            C("half", T.FLOAT),
            C("number", T.DOUBLE),
            C("word", T.STRING),
            C("when", T.DATETIME),
        ),
        segments=(),
    )
    values = {
        "flag": [True, False, None],
        "small": [-(2**31), 2**31 - 1, None],
        "big": [-(2**63), 2**63 - 1, None],
        "half": [0.5, -1.25, None],
        "number": [0.1, 1e300, None],
        "word": ["naïve ✈ 'quoted' \"twice\"", "", None],
        "when": [START, START + timedelta(microseconds=1), None],
        "customer": [1, 2, None],
        "month": ["2026-03", "2026-04", None],
        "prediction": [True, False, None],
        "probability": [0.75, 0.1, None],
        "latency_us": [1, 2, None],
        "request_id": ["a", None, "c"],
    }
    rows = prediction_rows(contract, moments(3), **values)
    assert log.append(contract, rows, START) == 3
    found = read_labelled(store, contract, WHOLE)
    for name in rows.column_names:
        assert found.column(name).to_pylist() == rows.column(name).to_pylist(), name
    assert found.column("churned").to_pylist() == [None, None, None]


def test_every_row_comes_back_beyond_the_size_of_a_chunk(store, log):
    contract = regression_contract()
    count = 20_001
    numbers = [None] * 5000 + [float(place) for place in range(count - 5000)]
    rows = prediction_rows(contract, moments(count, timedelta(seconds=1)), x=numbers)
    assert log.append(contract, rows, START) == count
    found = read_labelled(store, contract, WHOLE)
    assert found.column("x").to_pylist() == numbers
    assert found.column("prediction_id").to_pylist() == rows.column("prediction_id").to_pylist()


def test_what_all_rows_share_comes_back_as_it_went_in(store, log):
    words = ['it\'s "said" % twice -- ?', "", None, ":name", "%(value_0)s", "__[POSTCOMPILE_value_0]", "long" * 1000]
    words += [] if store.is_postgresql else ["a\0b"]  # PostgreSQL has no such texts
    features = [C(f"word {place}", T.STRING) for place in range(len(words))]
    contract, count = binary_contract(features=(C("age", T.DOUBLE), *features), segments=()), 600
    shared = {f"word {place}": [word] * count for place, word in enumerate(words)}
    rows = prediction_rows(contract, [START] * count, **shared, age=[None] * count, customer=[7] * count)
    assert log.append(contract, rows.slice(0, 1), START) == 1
    assert log.append(contract, rows, START) == count - 1
    found = read_labelled(store, contract, WHOLE)
    for name in rows.column_names:
        assert found.column(name).to_pylist() == rows.sort_by("prediction_id").column(name).to_pylist(), name


def test_a_refusal_has_no_values_of_rows_in_it(sqlite_store):
    contract, count = binary_contract(), 600
    rows = prediction_rows(contract, [START] * count, plan=["secret plan"] * count)
    without_role = rows.set_column(rows.column_names.index("role"), "role", pa.nulls(count, pa.string()))
    with pytest.raises(Refused, match=r"NOT NULL constraint failed.*role") as refused:
        PredictionLog(sqlite_store).append(contract, without_role, START)
    assert "secret plan" not in "".join(traceback.format_exception(refused.value))


def test_a_retry_is_no_second_row_and_changes_nothing(store, log):
    contract = binary_contract()
    rows = prediction_rows(contract, moments(2), plan=["basic", "pro"])
    again = prediction_rows(
        contract, moments(2), prediction_id=rows.column("prediction_id").to_pylist(), plan=["other", "other"]
    )
    assert log.append(contract, rows, START) == 2
    assert log.append(contract, again, START) == 0
    assert read_labelled(store, contract, WHOLE).column("plan").to_pylist() == ["basic", "pro"]


def test_a_retry_beside_new_rows_counts_the_new_ones(log):
    contract = binary_contract()
    rows = prediction_rows(contract, moments(3))
    assert log.append(contract, rows.slice(0, 1), START) == 1
    assert log.append(contract, rows, START) == 2
    assert log.append(contract, rows.slice(0, 0), START) == 0


def test_the_same_id_twice_in_one_batch_is_one_row(store, log):
    contract = binary_contract()
    identifier = prediction_id(START)
    rows = prediction_rows(contract, moments(2), prediction_id=[identifier] * 2)
    assert log.append(contract, rows, START) == 1
    assert count_predictions(store, "churn") == {("1", "champion", "batch"): 1}


def test_a_window_holds_its_start_and_not_its_end(store, log):
    contract = binary_contract()
    log.append(contract, prediction_rows(contract, moments(3, DAY)), START)
    assert read_labelled(store, contract, Window(START, START + DAY)).num_rows == 1
    assert read_labelled(store, contract, Window(START + DAY, START + 3 * DAY)).num_rows == 2


def test_predictions_logged_after_the_moment_are_not_known_as_of_it_whenever_they_were_made(store, log):
    contract = binary_contract()
    for day in range(3):
        log.append(contract, prediction_rows(contract, [START]), START + day * DAY)
    assert read_labelled(store, contract, WHOLE, as_of=START + DAY).num_rows == 2
    assert fence.close(store, "churn", START + 5 * DAY) == START + 5 * DAY
    log.append(contract, prediction_rows(contract, [START]), START + 4 * DAY)  # from a spool, by a slow clock
    assert read_labelled(store, contract, WHOLE, as_of=START + 5 * DAY).num_rows == 3
    assert read_labelled(store, contract, WHOLE).num_rows == 4


def test_whoever_asks_waits_for_the_writers_that_are_under_way(store):
    """A row whose transaction commits late is either seen by who asked meanwhile, or is recorded after that."""
    contract, asked = binary_contract(), []
    PredictionLog(store).append(contract, prediction_rows(contract, [START]), START)
    own = Store(store.url.render_as_string(hide_password=False))

    def ask():
        asked.append(fence.close(own, "churn", START + DAY))

    with store.write() as connection:
        assert fence.enter(connection, "churn", START + DAY) == START + DAY
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(0.3)
        assert asking.is_alive()
        assert asked == []
    asking.join()
    assert asked == [START + DAY]
    with store.write() as connection:
        assert fence.enter(connection, "churn", START) == START + DAY + timedelta.resolution
    own.close()


def test_versions_and_roles_are_read_apart(store, log):
    contract = binary_contract()
    rows = prediction_rows(
        contract, moments(3), model_version=["1", "2", "2"], role=["champion", "champion", "shadow"]
    )
    log.append(contract, rows, START)
    assert read_labelled(store, contract, WHOLE, version="2").num_rows == 2
    assert read_labelled(store, contract, WHOLE, version="2", role="champion").num_rows == 1
    assert versions_in(store, "churn", WHOLE, "champion", START + DAY) == ["1", "2"]
    assert versions_in(store, "churn", Window(START + DAY, START + 2 * DAY), "champion", START + DAY) == []


def test_names_that_are_sql_are_only_names(store, log):
    evil = 'x"; DROP TABLE fl_models; --'
    contract = binary_contract(evil, features=(C(evil, T.STRING), C("role", T.LONG)), segments=())
    log.append(contract, prediction_rows(contract, moments(1), **{evil: ["a"], "role_2": [7]}), START)
    found = read_labelled(store, contract, WHOLE)
    assert found.column(evil).to_pylist() == ["a"]
    assert found.column("role").to_pylist() == ["champion"]
    assert found.column("role_2").to_pylist() == [7]


def test_people_find_both_sides_in_the_view(store, log):
    contract = binary_contract()
    log.append(contract, prediction_rows(contract, moments(2), customer=[1, 2], month=["m", "m"]), START)
    frame = {"customer": [1], "month": ["m"], "churned": [True]}
    record_outcomes(store, contract, frame, now=START + DAY, source="t")
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT customer, churned FROM labelled_churn ORDER BY customer").all()
    assert [(customer, None if churned is None else bool(churned)) for customer, churned in rows] == [
        (1, True),
        (2, None),
    ]


def test_a_model_without_predictions_is_empty_and_not_an_error(store):
    contract = binary_contract()
    assert read_labelled(store, contract, WHOLE).num_rows == 0
    assert read_labelled(store, contract, WHOLE).schema.field("age").type == pa.float64()
    assert count_predictions(store, "churn") == {}
    assert predicted_span(store, "churn") is None
    with store.read() as connection, pytest.raises(NotFound):
        find_tables(connection, "churn")


def test_many_writers_at_once_lose_nothing_and_double_nothing(store):
    contract = binary_contract()
    batches = [prediction_rows(contract, moments(25)) for _ in range(8)]
    failures = []

    def write(batch):
        try:
            own = Store(store.url.render_as_string(hide_password=False))
            log = PredictionLog(own)
            for start in range(0, 25, 5):
                log.append(contract, batch.slice(start, 5), START)
                log.append(contract, batch.slice(start, 5), START)
            own.close()
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=write, args=[batch]) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert count_predictions(store, "churn") == {("1", "champion", "batch"): 200}


def test_postgresql_keeps_each_month_in_a_partition(postgres_url):
    store = Store(postgres_url)
    contract = binary_contract()
    months = [datetime(2025, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)]
    PredictionLog(store).append(contract, prediction_rows(contract, months), START)
    with store.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT tableoid::regclass::text, predicted_at FROM predictions_churn ORDER BY 2"
        ).all()
    assert [name for name, _ in rows] == ["part_predictions_churn_2025_12", "part_predictions_churn_2026_01"]
    store.close()


def test_a_store_that_is_away_is_unavailable_with_a_cure(tmp_path):
    for url in ("postgresql://nobody@127.0.0.1:1/none", f"sqlite:///{tmp_path}/no/such/folder/x.db"):
        with pytest.raises(Unavailable) as caught:
            PredictionLog(Store(url)).append(binary_contract(), prediction_rows(binary_contract(), moments(1)), START)
        assert caught.value.service == "database"
        assert caught.value.cure
