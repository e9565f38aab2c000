"""The hot queries find their rows by an index: one that reads whole tables costs what is old, not what is new."""

import itertools
import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from feedback_loop.clock import Window
from feedback_loop.outcomes import record_outcomes
from feedback_loop.schema import JoinRule, Which
from feedback_loop.store import joins
from feedback_loop.store.coverage import count_by_version
from feedback_loop.store.predictions import PredictionLog, count_predictions, read_labelled
from feedback_loop.store.retention import retain
from tests.builders import binary_contract, prediction_rows

START = datetime(2026, 3, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ROWS = 20_000
RULES = [
    JoinRule(),
    JoinRule(horizon=timedelta(hours=1), which=Which.LAST, absent_means=False),
    JoinRule(needs_action=True),
    JoinRule(horizon=timedelta(hours=1), which=Which.LAST, needs_action=True),
]


def filled(store, contract):
    """A log of some size, as the planner needs it, with everything joined that there is."""
    moments = [START + place * SECOND for place in range(ROWS)]
    rows = prediction_rows(contract, moments, customer=list(range(ROWS)), month=["m"] * ROWS)
    for start in range(0, ROWS, 5000):
        PredictionLog(store).append(contract, rows.slice(start, 5000), START + start * SECOND)
    by_key = {"customer": list(range(ROWS // 2)), "month": ["m"] * (ROWS // 2), "churned": [True] * (ROWS // 2)}
    by_key |= {"occurred_at": [m + SECOND for m in moments[: ROWS // 2]]}
    record_outcomes(store, contract, by_key, now=START + ROWS * SECOND, source="t")
    # Some by their ids: an index that holds nothing may be read whole.
    by_id = {"prediction_id": rows.column("prediction_id").to_pylist()[ROWS // 2 : ROWS // 2 + 5000]}
    by_id |= {"churned": [True] * 5000, "occurred_at": [START + ROWS * SECOND] * 5000}
    record_outcomes(store, contract, by_id, now=START + ROWS * SECOND, source="t")
    if contract.join.needs_action:
        for named in (by_key, by_id):
            frame = {name: values for name, values in named.items() if name != "churned"}
            record_outcomes(store, contract.of_actions, frame, now=START + ROWS * SECOND, source="t")
    with store.write() as connection:
        connection.exec_driver_sql("ANALYZE")
    joins.join_new(store, contract, timedelta(hours=1), START + 2 * ROWS * SECOND)


def plans_of(store, run):
    """The plans of all statements that `run` executes on the model's own tables."""
    found = []

    def explain(connection, cursor, statement, parameters, context, executemany):
        if executemany or not re.match(r"\s*(SELECT|INSERT.*SELECT|DELETE|UPDATE)", statement, re.DOTALL):
            return
        if not re.search(r"(predictions|outcomes|actions)_churn", statement):
            return
        prefix = "EXPLAIN " if store.is_postgresql else "EXPLAIN QUERY PLAN "
        own = cursor.connection.cursor()
        own.execute(prefix + statement, parameters)
        found.append("\n".join(" ".join(str(value) for value in row) for row in own.fetchall()))

    event.listen(store.engine, "before_cursor_execute", explain)
    try:
        run()
    finally:
        event.remove(store.engine, "before_cursor_execute", explain)
    return found


def whole_tables(plan):
    """The lines of a plan that read a table of the model, or an index of it, from its first row to its last."""
    lines = plan.splitlines()
    found = []
    for place, line in enumerate(lines):
        # SQLite's SCAN, also USING an INDEX, begins at the first entry and ends at the last; SEARCH does not.
        if re.search(r"Seq Scan on (part_)?(predictions|outcomes|actions)_churn", line) or re.search(
            r"SCAN ((predictions|outcomes|actions)_churn|(acted_)?by_\w+|anon_\d+)", line
        ):
            found.append(line)
        elif re.search(
            r"Index (Only )?Scan( Backward)? using \S+ on (part_)?(predictions|outcomes|actions)_churn", line
        ):
            own = itertools.takewhile(lambda line: "->" not in line, lines[place + 1 :])
            if not any("Index Cond:" in condition for condition in own):
                found.append(line)
    return found


@pytest.mark.parametrize(
    ("plan", "whole"),
    [
        ("3 0 0 SCAN outcomes_churn", 1),
        ("3 0 0 SCAN outcomes_churn USING COVERING INDEX ix", 1),
        ("3 0 0 SCAN by_key USING INDEX ix", 1),
        ("3 0 0 SEARCH outcomes_churn USING COVERING INDEX ix (recorded_at>?)", 0),
        ("3 0 0 SCAN affected_predictions", 0),
        ("Seq Scan on part_predictions_churn_2026_03  (cost=0..1)", 1),
        ("->  Index Only Scan using ix on outcomes_churn  (cost=0..1)\n  Heap Fetches: 1", 1),
        (
            "->  Index Scan Backward using ix on outcomes_churn\n  ->  Index Scan using x\n  Index Cond: (a = 1)",
            1,
        ),
        ("->  Index Only Scan using ix on outcomes_churn by_key\n  Filter: b\n  Index Cond: (a = 1)", 0),
    ],
)
def test_a_plan_that_reads_a_whole_table_or_index_is_seen(plan, whole):
    assert len(whole_tables(plan)) == whole


@pytest.mark.parametrize("rule", RULES)
def test_a_join_of_few_new_rows_reads_no_table_from_its_first_row_to_its_last(store, rule):
    contract = binary_contract(join=rule)
    filled(store, contract)
    late = START + 3 * ROWS * SECOND
    moments = [START + place * SECOND for place in range(100)]
    rows = prediction_rows(contract, moments, customer=list(range(100)), month=["m"] * 100)
    PredictionLog(store).append(contract, rows, late)
    frame = {
        "customer": list(range(ROWS - 50, ROWS)),
        "month": ["m"] * 50,
        "churned": [True] * 50,
        "occurred_at": [START + place * SECOND for place in range(ROWS - 49, ROWS + 1)],
    }
    record_outcomes(store, contract, frame, now=late, source="t")
    if contract.join.needs_action:
        acted = {name: values for name, values in frame.items() if name != "churned"}
        record_outcomes(store, contract.of_actions, acted, now=late, source="t")
    plans = plans_of(store, lambda: joins.join_new(store, contract, timedelta(hours=1), late + SECOND))
    assert len(plans) > 5
    assert [line for plan in plans for line in whole_tables(plan)] == []


def test_a_window_is_read_by_its_index_and_predictions_are_counted_without_reading_what_is_joined(store):
    contract = binary_contract()
    filled(store, contract)
    window = Window(START + 100 * SECOND, START + 200 * SECOND)
    [plan] = plans_of(store, lambda: read_labelled(store, contract, window, as_of=START + ROWS * SECOND))
    assert whole_tables(plan) == []
    late = START + 3 * ROWS * SECOND
    moments = [START + place * SECOND for place in range(100)]
    rows = prediction_rows(contract, moments, customer=[1] * 100, month=["m"] * 100, model_version=["2"] * 100)
    PredictionLog(store).append(contract, rows, late)
    counts = {}
    [plan] = plans_of(store, lambda: counts.update(count_by_version(store, "churn")))
    assert counts == {"1": ROWS, "2": 100}
    assert whole_tables(plan) == []
    retain(store, "churn", contract.join, START + timedelta(hours=2))
    left = sum(count_predictions(store, "churn").values())
    assert count_by_version(store, "churn") == {"1": left}
    assert left < ROWS
    joins.join_new(store, contract, timedelta(hours=1), late)
    assert count_by_version(store, "churn") == {"1": left}
    assert count_by_version(store, "nobody") == {}


def test_outcomes_that_come_into_tables_that_nobody_has_analysed_yet_are_looked_up_one_by_one(store):
    contract = binary_contract()
    moments = [START + place * SECOND for place in range(ROWS)]
    rows = prediction_rows(contract, moments, customer=list(range(ROWS)), month=["m"] * ROWS)
    PredictionLog(store).append(contract, rows, START)
    frame = {"customer": list(range(ROWS)), "month": ["m"] * ROWS, "churned": [True] * ROWS}
    plans = plans_of(store, lambda: record_outcomes(store, contract, frame, now=START, source="t"))
    assert plans
    assert [line for plan in plans for line in whole_tables(plan)] == []
