"""The tables of a model whose signature changes: they grow, or a new generation begins; and how wide they may be."""

import bisect
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.clock import Window
from feedback_loop.errors import ContractError, NotFound, Refused
from feedback_loop.outcomes import record_outcomes
from feedback_loop.schema import Column, ColumnType
from feedback_loop.store import Store, create_tables, migrate, predictions
from feedback_loop.store.create_tables import check_storable, ensure_tables, refuse_too_wide
from feedback_loop.store.model_tables import find_tables, prediction_columns
from feedback_loop.store.predictions import (
    PredictionLog,
    count_predictions,
    read_labelled,
)
from tests.builders import binary_contract, prediction_rows, regression_contract

C, T = Column, ColumnType
START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WHOLE = Window(START - 400 * DAY, START + 400 * DAY)

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


@pytest.fixture
def log(store):
    return PredictionLog(store)


def test_a_signature_that_grows_adds_columns(store, log):
    before = binary_contract()
    after = binary_contract(features=(*before.features, C("city", T.STRING)))
    log.append(before, prediction_rows(before, [START], age=[30.0]), START)
    log.append(after, prediction_rows(after, [START], age=[40.0], city=["Ulm"]), START)
    with store.read() as connection:
        assert [generation.number for generation in find_tables(connection, "churn").generations] == [1]
    found = read_labelled(store, after, WHOLE)
    assert sorted(found.column("city").to_pylist(), key=str) == [None, "Ulm"]
    log.append(before, prediction_rows(before, [START], age=[50.0]), START)  # the older version goes on
    assert read_labelled(store, before, WHOLE).num_rows == 3


def test_a_signature_that_changes_a_type_starts_a_generation_and_reading_spans_both(store, log):
    before = binary_contract()
    after = binary_contract(features=(C("age", T.STRING), C("plan", T.STRING)))
    log.append(before, prediction_rows(before, [START], age=[30.5], customer=[1], month=["m"]), START)
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
    log.append(contract, prediction_rows(contract, [START]), START)
    with pytest.raises(ContractError) as caught:
        ensure_tables(store, binary_contract(**changes), START)
    assert caught.value.field == field
    assert "another name" in caught.value.cure


def test_rows_with_and_without_an_adapter_are_in_one_table_and_one_of_an_older_release_grows(store, log, monkeypatch):
    contract = binary_contract()
    with monkeypatch.context() as older:
        older.setattr(create_tables, "table_columns", prediction_columns)
        older.setattr(predictions, "table_columns", prediction_columns)
        log.append(contract, prediction_rows(contract, [START]), START)
    with store.read() as connection:
        assert "adapter_revision" not in find_tables(connection, "churn").generations[0].table.c
    answers = {"prediction": [True], "probability": [0.75], "raw_prediction": [False], "raw_probability": [0.25]}
    explored = {"adapter_revision": [7], "explored": [True], "propensity": [0.02]}
    log.append(contract, prediction_rows(contract, [START + DAY], **answers, **explored), START)
    log.append(contract, prediction_rows(contract, [START + 2 * DAY]), START)
    columns = (*contract.outputs, *contract.log_columns)
    rows = read_labelled(store, contract, WHOLE, columns=columns).select([column.stored for column in columns])
    assert rows.to_pylist()[1] == {name: value for name, (value,) in (answers | explored).items()}
    assert [set(row.values()) for row in (rows.to_pylist()[0], rows.to_pylist()[2])] == [{None}, {None}]
    with store.read() as connection:
        assert [generation.number for generation in find_tables(connection, "churn").generations] == [1]
        view = connection.exec_driver_sql("SELECT raw_probability, propensity FROM labelled_churn")
        assert sorted(map(tuple, view.all()), key=str) == [(0.25, 0.02), (None, None), (None, None)]


def test_a_feature_that_is_called_as_a_column_of_the_log_is_never_mixed_with_it(store, log):
    before = binary_contract()
    after = binary_contract(features=(C("age", T.DOUBLE), C("plan", T.STRING), C("propensity", T.DOUBLE)))
    log.append(before, prediction_rows(before, [START], propensity=[0.02]), START)
    values = {"propensity": [30.0], "feedback_loop_propensity": [0.5]}
    log.append(after, prediction_rows(after, [START + DAY], **values), START)
    columns = (*after.features, *after.log_columns)
    rows = read_labelled(store, after, WHOLE, columns=columns)
    assert rows.column("propensity").to_pylist() == [None, 30.0]
    assert rows.column("feedback_loop_propensity").to_pylist() == [None, 0.5]


def test_the_newest_generation_that_fits_is_used(store, log):
    contract = binary_contract()
    log.append(contract, prediction_rows(contract, [START]), START)
    with store.read() as connection:
        found = find_tables(connection, "churn")
    columns = found.generations[0].columns
    assert found.generation_for(columns) is found.generations[0]
    assert found.generation_for([replace(columns[0], type=T.DATETIME)]) is None


def test_columns_of_any_name_are_stored_grown_read_and_labelled(store, log):
    few = regression_contract(features=[C(name, T.DOUBLE) for name in NAMES[:4]])
    contract = regression_contract(features=[C(name, T.DOUBLE) for name in NAMES])
    assert log.append(few, prediction_rows(few, [START]), START) == 1
    values = {column.stored: [float(place)] for place, column in enumerate(contract.features)}
    rows = prediction_rows(contract, [START], **values)
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
    return prediction_rows(contract, [START], **{c.stored: filled.get(c.type, [1.0]) for c in contract.features})


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
