"""The hot queries find their rows by an index: one that reads whole tables costs what is old, not what is new."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from feedback_loop.clock import Window
from feedback_loop.outcomes import record_outcomes
from feedback_loop.schema import JoinRule, Which
from feedback_loop.store import joins
from feedback_loop.store.predictions import PredictionLog, read_labelled
from tests.builders import binary_contract, prediction_rows

START = datetime(2026, 3, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ROWS = 20_000
RULES = [JoinRule(), JoinRule(horizon=timedelta(hours=1), which=Which.LAST, absent_means=False)]


def filled(store, contract):
    """A log of some size, as the planner needs it, with everything joined that there is."""
    moments = [START + place * SECOND for place in range(ROWS)]
    rows = prediction_rows(contract, moments, customer=list(range(ROWS)), month=["m"] * ROWS)
    for start in range(0, ROWS, 5000):
        PredictionLog(store).append(contract, rows.slice(start, 5000), START + start * SECOND)
    known = {"customer": list(range(ROWS // 2)), "month": ["m"] * (ROWS // 2), "churned": [True] * (ROWS // 2)}
    record_outcomes(
        store,
        contract,
        {**known, "occurred_at": [m + SECOND for m in moments[: ROWS // 2]]},
        now=START + ROWS * SECOND,
        source="t",
    )
    with store.write() as connection:
        connection.exec_driver_sql("ANALYZE")
    joins.join_new(store, contract, timedelta(hours=1), START + 2 * ROWS * SECOND)


def plans_of(store, run):
    """The plans of all statements that `run` executes on the model's own tables."""
    found = []

    def explain(connection, cursor, statement, parameters, context, executemany):
        if executemany or not re.match(r"\s*(SELECT|INSERT.*SELECT|DELETE|UPDATE)", statement, re.DOTALL):
            return
        if not re.search(r"(predictions|outcomes)_churn", statement):
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
    """The lines of a plan that read a table of the model from its first row to its last."""
    sqlite = r"SCAN (predictions_churn|outcomes_churn|by_\w+|anon_\d+)(?! USING)"
    reads = rf"Seq Scan on (part_)?(predictions|outcomes)_churn|{sqlite}"
    return [line for line in plan.splitlines() if re.search(reads, line)]


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
    plans = plans_of(store, lambda: joins.join_new(store, contract, timedelta(hours=1), late + SECOND))
    assert len(plans) > 5
    assert [line for plan in plans for line in whole_tables(plan)] == []


def test_a_window_is_read_by_its_index(store):
    contract = binary_contract()
    filled(store, contract)
    window = Window(START + 100 * SECOND, START + 200 * SECOND)
    plans = plans_of(store, lambda: read_labelled(store, contract, window, as_of=START + ROWS * SECOND))
    assert len(plans) == 1
    assert whole_tables(plans[0]) == []
