"""What a version that does not answer yet would serve: its answers, and an adapter fed with them as outcomes come."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from feedback_loop.adaptation import Anticipation, Look, begin, outcomes_of
from feedback_loop.schema import Task, arrow_type
from tests.adapters import DAY, Stream, adapter_contract

START = datetime(2026, 3, 1, tzinfo=UTC)
DAYS, ROWS = 12, 150


def logged(stream, shift=0.3):
    """Rows of so many days by stored names with a version's own answers; and these as `Coefficients` take them."""
    contract = stream.contract
    features, raw, outcomes = stream.rows(DAYS * ROWS, shift)
    labels = [contract.classes[int(place)] for place in outcomes] if contract.classes else outcomes.tolist()
    times = [START + DAY * (row // ROWS) for row in range(DAYS * ROWS)]
    if stream.task is Task.MULTICLASS:
        columns = [[contract.classes[place] for place in raw.argmax(axis=1)], *raw.T]
    else:
        columns = [raw] if stream.task is Task.REGRESSION else [raw >= 0.5, raw]
    answers = {
        output.stored: pa.array(column, arrow_type(output.type))
        for output, column in zip(contract.outputs, columns, strict=True)
    }
    return pa.table(
        {**features, **answers, "y": labels, "predicted_at": pa.array(times, pa.timestamp("us", "UTC"))}
    ), raw


def moments(rows, delay):
    """When each row's outcome is known: so many days after its day began."""
    return rows.column("predicted_at").cast(pa.timestamp("us")).to_numpy() + np.timedelta64(delay, "D")


def answers_of(contract, rows):
    """The numbers that rows hold as answers."""
    columns = [rows.column(output.stored).to_numpy() for output in contract.outputs]
    return columns[0] if contract.task is Task.REGRESSION else np.column_stack(columns[1:]).squeeze()


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS, Task.REGRESSION])
@pytest.mark.parametrize("delay", [1, 3])
def test_each_day_is_answered_by_what_was_known_when_it_began(task, delay):
    stream = Stream(task, seed=4)
    adapter = begin(stream.contract, stream.reference(), DAY)
    rows, raw = logged(stream)
    served = Anticipation(adapter, DAY).served(stream.contract, rows, moments(rows, delay))
    outcomes, expected, looks = outcomes_of(stream.contract, rows.column("y")), raw.copy(), []
    for day in range(DAYS):
        if day >= delay:
            adapter = adapter.after(looks[day - delay])
        its = slice(day * ROWS, (day + 1) * ROWS)
        features = {name: rows.column(name).slice(its.start, ROWS) for name in ("size", "town")}
        expected[its] = adapter.coefficients.apply(raw[its], features)
        looks.append(Look(raw[its], expected[its], outcomes[its], features))
    assert answers_of(stream.contract, served) == pytest.approx(expected, abs=1e-12)
    assert np.abs(expected - raw)[-ROWS:].max() > 0.01
    assert served.schema == rows.schema


def test_rows_without_an_answer_keep_what_they_have_and_teach_nothing():
    stream = Stream(Task.REGRESSION, seed=5)
    adapter = begin(stream.contract, stream.reference(), DAY)
    rows, raw = logged(stream)
    raw[::7] = np.nan
    output = stream.contract.outputs[0].stored
    rows = rows.set_column(rows.column_names.index(output), output, pa.array(raw))
    served = answers_of(stream.contract, Anticipation(adapter, DAY).served(stream.contract, rows, moments(rows, 1)))
    assert (np.isnan(served) == np.isnan(raw)).all()
    whole = rows.filter(pa.array(~np.isnan(raw)))
    alone = Anticipation(adapter, DAY).served(stream.contract, whole, moments(whole, 1))
    assert served[~np.isnan(raw)] == pytest.approx(answers_of(stream.contract, alone))


def test_a_version_of_other_classes_is_judged_by_its_own_answers():
    stream = Stream(Task.MULTICLASS, seed=6)
    adapter = begin(stream.contract, stream.reference(), DAY)
    rows, _ = logged(stream)
    other = adapter_contract(Task.MULTICLASS, classes=("a", "b", "c", "d"))
    assert Anticipation(adapter, DAY).served(other, rows, moments(rows, 1)) is rows


def test_a_promotion_would_end_the_hold_of_a_guard_and_not_that_of_a_person():
    stream = Stream(Task.BINARY, seed=8)
    adapter = begin(stream.contract, stream.reference(), DAY)
    while not adapter.held_by:
        features, raw, _ = stream.rows(ROWS)
        adapter = adapter.after(Look(raw, raw, np.ones(ROWS), features))
    assert Anticipation(adapter, DAY).promoted.adapter.held_by == ()
    assert Anticipation(adapter.hold(), DAY).promoted.adapter.held_by == ("hand",)


def test_of_no_rows_nothing_is_served():
    stream = Stream(Task.BINARY, seed=7)
    rows = logged(stream)[0].slice(0, 0)
    adapter = begin(stream.contract, stream.reference(), DAY)
    assert Anticipation(adapter, DAY).served(stream.contract, rows, moments(rows, 1)).num_rows == 0
