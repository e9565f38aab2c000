"""A history is read whole and in order, or it is said what is wrong with it."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from feedback_loop.clock import Window
from feedback_loop.errors import BadInput, NotFound
from feedback_loop.rehearsal import read_history
from tests.builders import binary_contract, customers

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def files(tmp_path):
    """200 predictions, one an hour, the newest first; their outcomes are known two days later."""
    rows = pd.DataFrame(customers(200, 0))
    made = pd.Series([START + timedelta(hours=hour) for hour in range(200)])
    predictions = rows.drop(columns="churned").assign(prediction=True, probability=0.7, predicted_at=made)
    outcomes = rows[["customer", "month", "churned"]].assign(recorded_at=made + 2 * DAY)
    return predictions.iloc[::-1], outcomes, tmp_path


def read(predictions, outcomes, folder, **options):
    predictions.to_parquet(folder / "p.parquet")
    outcomes.to_csv(folder / "o.csv", index=False)
    return read_history(binary_contract(), folder / "p.parquet", folder / "o.csv", DAY, **options)


def test_it_is_in_the_order_of_time_and_every_row_is_in_one_window(files):
    history = read(*files)
    assert history.span == (START, START + timedelta(hours=199))
    assert (history.labelled, history.notes) == (200, ())
    days = [Window(START + day * DAY, START + (day + 1) * DAY) for day in range(12)]
    assert [history.predicted(day)[0].num_rows for day in days[:9]] == [24] * 8 + [8]
    # What is known at the very end of a day is known by then.
    assert [history.learned(day).num_rows for day in days] == [0, 1, *[24] * 8, 7, 0]
    first, outputs = history.predicted(days[0])
    assert first.column("customer").to_pylist() == list(range(24))
    assert outputs.column("probability").to_pylist() == [0.7] * 24
    assert first.column("prediction_id").null_count == 0
    again = read(*files)
    assert again.inputs.equals(history.inputs)


def test_a_part_of_it_leaves_the_other_outcomes_out_and_says_so(files):
    history = read(*files, start=START + DAY, end=START + 7 * DAY)
    assert (history.inputs.num_rows, history.outcomes.num_rows) == (144, 144)
    assert history.notes == ("56 outcomes are of no prediction that is played: left out.",)


def test_outcomes_without_a_time_are_known_when_their_predictions_have_matured(files):
    predictions, outcomes, folder = files
    history = read(predictions, outcomes.drop(columns="recorded_at"), folder)
    assert history.outcomes.column("recorded_at")[0].as_py() == START + DAY
    assert history.notes[0].startswith("200 outcomes say no time")


def test_outcomes_may_name_the_prediction_itself(files):
    predictions, outcomes, folder = files
    ids = read(*files).inputs.column("prediction_id").to_pylist()
    named = outcomes.drop(columns=["customer", "month"]).assign(prediction_id=ids)
    history = read(predictions.assign(prediction_id=ids[::-1]), named, folder)
    assert history.labelled == 200


def test_what_can_not_be_played_is_refused_with_its_cause(files):
    predictions, outcomes, folder = files
    with pytest.raises(BadInput, match=r"they have no customer, month in common\. They find each other by the key"):
        read(predictions, outcomes.assign(customer=outcomes["customer"] + 1000), folder)
    with pytest.raises(BadInput, match="only 50 of 200 predictions have one; 100 are needed"):
        read(predictions, outcomes.head(50), folder)
    with pytest.raises(BadInput, match="has none of that time"):
        read(predictions, outcomes, folder, start=START + 100 * DAY)
    with pytest.raises(BadInput, match="has none of the columns prediction, probability"):
        read(predictions.drop(columns=["prediction", "probability"]), outcomes, folder)
    with pytest.raises(BadInput, match=r"churned: is missing.*Mend .*o\.csv"):
        read(predictions, outcomes.drop(columns="churned"), folder)
    with pytest.raises(NotFound, match=r"p\.parquet"):
        read_history(binary_contract(), folder / "none" / "p.parquet", folder / "o.csv", DAY)
