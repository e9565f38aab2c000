"""Outcomes, on both databases."""

import threading
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from feedback_loop.clock import Window
from feedback_loop.errors import BadInput
from feedback_loop.inference import input_rows
from feedback_loop.outcomes import record_outcomes
from feedback_loop.schema import ColumnType
from feedback_loop.store import Store, fence
from feedback_loop.store.coverage import count_outcomes
from feedback_loop.store.outcomes import Intake
from feedback_loop.store.predictions import PredictionLog, read_labelled
from tests.builders import binary_contract, multiclass_contract, prediction_rows, regression_contract

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WHOLE = Window(START - 400 * DAY, START + 400 * DAY)
CONTRACT = binary_contract()


@pytest.fixture
def predicted(store):
    """Three customers, predicted in March."""
    rows = prediction_rows(CONTRACT, [START] * 3, customer=[1, 2, 3], month=["m"] * 3)
    PredictionLog(store).append(CONTRACT, rows, START)
    return rows.column("prediction_id").to_pylist()


def take(store, now=START + DAY, **columns):
    return record_outcomes(store, CONTRACT, columns, now=now, source="test")


def labels(store, as_of=None):
    rows = read_labelled(store, CONTRACT, WHOLE, as_of=as_of).sort_by("customer")
    return rows.column("churned").to_pylist()


def test_outcomes_find_their_prediction_by_key(store, predicted):
    result = take(store, customer=[1, 3], month=["m", "m"], churned=[True, False])
    assert result.counts == Intake(received=2, new=2)
    assert labels(store) == [True, None, False]


def test_outcomes_find_their_prediction_by_id_and_that_goes_first(store, predicted):
    take(store, customer=[1], month=["m"], churned=[False])
    result = take(store, prediction_id=[predicted[0].upper()], churned=[True])
    assert result.counts == Intake(received=1, new=1)
    assert labels(store) == [True, None, None]


def test_the_same_outcome_again_changes_nothing(store, predicted):
    frame = {"customer": [1], "month": ["m"], "churned": [True]}
    take(store, **frame)
    assert take(store, now=START + 2 * DAY, **frame).counts == Intake(received=1, unchanged=1)
    assert take(store, now=START + 3 * DAY, occurred_at=[START + DAY], **frame).counts.unchanged == 1
    assert labels(store) == [True, None, None]


def test_another_value_is_a_correction_and_the_old_one_stays_known_as_of_then(store, predicted):
    take(store, customer=[1], month=["m"], churned=[True])
    result = take(store, now=START + 2 * DAY, customer=[1], month=["m"], churned=[False])
    assert result.counts == Intake(received=1, corrected=1)
    assert labels(store) == [False, None, None]
    assert labels(store, as_of=START + DAY) == [True, None, None]
    assert labels(store, as_of=START + DAY - timedelta.resolution) == [None, None, None]


def test_another_time_is_a_correction_only_where_times_are_given(store, predicted):
    frame = {"customer": [1], "month": ["m"], "churned": [True]}
    take(store, occurred_at=[START], **frame)
    assert take(store, occurred_at=[START + DAY], **frame).counts.corrected == 1


def test_corrections_within_one_batch_are_taken_in_their_order(store, predicted):
    result = take(store, customer=[1] * 4, month=["m"] * 4, churned=[True, True, False, True])
    assert result.counts == Intake(received=4, new=1, corrected=2, unchanged=1)
    assert labels(store) == [True, None, None]


def test_an_outcome_without_a_prediction_is_kept_and_counted_and_waits_for_it(store, predicted):
    result = take(store, customer=[9, 1], month=["m", "m"], churned=[True, True])
    assert result.counts == Intake(received=2, new=2, unmatched=1)
    assert count_outcomes(store, "churn") == 2
    later = prediction_rows(CONTRACT, [START + DAY], customer=[9], month=["m"])
    PredictionLog(store).append(CONTRACT, later, START)
    assert labels(store) == [True, None, None, True]
    assert count_outcomes(store, "churn") == 2


def test_one_key_labels_every_prediction_of_it(store, predicted):
    again = prediction_rows(CONTRACT, [START + DAY], customer=[1], month=["m"])
    PredictionLog(store).append(CONTRACT, again, START)
    take(store, customer=[1], month=["m"], churned=[True])
    assert labels(store) == [True, True, None, None]


def test_a_key_matches_in_all_its_parts(store, predicted):
    result = take(store, customer=[1, 2], month=["other", "m"], churned=[True, True])
    assert result.counts.unmatched == 1
    assert labels(store) == [None, True, None]


@pytest.mark.parametrize(
    ("columns", "row", "field"),
    [
        ({"customer": [1, 2], "month": ["m", "m"], "churned": [True, None]}, 1, "churned"),
        ({"customer": [1, None], "month": ["m", "m"], "churned": [True, True]}, 1, ""),
        ({"customer": [1, 2], "month": ["m", 3], "churned": [True, True]}, 1, "month"),
        ({"customer": [1, 2.5], "month": ["m", "m"], "churned": [True, True]}, 1, "customer"),
        ({"prediction_id": ["nonsense"], "churned": [True]}, 0, "prediction_id"),
        ({"customer": [1], "month": ["m"], "churned": [True], "occurred_at": ["soon"]}, 0, "occurred_at"),
        ({"customer": [1], "month": ["m"], "churned": [True], "recorded_at": ["2030-01-01"]}, 0, "recorded_at"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_stored_unless_it_is_to_be_skipped(store, predicted, columns, row, field):
    with pytest.raises(BadInput) as caught:
        take(store, **columns)
    assert (caught.value.problems[0].row, caught.value.problems[0].field) == (row, field)
    assert labels(store) == [None, None, None]
    result = record_outcomes(store, CONTRACT, columns, now=START + DAY, source="t", on_error="skip")
    assert ([(problem.row, problem.field) for problem in result.skipped], result.counts.new) == ([(row, field)], row)
    assert labels(store) == [True if row else None, None, None]


@pytest.mark.parametrize("text", [False, True])
def test_an_empty_key_names_no_prediction_and_joins_no_strangers(store, text):
    contract = binary_contract(key_types={})
    rows = input_rows(
        contract, {"age": [40.0, 50.0], "plan": ["pro", "pro"], "customer": ["", ""], "month": ["m", "m"]}
    )
    keys = {name: rows.column(name) for name in ("customer", "month")}
    PredictionLog(store).append(contract, prediction_rows(contract, [START] * 2, **keys), START)
    frame = {"customer": ["", "1"], "month": ["m", ""], "churned": ["true", "true"] if text else [True, True]}
    with pytest.raises(BadInput, match="row 0: names no prediction"):
        record_outcomes(store, contract, frame, now=START, source="t", text=text)
    result = record_outcomes(store, contract, frame, now=START, source="t", text=text, on_error="skip")
    assert (result.counts, [problem.row for problem in result.skipped]) == (Intake(), [0, 1])
    assert read_labelled(store, contract, WHOLE).column("churned").to_pylist() == [None, None]


def test_rows_whose_values_are_of_another_kind_are_left_out_like_other_bad_rows(store, predicted):
    rows = [{"customer": number, "month": "m", "churned": True} for number in (1, 2, 3)]
    rows[1]["churned"], rows[2]["occurred_at"] = "perhaps", "2026-03-02"
    rows += [{"customer": 2, "month": "m", "churned": False, "occurred_at": 7}, {"customer": "x", "churned": True}]
    with pytest.raises(BadInput, match="row 1: churned: 'perhaps' does not fit the type boolean"):
        record_outcomes(store, CONTRACT, rows, now=START + DAY, source="t")
    result = record_outcomes(store, CONTRACT, rows, now=START + DAY, source="t", on_error="skip")
    assert [(problem.row, problem.field) for problem in result.skipped] == [
        (1, "churned"),
        (3, "occurred_at"),
        (4, "customer"),
    ]
    assert labels(store) == [True, None, True]


def test_a_key_called_like_our_columns_is_the_callers(store):
    contract = binary_contract(key=("prediction_id", "occurred_at"), key_types={"occurred_at": ColumnType.LONG})
    keys = {"prediction_id_2": ["a", "b"], "occurred_at_2": [1, 2]}
    rows = prediction_rows(contract, [START] * 2, **keys)
    PredictionLog(store).append(contract, rows, START)
    by_key = {"prediction_id": ["a"], "occurred_at": [1], "churned": [True], "feedback_loop_occurred_at": [START]}
    by_id = {"feedback_loop_prediction_id": rows.column("prediction_id").to_pylist()[1:], "churned": [False]}
    for frame in (by_key, by_id):
        assert record_outcomes(store, contract, frame, now=START + DAY, source="t").counts.new == 1
    labelled = read_labelled(store, contract, WHOLE).sort_by("prediction_id_2")
    assert labelled.column("churned").to_pylist() == [True, False]


def test_a_missing_label_column_is_refused_whatever_the_mode(store, predicted):
    with pytest.raises(BadInput, match="churned: is missing"):
        record_outcomes(store, CONTRACT, {"customer": [1]}, now=START, source="t", on_error="skip")


def evaluated(store, as_of):
    assert fence.close(store, "churn", as_of) == as_of


def test_nothing_is_recorded_before_a_moment_that_was_asked_about(store, predicted):
    evaluated(store, START + 5 * DAY)
    with pytest.raises(BadInput, match="already evaluated"):
        take(store, now=START + 6 * DAY, customer=[1], month=["m"], churned=[True], recorded_at=[START + 5 * DAY])
    later = [START + 5 * DAY + timedelta.resolution]
    take(store, now=START + 6 * DAY, customer=[1], month=["m"], churned=[True], recorded_at=later)
    assert labels(store, as_of=START + 5 * DAY) == [None, None, None]


@pytest.mark.parametrize("now", [START + 5 * DAY, START + 4 * DAY])
def test_a_clock_that_stands_still_or_was_set_back_does_not_change_what_was_known(store, predicted, now):
    evaluated(store, START + 5 * DAY)
    take(store, now=now, customer=[1], month=["m"], churned=[True])
    assert labels(store, as_of=START + 5 * DAY) == [None, None, None]
    assert labels(store) == [True, None, None]


@pytest.mark.parametrize(
    ("classes", "label_type", "labels", "bad", "message"),
    [
        (
            (0, 1),
            ColumnType.LONG,
            [1, -1, 1],
            [1],
            "-1 is none of the classes (0, 1): are -1, 1 another coding of them?",
        ),
        ((0, 1), ColumnType.LONG, [0, 1, 2], [2], "2 is none of the classes (0, 1)"),
        (("no", "yes"), ColumnType.STRING, ["Yes ", "no", "no"], [0], "is it meant to be 'yes'?"),
        ((0, 1), ColumnType.LONG, [0, 1, 0], [], ""),
    ],
)
def test_outcomes_of_no_known_class_are_refused_with_the_classes_and_the_likely_cause(
    store, classes, label_type, labels, bad, message
):
    contract = binary_contract(classes=classes, label_type=label_type)
    frame = {"customer": [1, 2, 3], "month": ["m"] * 3, "churned": labels}
    if bad:
        with pytest.raises(BadInput) as caught:
            record_outcomes(store, contract, frame, now=START, source="t")
        assert message in str(caught.value)
        assert "models.churn.classes" in str(caught.value)
        assert count_outcomes(store, "churn") == 0
    result = record_outcomes(store, contract, frame, now=START, source="t", on_error="skip")
    assert [(problem.row, problem.field) for problem in result.skipped] == [(row, "churned") for row in bad]
    assert result.counts.new == 3 - len(bad)


def test_a_class_that_is_new_and_real_is_taken_once_the_configuration_names_it(store):
    rows = prediction_rows(multiclass_contract(), [START])
    PredictionLog(store).append(multiclass_contract(), rows, START)
    frame = {"prediction_id": rows.column("prediction_id").to_pylist(), "kind": ["d"]}
    contract = multiclass_contract(settled=("a", "d"))
    assert (contract.classes, contract.more_classes) == (("a", "b", "c"), ("d",))
    record_outcomes(store, contract, frame, now=START + DAY, source="t")
    assert read_labelled(store, contract, WHOLE).column("kind").to_pylist() == ["d"]
    with pytest.raises(BadInput, match="none of the classes"):  # what it names is all that has come up
        record_outcomes(store, contract, frame | {"kind": ["e"]}, now=START + DAY, source="t")


def test_a_word_that_came_up_is_a_class_of_its_own_unless_it_is_another_spelling(store):
    contract = multiclass_contract()
    rows = prediction_rows(contract, [START] * 2)
    PredictionLog(store).append(contract, rows, START)
    frame = {"prediction_id": rows.column("prediction_id").to_pylist(), "kind": ["d", "A "]}
    with pytest.raises(BadInput, match="is it meant to be 'a'") as caught:
        record_outcomes(store, contract, frame, now=START + DAY, source="t")
    assert [problem.row for problem in caught.value.problems] == [1]
    record_outcomes(store, contract, frame, now=START + DAY, source="t", on_error="skip")
    assert set(read_labelled(store, contract, WHOLE).column("kind").to_pylist()) == {"d", None}


@pytest.mark.parametrize("paid", [float("inf"), float("-inf")])
def test_an_infinite_outcome_is_refused_and_the_greatest_number_is_taken(store, paid):
    contract = regression_contract()
    rows = prediction_rows(contract, [START] * 2)
    PredictionLog(store).append(contract, rows, START)
    frame = {"prediction_id": rows.column("prediction_id").to_pylist(), "paid": [1.7e308, paid]}
    with pytest.raises(BadInput, match="paid: is infinite"):
        record_outcomes(store, contract, frame, now=START + DAY, source="t")
    taken = record_outcomes(store, contract, frame, now=START + DAY, source="t", on_error="skip")
    assert (taken.counts.new, [problem.row for problem in taken.skipped]) == (1, [1])


def test_a_model_without_a_key_takes_outcomes_by_id_only(store):
    with pytest.raises(BadInput, match="none is configured"):
        record_outcomes(store, multiclass_contract(), {"kind": ["a"]}, now=START, source="t")


def test_many_correct_the_same_outcome_at_once_and_every_revision_is_kept(store, predicted):
    failures = []

    def write(value):
        try:
            own = Store(store.url.render_as_string(hide_password=False))
            for turn in range(5):
                frame = {"customer": [1], "month": ["m"], "churned": [bool((turn + value) % 2)]}
                record_outcomes(own, CONTRACT, frame, now=START + DAY, source=str(value))
            own.close()
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=write, args=[value]) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with store.read() as connection:
        revisions = (
            connection.exec_driver_sql("SELECT revision FROM outcomes_churn ORDER BY revision").scalars().all()
        )
    assert revisions == list(range(1, len(revisions) + 1))


def test_nothing_at_all_is_taken_in_as_nothing(store, predicted):
    assert take(store, customer=[], month=[], churned=[]).counts == Intake()


@pytest.mark.parametrize("column", ["occurred_at", "recorded_at"])
@pytest.mark.parametrize("moment", [-8_629_764_877_457_555_455, 253_402_300_800_000_000])
def test_a_moment_that_nobody_could_read_back_is_refused_and_good_rows_of_its_key_are_taken(
    store, predicted, column, moment
):
    bad = {"customer": [1, 1], "month": ["m"] * 2, "churned": [True, True]}
    rows = pa.table(bad | {column: pa.array([None, moment], pa.timestamp("us", "UTC"))})
    with pytest.raises(BadInput) as refused:
        record_outcomes(store, CONTRACT, rows, now=START + DAY, source="test")
    assert [(problem.row, problem.field) for problem in refused.value.problems] == [(1, column)]
    taken = record_outcomes(store, CONTRACT, rows, now=START + DAY, source="test", on_error="skip")
    assert (taken.counts.new, [problem.row for problem in taken.skipped]) == (1, [1])
    again = record_outcomes(store, CONTRACT, rows.slice(0, 1), now=START + DAY, source="test")
    assert again.counts == Intake(received=1, unchanged=1)


def test_a_key_that_no_index_holds_is_refused_and_the_longest_is_found(store):
    for text, fits in (("\U0001f600" * 125, True), ("x" * 501, False)):
        rows = [{"customer": 1, "month": text, "churned": True}]
        if fits:
            assert record_outcomes(store, CONTRACT, rows, now=START + DAY, source="test").counts.new == 1
        else:
            with pytest.raises(BadInput, match="month: is longer"):
                record_outcomes(store, CONTRACT, rows, now=START + DAY, source="test")


@pytest.mark.parametrize("odd", [[None, None], [1], {"a": 1}, {}])
@pytest.mark.parametrize("column", ["prediction_id", "customer", "month", "churned", "occurred_at"])
def test_a_list_or_an_object_is_refused_by_its_column(sqlite_store, column, odd):
    row = {"customer": 1, "month": "m", "churned": True}
    with pytest.raises(BadInput, match=f"row 0: {column}"):
        record_outcomes(sqlite_store, CONTRACT, pa.Table.from_pylist([row | {column: odd}]), now=START, source="test")
