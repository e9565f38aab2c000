"""Hashed and dropped columns, on both databases."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from feedback_loop.clock import Window
from feedback_loop.errors import ContractError
from feedback_loop.outcomes import record_outcomes
from feedback_loop.schema import make_redaction
from feedback_loop.store.model_tables import find_tables
from feedback_loop.store.predictions import PredictionLog, read_labelled
from tests.builders import binary_contract, prediction_rows

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WHOLE = Window(START - 400 * DAY, START + 400 * DAY)
KEY = b"a long random text"


def redaction(contract=None, key=KEY, **modes):
    return make_redaction(contract or binary_contract(), modes, key)


def append(store, form, moments=(START,), **columns):
    served = prediction_rows(form.served, moments, **columns)
    logged = prediction_rows(form.logged, moments)
    redacted = form.redact(served)
    rows = pa.table({name: redacted.column(name) for name in logged.column_names}, schema=logged.schema)
    assert PredictionLog(store).append(form.logged, rows, moments[-1]) == len(moments)


@pytest.fixture
def store(store):
    store.secret = KEY
    return store


def test_outcomes_find_predictions_whose_key_is_hashed(store):
    form = redaction(customer="hash", age="drop")
    append(store, form, [START, START], customer=[1, 2], month=["m", "m"])
    text = {"customer": ["2"], "month": ["m"], "churned": ["true"]}
    counts = record_outcomes(
        store, form.served, text, now=START + DAY, source="csv", text=True, redaction=form
    ).counts
    assert (counts.new, counts.unmatched) == (1, 0)
    again = {"customer": [2, 3], "month": ["m", "m"], "churned": [True, True]}
    counts = record_outcomes(store, form.served, again, now=START + DAY, source="json", redaction=form).counts
    assert (counts.new, counts.unchanged, counts.unmatched) == (1, 1, 1)
    found = read_labelled(store, form.logged, WHOLE)
    assert sorted(found.column("churned").to_pylist(), key=str) == [None, True]
    assert "age" not in found.column_names
    with store.read() as connection:
        for query in ("SELECT customer FROM predictions_churn", "SELECT customer FROM outcomes_churn"):
            values = connection.exec_driver_sql(query).scalars().all()
            assert {len(value) for value in values} == {32}


def test_a_feature_that_is_hashed_from_now_on_starts_a_generation_and_is_never_read_plain(store):
    before, after = redaction(), redaction(plan="hash", age="hash")
    append(store, before, plan=["pro"], age=[30.0])
    append(store, after, plan=["pro"], age=[30.0])
    with store.read() as connection:
        assert [generation.number for generation in find_tables(connection, "churn").generations] == [1, 2]
    for name in ("plan", "age"):
        (one, other) = read_labelled(store, after.logged, WHOLE).column(name).to_pylist()
        assert one == other
        assert len(one) == 32
    # Plain again: what is hashed stays hidden, what was plain is read.
    assert sorted(read_labelled(store, before.logged, WHOLE).column("plan").to_pylist(), key=str) == [None, "pro"]
    assert sorted(read_labelled(store, before.logged, WHOLE).column("age").to_pylist(), key=str) == [30.0, None]


def test_another_hash_key_starts_a_generation_and_the_two_are_not_mixed(store):
    append(store, redaction(plan="hash"), plan=["pro"])
    other = redaction(plan="hash", key=b"another key")
    append(store, other, plan=["pro"])
    with store.read() as connection:
        assert [generation.number for generation in find_tables(connection, "churn").generations] == [1, 2]
    assert read_labelled(store, other.logged, WHOLE).column("plan").null_count == 1


@pytest.mark.parametrize("change", [{"month": "hash"}, {"customer": "hash"}])
def test_a_key_that_has_a_history_can_not_be_hashed_later(store, change):
    append(store, redaction(), customer=[1], month=["m"])
    with pytest.raises(ContractError, match="hashed by key") as caught:
        append(store, redaction(**change), customer=[1], month=["m"])
    assert caught.value.field == "key"
    assert "set it back, or register the model under another name" in caught.value.cure


def test_a_key_that_is_a_feature_too_is_hashed_in_both(store):
    contract = binary_contract(key=("plan",), key_types={})
    form = redaction(contract, plan="hash")
    append(store, form, plan=["pro"], age=[1.0])
    record_outcomes(
        store, contract, {"plan": ["pro"], "churned": [True]}, now=START + DAY, source="t", redaction=form
    )
    assert read_labelled(store, form.logged, WHOLE).column("churned").to_pylist() == [True]


def test_weights_are_kept_with_their_rows(store):
    contract = binary_contract()
    rows = prediction_rows(contract, [START], sample_weight=[10.0])
    PredictionLog(store).append(contract, rows, START)
    assert read_labelled(store, replace(contract), WHOLE).column("sample_weight").to_pylist() == [10.0]
