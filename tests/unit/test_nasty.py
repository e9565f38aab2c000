"""Nasty data: whatever stands in a column, every figure is a number or absent, and no look loses a row to it."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn import metrics

from feedback_loop.clock import Window
from feedback_loop.errors import BadInput
from feedback_loop.monitoring.evaluation import profile_of_reference
from feedback_loop.monitoring.validation import validation_metrics
from feedback_loop.schema import Column, ColumnType, as_table, coerce
from tests.builders import binary_contract, evaluate_rows, multiclass_contract, regression_contract

DAY = timedelta(days=1)
WINDOW = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
ROWS = 300
TYPES = {ColumnType.DOUBLE: pa.float64(), ColumnType.LONG: pa.int64(), ColumnType.STRING: pa.string()}
BIG = 2**53

NASTY = {
    "ordinary": (ColumnType.DOUBLE, np.linspace(0, 1, ROWS)),
    "all missing": (ColumnType.DOUBLE, [None] * ROWS),
    "not a number": (ColumnType.DOUBLE, [float("nan")] * ROWS),
    "infinite": (ColumnType.DOUBLE, [float("inf")] * ROWS),
    "infinite both ways": (ColumnType.DOUBLE, [float("inf"), float("-inf")] * (ROWS // 2)),
    "some of each": (ColumnType.DOUBLE, [None, float("nan"), float("inf"), float("-inf"), 0.0, -0.0] * (ROWS // 6)),
    "constant": (ColumnType.DOUBLE, [3.0] * ROWS),
    "hardly constant": (ColumnType.DOUBLE, [1.0, 1.0 + 2**-52] * (ROWS // 2)),
    "as large as can be": (ColumnType.DOUBLE, [1.7e308, -1.7e308] * (ROWS // 2)),
    "as small as can be": (ColumnType.DOUBLE, [5e-324, -5e-324] * (ROWS // 2)),
    "beyond 2^53": (ColumnType.LONG, [BIG + place for place in range(ROWS)]),
    "the ends of whole numbers": (ColumnType.LONG, [2**63 - 1, -(2**63)] * (ROWS // 2)),
    "missing words": (ColumnType.STRING, [None] * ROWS),
    "one word": (ColumnType.STRING, ["a"] * ROWS),
    "a word each": (ColumnType.STRING, [f"w{place}" for place in range(ROWS)]),
    "empty and odd words": (ColumnType.STRING, ["", " ", "\n", "(new)", "(missing)", "ü\u0000x"] * (ROWS // 6)),
}


def contract_of(kind):
    return replace(binary_contract(), features=(Column("x", kind, required=False),), segments=(), key=())


def rows_of(kind, values, seed=1):
    random = np.random.default_rng(seed)
    chance = random.random(len(values))
    truth = pa.array(random.random(len(values)) < chance, mask=random.random(len(values)) < 0.2)
    rows = {"churned": truth, "prediction": chance > 0.5, "probability": chance}
    return pa.table({**rows, "x": pa.array(values, TYPES[kind], from_pandas=False)})


def evaluated(contract, rows, reference=None):
    profile = profile_of_reference(contract, reference, DAY) if reference is not None else None
    return evaluate_rows(contract, rows, profile, version="1", window=WINDOW, as_of=WINDOW.end, matured=True)


def assert_numbers(evaluation):
    for name in ("metrics", "drift", "quality"):
        for each in getattr(evaluation, name):
            numbers = {field: value for field, value in vars(each).items() if isinstance(value, float)}
            assert all(math.isfinite(value) for value in numbers.values()), each


@pytest.mark.parametrize("now", NASTY)
@pytest.mark.parametrize("before", ["ordinary", "itself"])
def test_a_column_of_any_values_breaks_nothing_and_costs_no_metric_a_row(now, before):
    kind, values = NASTY[now]
    contract, rows = contract_of(kind), rows_of(kind, values)
    known = values if before == "itself" else NASTY["ordinary"][1]
    if now == "a word each":  # as new to each other as rows are that come
        known = [f"another {place}" for place in range(ROWS)]
    if before == "ordinary" and kind is not ColumnType.DOUBLE:
        known = [str(place % 7) if kind is ColumnType.STRING else place for place in range(ROWS)]
    found = evaluated(contract, rows, rows_of(kind, known, seed=2))
    assert_numbers(found)
    assert found.predictions == ROWS
    assert found.drift
    assert found.metrics == evaluated(contract, rows.drop_columns("x"), rows_of(kind, known, seed=2)).metrics
    again = evaluated(contract, rows_of(kind, known, seed=3), rows)  # the other way round
    assert_numbers(again)
    if before == "itself":
        assert not [each for each in found.drift if each.column == "x" and each.drifted]
        assert not [each for each in found.quality if each.column == "x" and each.failed]


@pytest.mark.parametrize("now", NASTY)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_rows_of_any_values_say_how_many_are_missing(now, count):
    kind, values = NASTY[now]
    contract = contract_of(kind)
    rows = rows_of(kind, values).slice(0, count)
    found = evaluated(contract, rows, rows_of(kind, values, seed=2))
    assert_numbers(found)
    assert (found.metric("insufficient_data") is not None) == bool(count)
    assert {each.method for each in found.drift} == ({"insufficient_data"} if count else set())
    assert_numbers(evaluated(contract, rows_of(kind, values), rows))  # a reference of as few


def test_a_hundred_thousand_categories_are_looked_at_like_a_few():
    words = [f"w{place}" for place in range(100_000)]
    contract = contract_of(ColumnType.STRING)
    rows = rows_of(ColumnType.STRING, words)
    found = evaluated(contract, rows, rows_of(ColumnType.STRING, [f"another {word}" for word in words], seed=2))
    assert_numbers(found)
    assert not [each for each in found.drift if each.column == "x" and each.drifted]
    assert found.metrics == evaluated(contract, rows.drop_columns("x"), rows).metrics


@pytest.mark.parametrize("truth", ["yes", "no", "both"])
@pytest.mark.parametrize("chance", [0.0, 1e-300, 0.5, 1.0, "any"])
def test_binary_metrics_of_one_class_and_of_constant_scores_are_scikit_learns(truth, chance):
    random = np.random.default_rng(4)
    outcomes = {"yes": np.ones(200, bool), "no": np.zeros(200, bool), "both": random.random(200) < 0.4}[truth]
    chances = random.random(200) if chance == "any" else np.full(200, chance)
    answers = chances > 0.5
    rows = pa.table({"churned": outcomes, "prediction": answers, "probability": chances})
    found = {each.metric: each.value for each in validation_metrics(binary_contract(), rows)}
    exact = {
        "accuracy": metrics.accuracy_score(outcomes, answers),
        "brier": metrics.brier_score_loss(outcomes, chances, labels=[False, True]),
        "log_loss": metrics.log_loss(outcomes, chances, labels=[False, True]),
    }
    assert {name: found[name] for name in exact} == pytest.approx(exact, rel=1e-9, abs=1e-12)
    hits, misses = outcomes.any(), not outcomes.all()
    assert ("roc_auc" in found) == (hits and misses)
    assert ("pr_auc" in found) == ("lift" in found) == hits
    assert ("recall" in found) == hits
    assert ("precision" in found) == answers.any()
    if hits:
        assert found["pr_auc"] == pytest.approx(metrics.average_precision_score(outcomes, chances), abs=1e-3)
        assert found["recall"] == metrics.recall_score(outcomes, answers)
    if hits and misses:
        assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(outcomes, chances), abs=1e-3)


@pytest.mark.parametrize("classes", [1, 2, 300])
def test_metrics_of_one_class_and_of_very_many_are_scikit_learns(classes):
    random = np.random.default_rng(5)
    names = [f"c{number:03}" for number in range(classes)]
    truth, answers = random.choice(names, 5000), random.choice(names, 5000)
    rows = pa.table({"kind": truth, "prediction": answers})
    contract = replace(multiclass_contract(names), outputs=multiclass_contract(names).outputs[:1])
    found = {each.metric: each for each in validation_metrics(contract, rows)}
    assert found["accuracy"].value == pytest.approx(metrics.accuracy_score(truth, answers))
    if classes <= 255:  # beyond, the rest counts as one class
        scores = metrics.precision_recall_fscore_support(truth, answers, average="macro")
        wanted = dict(zip(("precision_macro", "recall_macro", "f1_macro"), scores, strict=False))
        assert {name: found[name].value for name in wanted} == pytest.approx(wanted)
    bounded = [each for each in found.values() if each.least is not None]
    assert len(bounded) > 1
    assert all(each.least - 1e-9 <= each.value <= each.most + 1e-9 for each in bounded)


@pytest.mark.parametrize(
    ("truth", "answers"),
    [
        ([7.0] * 50, [7.0] * 50),
        ([7.0] * 50, np.linspace(0, 1, 50)),
        ([0.0] * 50, np.linspace(0, 1, 50)),
        ([float(BIG + 2 * place) for place in range(50)], [float(BIG)] * 50),
        ([3.0], [4.0]),
        ([float("inf"), float("-inf"), float("nan"), 1.0, 2.0, 4.0], [1.0, 1.0, 1.0, 1.5, 2.0, 9.0]),
        ([1.0, 2.0, 3.0], [float("inf"), float("nan"), 2.5]),
        ([1e-320, 2e-320, 3e-320], [0.0, 0.0, 0.0]),
    ],
)
def test_regression_metrics_are_scikit_learns_on_what_is_a_number(truth, answers):
    truth, answers = np.asarray(truth), np.asarray(answers)
    rows = pa.table({"paid": pa.array(truth, from_pandas=False), "prediction": pa.array(answers, from_pandas=False)})
    found = {each.metric: each for each in validation_metrics(regression_contract(), rows)}
    known = np.isfinite(truth) & np.isfinite(answers)
    truth, answers = truth[known], answers[known]
    exact = {
        "mae": metrics.mean_absolute_error(truth, answers),
        "rmse": metrics.root_mean_squared_error(truth, answers),
        "mape": metrics.mean_absolute_percentage_error(truth, answers),
        "bias": (answers - truth).mean(),
        "quantile_loss_0.9": metrics.mean_pinball_loss(truth, answers, alpha=0.9),
    }
    assert {name: found[name].value for name in exact} == pytest.approx(exact, rel=1e-9)
    assert found["mae"].rows == known.sum()
    if len(truth) < 2 or np.ptp(truth) == 0:
        assert "r2" not in found  # scikit-learn makes up 0 or 1


def test_values_of_mixed_types_are_the_fault_of_their_rows_and_no_fault_where_nobody_takes_them():
    frame = pd.DataFrame(
        {"age": [30, "old", 41.5, None], "plan": ["pro", 7, None, "basic"], "other": [1, "a", b"b", {}]}
    )
    wanted = binary_contract().features
    with pytest.raises(BadInput) as raised:
        coerce(as_table(frame, {column.name for column in wanted}), wanted)
    assert {(each.row, each.field) for each in raised.value.problems} == {(1, "age"), (1, "plan")}
    mended = frame.assign(age=[30, 31, 41.5, None], plan=["pro", "7", None, "basic"])
    rows = coerce(as_table(mended, {column.name for column in wanted}), wanted)
    assert rows.to_pydict() == {"age": [30, 31, 41.5, None], "plan": ["pro", "7", None, "basic"]}
