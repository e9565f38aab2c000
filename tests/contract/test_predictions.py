"""The prediction log, on both databases."""

import bisect
import threading
import traceback
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from feedback_loop.clock import Window
from feedback_loop.errors import ContractError, NotFound, Refused, Unavailable
from feedback_loop.outcomes import record_outcomes
from feedback_loop.schema import Column, ColumnType, prediction_id
from feedback_loop.store import Store, create_tables, fence, migrate
from feedback_loop.store.create_tables import check_storable, ensure_tables, refuse_too_wide
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


def test_a_signature_that_grows_adds_columns(store, log):
    before = binary_contract()
    after = binary_contract(features=(*before.features, C("city", T.STRING)))
    log.append(before, prediction_rows(before, moments(1), age=[30.0]), START)
    log.append(after, prediction_rows(after, moments(1, DAY), age=[40.0], city=["Ulm"]), START)
    with store.read() as connection:
        assert [generation.number for generation in find_tables(connection, "churn").generations] == [1]
    found = read_labelled(store, after, WHOLE)
    assert sorted(found.column("city").to_pylist(), key=str) == [None, "Ulm"]
    log.append(before, prediction_rows(before, moments(1), age=[50.0]), START)  # the older version goes on
    assert read_labelled(store, before, WHOLE).num_rows == 3


def test_a_signature_that_changes_a_type_starts_a_generation_and_reading_spans_both(store, log):
    before = binary_contract()
    after = binary_contract(features=(C("age", T.STRING), C("plan", T.STRING)))
    log.append(before, prediction_rows(before, moments(1), age=[30.5], customer=[1], month=["m"]), START)
    log.append(after, prediction_rows(after, [START + DAY], age=["thirty"], customer=[2], month=["m"]), START)
    with store.read() as connection:
        assert [generation.number for generation in find_tables(connection, "churn").generations] == [1, 2]
    assert read_labelled(store, after, WHOLE).column("age").to_pylist() == ["30.5", "thirty"]
    # What can't be converted is missing, but its row is not.
    assert read_labelled(store, before, WHOLE).column("age").to_pylist() == [30.5, None]
    outcome = {"customer": [1, 2], "month": ["m", "m"], "churned": [True, False]}
    assert record_outcomes(store, after, outcome, now=START + 2 * DAY, source="t").counts.unmatched == 0
    assert read_labelled(store, after, WHOLE).column("churned").to_pylist() == [True, False]


def test_two_versions_with_different_types_take_turns(store, log):
    one = binary_contract()
    other = binary_contract(features=(C("age", T.LONG), C("plan", T.STRING)))
    for turn in range(4):
        contract = one if turn % 2 else other
        log.append(contract, prediction_rows(contract, [START + turn * DAY]), START)
    with store.read() as connection:
        assert len(find_tables(connection, "churn").generations) == 2
    assert count_predictions(store, "churn") == {("1", "champion", "batch"): 4}


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"key": ("customer",)}, "key"), ({"label": "left"}, "label"), ({"label_type": T.STRING}, "label")],
)
def test_another_key_or_label_is_refused(store, log, changes, field):
    contract = binary_contract()
    log.append(contract, prediction_rows(contract, moments(1)), START)
    with pytest.raises(ContractError) as caught:
        ensure_tables(store, binary_contract(**changes), START)
    assert caught.value.field == field
    assert "another name" in caught.value.cure


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


def test_the_newest_generation_that_fits_is_used(store, log):
    contract = binary_contract()
    log.append(contract, prediction_rows(contract, moments(1)), START)
    with store.read() as connection:
        found = find_tables(connection, "churn")
    columns = found.generations[0].columns
    assert found.generation_for(columns) is found.generations[0]
    assert found.generation_for([replace(columns[0], type=T.DATETIME)]) is None


NAMES = [
    "discount %",
    "100%s",
    "%(x)s",
    '"quoted"',
    "back\\slash",
    ":colon",
    "it's",
    "a;b",
    "{}",
    "$1",
    "?",
    "ünïcode ✈",
    " ",
]


def test_columns_of_any_name_are_stored_grown_read_and_labelled(store, log):
    few = regression_contract(features=[C(name, T.DOUBLE) for name in NAMES[:4]])
    contract = regression_contract(features=[C(name, T.DOUBLE) for name in NAMES])
    assert log.append(few, prediction_rows(few, moments(1)), START) == 1
    values = {column.stored: [float(place)] for place, column in enumerate(contract.features)}
    rows = prediction_rows(contract, moments(1), **values)
    assert log.append(contract, rows, START) == 1
    assert log.append(contract, rows, START) == 0  # by way of the staging table
    outcomes = {"prediction_id": rows.column("prediction_id").to_pylist(), "paid": [1.0]}
    record_outcomes(store, contract, outcomes, now=START, source="tests")
    found = read_labelled(store, contract, WHOLE).to_pylist()
    (mine,) = [row for row in found if row["prediction_id"] == rows.column("prediction_id")[0].as_py()]
    assert {name: mine[name] for name in values} == {name: each for name, (each,) in values.items()}
    assert mine["paid"] == 1.0
    with store.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM labelled_price").scalar_one() == 2


def test_a_model_too_wide_for_the_database_is_refused_before_anything_is_made(store, log):
    contract = regression_contract(features=[C(f"f{place}", T.BOOLEAN) for place in range(2000)])
    for check in (lambda: check_storable(store, contract), lambda: log.append(contract, rows_of(contract), START)):
        with pytest.raises(ContractError, match="No prediction of 'price' can be logged: each has 2,0") as refused:
            check()
    assert "drop" in refused.value.cure
    with store.read() as connection, pytest.raises(NotFound):
        find_tables(connection, "price")


def rows_of(contract):
    filled = {T.STRING: ["x"], T.BOOLEAN: [True], T.LONG: [1], T.INTEGER: [1]}
    return prediction_rows(contract, moments(1), **{c.stored: filled.get(c.type, [1.0]) for c in contract.features})


@pytest.mark.parametrize("kinds", [(T.DOUBLE,), (T.INTEGER, T.STRING, T.LONG)])
def test_a_row_too_long_for_postgresql_is_refused_exactly_from_where_it_can_not_be_stored(
    postgres_url, monkeypatch, kinds
):
    store = Store(postgres_url)
    migrate.prepare(store)

    def of(count):
        return regression_contract(features=[C(f"f{each}", kinds[each % len(kinds)]) for each in range(count)])

    def is_taken(count):
        try:
            refuse_too_wide(store, of(count))
        except ContractError:
            return False
        return True

    most = bisect.bisect_left(range(1600), True, key=lambda count: not is_taken(count)) - 1
    log = PredictionLog(store)
    assert log.append(of(most - 1), rows_of(of(most - 1)), START) == 1
    monkeypatch.setattr(create_tables, "MOST_ROW_BYTES", 10**6)
    with pytest.raises(Refused, match="row is too big"):
        log.append(of(most + 3), rows_of(of(most + 3)), START)
    store.close()


def test_a_table_that_would_grow_too_wide_begins_a_new_generation(sqlite_store):
    log = PredictionLog(sqlite_store)
    for start in (0, 1500):
        contract = regression_contract(features=[C(f"f{place}", T.BOOLEAN) for place in range(start, start + 1500)])
        assert log.append(contract, rows_of(contract), START) == 1
    with sqlite_store.read() as connection:
        assert [generation.number for generation in find_tables(connection, "price").generations] == [1, 2]
    assert read_labelled(sqlite_store, contract, WHOLE).num_rows == 2
