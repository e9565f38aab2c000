"""No value that the door accepts stops an evaluation or a verdict, whatever it does to sums and squares."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feedback_loop.clock import Window
from feedback_loop.config import ModelSettings
from feedback_loop.decisions import Cohort, judge
from feedback_loop.decisions.losses import baseline_of, losses_of
from feedback_loop.monitoring import labelled_only
from feedback_loop.monitoring.curves import curves
from feedback_loop.monitoring.evaluation import profile_of_reference
from feedback_loop.monitoring.profiles.fold import fold
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.surrogates import drift_columns, labelled_columns
from feedback_loop.store.evaluations import save_evaluation
from tests.builders import binary_contract, evaluate_rows, multiclass_contract, regression_contract
from tests.streams import examples

START, DAY = datetime(2026, 3, 1, tzinfo=UTC), timedelta(days=1)
WINDOW = Window(START, START + DAY)

edges = st.sampled_from(
    [1e160, -1e160, 1e308, -1e308, 1.7976931348623157e308, 1e154, 1e80, 5e-324, -0.0, 2.0**53 + 1]
)
numbers = st.one_of(edges, st.floats(allow_nan=False, allow_infinity=False))
anything = st.one_of(st.none(), edges, st.floats(), st.sampled_from([float("inf"), float("-inf")]))
runs = st.lists(st.tuples(anything, anything, st.one_of(st.none(), numbers)), min_size=1, max_size=8)


def plain(count, seed):
    random = np.random.default_rng(seed)
    return [(float(x), float(x) + 0.1, float(x) + random.normal()) for x in random.normal(5, 1, count)]


def priced(rows):
    x, answers, outcomes = (pa.array(each, pa.float64()) for each in zip(*rows, strict=True))
    times = pa.array([START + place % 6 * DAY for place in range(len(rows))], pa.timestamp("us", "UTC"))
    return pa.table({"predicted_at": times, "x": x, "prediction": answers, "paid": outcomes})


def churned(rows):
    x, answers, _ = zip(*rows, strict=True)
    chances = [
        None if each is None or not np.isfinite(each) else 1 / (1 + np.exp(-np.clip(each, -9, 9))) for each in answers
    ]
    return pa.table(
        {
            "predicted_at": priced(rows).column("predicted_at"),
            "age": pa.array(x, pa.float64()),
            "plan": ["pro"] * len(rows),
            "probability": pa.array(chances, pa.float64()),
            "prediction": pa.array([None if each is None else each > 0.9 for each in chances], pa.bool_()),
            "churned": pa.array([place % 3 > 0 for place in range(len(rows))]),
        }
    )


def kinds(rows):
    """Outcomes of three classes, and one that the model does not know."""
    x, answers, _ = zip(*rows, strict=True)
    return pa.table(
        {
            "predicted_at": priced(rows).column("predicted_at"),
            "x": pa.array(x, pa.float64()),
            "probability_a": pa.array(answers, pa.float64()),
            "probability_b": pa.array([None if each is None else 0.3 for each in answers], pa.float64()),
            "probability_c": pa.array([0.1] * len(rows)),
            "prediction": pa.array([None if each is None else "ab"[bool(each > 0.3)] for each in answers]),
            "kind": ["abcz"[place % 4] for place in range(len(rows))],
        }
    )


TASKS = ((regression_contract(), priced), (binary_contract(), churned), (multiclass_contract(), kinds))


def judged(contract, before, days):
    """The verdicts of two looks at days of rows, by a reference of others."""
    task = {"task": str(contract.task), "label": contract.label.name, "policy": {"reference": 1000}}
    model = ModelSettings(**task)
    baseline = baseline_of(contract, labelled_only(contract, before), model)
    previous, verdicts = None, []
    for day, rows in enumerate(days):
        window = Window(START + day * DAY, START + (day + 1) * DAY)
        cohort = Cohort(window, losses_of(contract, labelled_only(contract, rows)), rows.num_rows)
        asked = {"previous": previous, "drifted_share": None, "now": window.end}
        previous = judge("m", "1", [cohort], baseline, model.policy, **asked)
        verdicts.append(previous)
    return verdicts


def evaluated(contract, table, before, now):
    reference = profile_of_reference(contract, table(before), DAY)
    rows = table(now)
    found = evaluate_rows(contract, rows, reference, version="1", window=WINDOW, as_of=START + DAY, matured=True)
    profile = Profile.of(reference.layout, fold(reference.layout, rows))
    drift_columns(profile, reference), labelled_columns(profile, reference), curves(profile)
    return found


def told(found):
    """Everything as it is written down, which no number that is none may be."""
    parts = (found.metrics, found.drift, found.quality, found.estimates)
    return json.dumps([[vars(value) for value in part] for part in parts], allow_nan=False)


@examples(10)
@example([], [(1e160, 1.0, 1.0)])
@example([], [(1.0, 1.0, 1e160)])
@example([], [(1.0, 1.0, 1e308)] * 4)
@example([(1e308, 1.0, -1e308)] * 4, [(-1e308, 1e308, -1e308)] * 4)
@given(st.one_of(st.just([]), runs), runs)
def test_no_finite_value_stops_an_evaluation(before, now):
    learned = [each for each in before if each[1] is not None and np.isfinite(each[1]) and each[2] is not None]
    for contract, table in TASKS:
        found = evaluated(contract, table, plain(200, 1) + learned, plain(200, 2) + now)
        assert told(found)
        assert found.metric("mae") is not None or found.metric("accuracy") is not None


@examples(6)
@example([], [(1e160, 1.0, 1.0)], [(1.0, 1e308, -1e308)] * 4)
@example([(1e308, 1.0, -1e308)] * 4, [(-1e308, 1e308, -1e308)] * 4, [(1.0, float("inf"), 1.0)])
@example([], [(1.0, float("nan"), 1.0)], [(1.0, float("nan"), 1.0)])
@example([(1.0, float("inf"), 1.0)] * 40, [(1.0, float("inf"), 1.0)], [(1.0, 1.0, 1.0)])
@given(st.one_of(st.just([]), runs), runs, runs)
def test_no_finite_value_stops_a_verdict(before, first, second):
    for contract, table in TASKS:
        days = [table(plain(60, seed) + rows) for seed, rows in ((2, first), (3, second))]
        for verdict in judged(contract, table(plain(1100, 1) + before), days):
            assert json.dumps([verdict.evidence, verdict.monitor], allow_nan=False)
            assert "nan" not in verdict.summary
            assert verdict.evidence["labels"] >= 60


def test_means_are_exact_where_they_are_numbers_and_the_greatest_where_they_are_beyond():
    found = evaluated(regression_contract(), priced, plain(200, 1), [*plain(299, 2), (1.0, 1.0, 1e160)])
    assert found.metric("mae") == pytest.approx(1e160 / 300)
    assert found.metric("rmse") > 1e308
    [drift] = [each for each in found.drift if (each.column, each.method) == ("x", "psi")]
    assert drift.rows == 300


def test_an_infinite_answer_is_missing_from_the_coverage_of_what_it_can_not_be_in():
    rows = [*plain(150, 2), *[(1.0, float("inf"), 5.0)] * 50]
    found = evaluated(regression_contract(), priced, plain(200, 1), rows)
    [mae] = [each for each in found.metrics if each.metric == "mae"]
    assert (mae.rows, mae.coverage) == (150, 0.75)
    assert [(each.column, each.value) for each in found.quality if each.check == "non_finite" and each.failed] == [
        ("prediction", 0.25)
    ]


def test_extremes_are_kept_by_both_databases(store):
    rows = [*plain(299, 2), (1e160, 1e308, -1e308)]
    found = evaluated(regression_contract(), priced, plain(200, 1), rows)
    assert save_evaluation(store, found).evaluation_id
