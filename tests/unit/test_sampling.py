"""Sampled rows: weights in metrics, and thinning where they differ."""

import numpy as np
import pyarrow as pa
import pytest

from feedback_loop.monitoring.sampling import row_weights, uniform
from feedback_loop.monitoring.validation import validation_metrics
from feedback_loop.schema import prediction_id
from tests.builders import binary_contract, regression_contract
from tests.conftest import NOW


def weighted(weights, count=None):
    random = np.random.default_rng(1)
    count = count or len(weights)
    chance = random.random(count)
    return pa.table(
        {
            "prediction_id": [prediction_id(NOW) for _ in range(count)],
            "sample_weight": np.asarray(weights, dtype=float),
            "churned": random.random(count) < chance,
            "prediction": chance > 0.5,
            "probability": chance,
            "plan": random.choice(["basic", "pro"], count),
        }
    )


@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_equal_weights_give_to_the_bit_what_no_weights_give(weight):
    table = weighted(np.full(500, weight))
    bare = table.drop_columns(["sample_weight"])
    assert validation_metrics(binary_contract(), table) == validation_metrics(binary_contract(), bare)
    assert uniform(table) is table


def test_a_weight_counts_like_so_many_rows():
    weights = np.random.default_rng(3).integers(1, 5, 400)
    table = weighted(weights)
    repeated = table.take(np.repeat(np.arange(400), weights)).drop_columns(["sample_weight"])
    found = {(m.metric, m.segment): m.value for m in validation_metrics(binary_contract(), table)}
    assert found == pytest.approx(
        {(m.metric, m.segment): m.value for m in validation_metrics(binary_contract(), repeated)}, rel=1e-12
    )
    assert {m.rows for m in validation_metrics(binary_contract(), table) if not m.segment} == {400}


def test_a_weight_counts_like_so_many_rows_for_numbers_too():
    random = np.random.default_rng(5)
    weights = random.integers(1, 4, 200)
    truth = random.normal(size=200)
    table = pa.table(
        {"paid": truth, "prediction": truth + random.normal(size=200), "sample_weight": weights.astype(float)}
    )
    repeated = table.take(np.repeat(np.arange(200), weights)).drop_columns(["sample_weight"])
    found = {m.metric: m.value for m in validation_metrics(regression_contract(), table)}
    assert found == pytest.approx({m.metric: m.value for m in validation_metrics(regression_contract(), repeated)})


def test_the_error_of_a_weighted_mean_is_what_repetition_shows():
    random = np.random.default_rng(8)
    weights, found = np.repeat([1.0, 10.0], [300, 60]), []
    for _ in range(400):
        values = np.concatenate([random.normal(1, 1, 300), random.normal(3, 1, 60)])
        table = pa.table({"paid": np.abs(values), "prediction": np.zeros(360), "sample_weight": weights})
        found += [value for value in validation_metrics(regression_contract(), table) if value.metric == "mae"]
    means, errors = [mae.value for mae in found], [mae.standard_error for mae in found]
    # The strata are fixed here, which the formula does not know: it is on the safe side, by the gap between them.
    assert np.std(means) < np.mean(errors) < 2 * np.std(means)


def test_thinned_rows_stand_for_as_many_each_and_are_the_same_whenever_asked():
    table = weighted(np.concatenate([np.full(4000, 1.0), np.full(400, 10.0)]))
    thinned = uniform(table)
    assert row_weights(thinned) is None
    assert 300 < thinned.num_rows - 400 < 500  # a tenth of the 4,000, and all of the 400
    assert set(thinned.column("sample_weight").to_pylist()) == {10.0}
    assert uniform(table).equals(thinned)
