"""Estimates count what rows stand for, in whatever order and however many at once they come."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_loop.monitoring.cbpe import binary_estimates, calibrated
from feedback_loop.monitoring.estimates import estimate_values
from feedback_loop.monitoring.evaluation import profile_of_reference
from feedback_loop.monitoring.profiles.fold import fold_predictions
from feedback_loop.monitoring.profiles.profile import Profile
from tests.builders import binary_contract, expected_bins, prediction_rows, regression_contract

START = datetime(2026, 3, 1, tzinfo=UTC)
CONTRACT = binary_contract()


def table(scores, weights):
    rows = prediction_rows(
        CONTRACT,
        [START + timedelta(hours=k % 30) for k in range(len(scores))],
        probability=scores,
        prediction=[score > 0.4 for score in scores],
        sample_weight=weights,
    )
    return rows.append_column("churned", pa.array([None] * len(scores), pa.bool_()))


def reference_of(seed):
    random = np.random.default_rng(seed)
    scores = random.uniform(0, 1, 400)
    rows = table(scores.tolist(), [1.0] * 400).drop_columns(["churned"])
    rows = rows.append_column("churned", pa.array(random.random(400) < scores**2))
    return profile_of_reference(CONTRACT, rows, timedelta(days=1))


REFERENCE = reference_of(0)
scored = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 5)), min_size=100, max_size=150)


def estimated(scores, weights):
    profile = Profile.of(REFERENCE.layout, fold_predictions(REFERENCE.layout, table(scores, weights)))
    return {each.metric: each.value for each in estimate_values(profile, REFERENCE)}


@settings(max_examples=30)
@given(rows=scored)
def test_a_row_that_stands_for_k_predictions_counts_as_k_rows(rows):
    scores, weights = [score for score, _ in rows], [float(weight) for _, weight in rows]
    copies = [score for score, weight in rows for _ in range(weight)]
    assert estimated(scores, weights) == pytest.approx(estimated(copies, [1.0] * len(copies)), abs=1e-12)


@settings(max_examples=30)
@given(rows=scored, seed=st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter_to_the_last_bit(rows, seed):
    scores, weights = [score for score, _ in rows], [float(weight) for _, weight in rows]
    order = np.random.default_rng(seed).permutation(len(rows))
    assert estimated([scores[k] for k in order], [weights[k] for k in order]) == estimated(scores, weights)


@settings(max_examples=50)
@given(
    rows=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 4)), min_size=1, max_size=50),
    known=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50),
)
def test_estimates_stay_where_their_metrics_can_be(rows, known):
    scores = np.unique([score for score, _, _ in rows])
    every = np.array([1.0 + k % 3 for k in range(len(scores))])
    answered = np.where(scores > 0.5, every, 0.0)
    hits = np.array([float(hit) for _, hit in known])
    chances = calibrated(np.array([score for score, _ in known]), hits, 1 - hits, scores)
    assert (np.diff(chances) >= 0).all()
    found = binary_estimates(expected_bins(scores, answered, chances, float(len(scores)), every))
    for metric, mean in found.items():
        assert 0 <= mean.value <= (np.inf if metric == "log_loss" else 1 + 1e-12)
        assert mean.standard_error is None or mean.standard_error >= 0


@settings(max_examples=20)
@given(x=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=100, max_size=120))
def test_whatever_features_are_each_row_comes_to_one_leaf(x):
    contract = regression_contract()

    def rows_of(x):
        rows = prediction_rows(contract, [START] * len(x), x=x, prediction=[1.0] * len(x))
        return rows.append_column("paid", pa.array([float(k % 7) for k in range(len(x))]))

    random = np.random.default_rng(1)
    reference = profile_of_reference(contract, rows_of(random.normal(size=500).tolist()), timedelta(days=1))
    profile = Profile.of(reference.layout, fold_predictions(reference.layout, rows_of(x)))
    found = {each.metric: each for each in estimate_values(profile, reference)}
    assert found["mae"].rows == len(x)
    assert min(reference.layout.tree.absolute) <= found["mae"].value <= max(reference.layout.tree.absolute)
