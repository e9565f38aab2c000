"""What callers did with the answers, on both databases: kept like outcomes, and what they make of coverage."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import event

from feedback_loop.clock import Window
from feedback_loop.errors import BadInput
from feedback_loop.monitoring import reference
from feedback_loop.monitoring.judging import judged
from feedback_loop.outcomes import coverage, record_outcomes
from feedback_loop.schema import ACTED, ACTION_PROPENSITY
from feedback_loop.store import erased_keys
from feedback_loop.store.coverage import load_coverage, with_inferred
from feedback_loop.store.erasure import erase_rows
from feedback_loop.store.joins import join_new
from feedback_loop.store.model_tables import find_tables
from feedback_loop.store.outcomes import Intake
from feedback_loop.store.predictions import PredictionLog, read_labelled
from feedback_loop.store.retention import retain
from tests.builders import binary_contract, prediction_rows

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WHOLE = Window(START - 400 * DAY, START + 400 * DAY)
CONTRACT = replace(binary_contract(), join=replace(binary_contract().join, needs_action=True))


@pytest.fixture
def predicted(store):
    """Four customers: the answer meant action, explored, neither, and nothing known."""
    rows = prediction_rows(
        CONTRACT,
        [START] * 4,
        customer=[1, 2, 3, 4],
        month=["m"] * 4,
        explored=[False, True, False, False],
        propensity=[1.0, 0.1, 0.1, None],
    )
    PredictionLog(store).append(CONTRACT, rows, START)
    return rows.column("prediction_id").to_pylist()


def act(store, now=START + DAY, contract=CONTRACT, **columns):
    return record_outcomes(store, contract.of_actions, columns, now=now, source="test").counts


def learn(store, now=START + 2 * DAY, **columns):
    return record_outcomes(store, CONTRACT, columns, now=now, source="test").counts


def acted(store, as_of=None):
    rows = read_labelled(store, CONTRACT, WHOLE, as_of=as_of).sort_by("customer")
    return [*zip(rows.column(ACTED).to_pylist(), rows.column(ACTION_PROPENSITY).to_pylist(), strict=True)]


def test_actions_find_their_prediction_by_key_and_by_id(store, predicted):
    assert act(store, customer=[1], month=["m"]) == Intake(received=1, new=1)
    assert act(store, prediction_id=[predicted[1]], propensity=[0.25]) == Intake(received=1, new=1)
    assert acted(store) == [(True, None), (True, 0.25), (None, None), (None, None)]


def test_a_correction_is_the_next_revision_and_the_old_action_stays_known_as_of_then(store, predicted):
    act(store, customer=[1], month=["m"])
    again = act(store, now=START + 2 * DAY, customer=[1, 1], month=["m", "m"], acted=[True, False])
    assert again == Intake(received=2, unchanged=1, corrected=1)
    assert acted(store)[0] == (False, None)
    assert acted(store, as_of=START + DAY)[0] == (True, None)
    assert acted(store, as_of=START)[0] == (None, None)


@pytest.mark.parametrize("propensity", [0.0, -0.5, 1.5, 5e-324])
def test_what_is_no_probability_is_refused(store, predicted, propensity):
    with pytest.raises(BadInput) as caught:
        act(store, customer=[1], month=["m"], propensity=[propensity])
    assert caught.value.problems[0].field == "propensity"


def test_only_those_acted_on_count_for_coverage_whatever_comes_first(store, predicted):
    def counts(now):
        join_new(store, CONTRACT, DAY, now)
        (total,) = coverage(load_coverage(store, "churn")[0], "version", now)
        return total.predictions, total.eligible, total.observed

    assert counts(START + DAY / 2) == (4, 0, 0)
    learn(store, START + DAY / 2, customer=[1, 3], month=["m", "m"], churned=[True, True])  # before their actions
    assert counts(START + DAY) == (4, 0, 0)
    act(store, START + DAY, customer=[1, 2], month=["m", "m"])
    assert counts(START + 2 * DAY) == (4, 2, 1)
    act(store, START + 2 * DAY, customer=[2], month=["m"], acted=[False])
    assert counts(START + 3 * DAY) == (4, 1, 1)


def test_absence_means_a_label_only_where_an_outcome_could_have_come(store, predicted):
    contract = replace(CONTRACT, join=replace(CONTRACT.join, absent_means=False))
    act(store, customer=[1, 2], month=["m", "m"])
    learn(store, customer=[1], month=["m"], churned=[True])
    rows = read_labelled(store, contract, WHOLE, as_of=START + 9 * DAY).sort_by("customer")
    assert rows.column("churned").to_pylist() == [True, False, None, None]
    join_new(store, contract, DAY, START + 9 * DAY)
    (total,) = with_inferred(store, contract, DAY, _whole(store), START + 9 * DAY)
    assert (total.eligible, total.labelled, total.inferred) == (2, 1, 1)


def _whole(store):
    return [account for account in load_coverage(store, "churn")[0] if not account.segment]


def test_judged_rows_stand_for_as_many_as_were_as_unlikely_to_be_acted_on(store, predicted):
    act(store, customer=[1, 2, 3, 4], month=["m"] * 4)
    rows = judged(CONTRACT, read_labelled(store, CONTRACT, WHOLE)).sort_by("customer")
    assert rows.column("customer").to_pylist() == [1, 2]  # 3: the caller acted by itself, by what chance nobody knows
    assert rows.column("sample_weight").to_pylist() == [1.0, 10.0]
    act(store, START + 2 * DAY, customer=[3, 4], month=["m", "m"], propensity=[0.5, 0.25])
    rows = judged(CONTRACT, read_labelled(store, CONTRACT, WHOLE)).sort_by("customer")
    assert rows.column("sample_weight").to_pylist() == pytest.approx([1.0, 10.0, 2.0, 4.0])


def test_where_no_action_is_needed_none_is_read(store, predicted):
    plain = binary_contract()
    act(store, customer=[1], month=["m"])
    statements = []
    listener = partial(lambda kept, *asked: kept.append(asked[2]), statements)
    event.listen(store.engine, "before_cursor_execute", listener)
    join_new(store, plain, DAY, START + 2 * DAY)
    rows = read_labelled(store, plain, WHOLE)
    event.remove(store.engine, "before_cursor_execute", listener)
    assert len(statements) > 5
    assert [statement for statement in statements if "actions_churn" in statement] == []
    assert ACTED not in rows.column_names
    assert judged(plain, rows) is rows


def test_a_reference_of_the_log_is_of_all_predictions_however_the_log_is_cut(store, monkeypatch):
    random = np.random.default_rng(0)
    count, score = 600, random.uniform(0.05, 0.95, 600)
    explored, acts = random.random(count) < 0.25, score < 0.4
    key = {"customer": np.arange(count), "month": np.array(["m"] * count)}
    moments = [START + place * timedelta(minutes=1) for place in range(count)]
    marks = {"explored": explored.tolist(), "propensity": np.where(acts, 1.0, 0.25).tolist()}
    named = {name: values.tolist() for name, values in key.items()}
    answers = {"prediction": [True] * count, "probability": score.tolist()}
    rows = prediction_rows(CONTRACT, moments, **named, **marks, **answers)
    PredictionLog(store).append(CONTRACT, rows, START + DAY)
    mask = explored | acts
    acted_on = {name: values[mask].tolist() for name, values in key.items()}
    act(store, START + DAY, **acted_on)
    learn(store, **acted_on, churned=[True] * int(mask.sum()))
    whole = reference.first_labelled(store, CONTRACT, "1", 10_000, START + 3 * DAY, START + 3 * DAY)
    assert 100 < whole.num_rows < 200
    assert np.mean(whole.column("probability").to_numpy()) == pytest.approx(score.mean(), abs=0.05)  # not .36
    for step in (1, 70, 10_000):
        monkeypatch.setattr(reference, "STEP_ROWS", step)
        first = reference.first_labelled(store, CONTRACT, "1", 50, START + 3 * DAY, START + 3 * DAY)
        assert first == whole.slice(0, 50)


def test_actions_go_with_their_key_and_with_what_retention_removes(store, predicted):
    act(store, customer=[1, 2, 9], month=["m"] * 3)
    erased_keys.record_key(store, "churn", {"customer": 1, "month": "m"}, START + 3 * DAY)
    erase_rows(store, CONTRACT, {"customer": 1, "month": "m"}, START + 3 * DAY)
    assert _actions(store) == [2, 9]
    retain(store, "churn", CONTRACT.join, START + 30 * DAY)
    assert _actions(store) == []


def _actions(store):
    with store.read() as connection:
        table = find_tables(connection, "churn").actions
        return sorted(row.customer for row in connection.execute(table.select()))


def test_a_table_of_arrow_without_acted_holds_those_acted_on(store, predicted):
    frame = pa.table({"customer": [1], "month": ["m"], "other": ["x"]})
    record_outcomes(store, CONTRACT.of_actions, frame, now=START + DAY, source="t")
    assert acted(store)[0] == (True, None)
