"""What only rows can say: features that drift together, slices in which a version does worst."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from feedback_loop.monitoring import find_slices, multivariate_values, row_losses
from feedback_loop.monitoring.multivariate import _auc
from feedback_loop.monitoring.sampling import draw
from feedback_loop.schema import Column, ColumnType
from tests.builders import binary_contract, multiclass_contract, regression_contract
from tests.streams import simulated

DAY = timedelta(days=1)
FEATURES = (
    Column("age", ColumnType.DOUBLE),
    Column("plan", ColumnType.STRING),
    *(Column(f"x{place}", ColumnType.DOUBLE) for place in range(3)),
)
CONTRACT = binary_contract(features=FEATURES)


def table(count, seed, *, planted=0.0, together=0.0, **columns):
    """Rows; `planted` of the outcomes of older ones of plan pro are turned, two features are correlated."""
    random = np.random.default_rng(seed)
    chance, age = random.beta(2, 3, count), random.normal(40, 10, count)
    plan = random.choice(["basic", "plus", "pro"], count)
    turned = (plan == "pro") & (age > 48) & (random.random(count) < planted)
    numbers = random.normal(size=(count, 3))
    numbers[:, 1] = together * numbers[:, 0] + np.sqrt(1 - together**2) * numbers[:, 1]
    start = datetime(2026, 3, 1, tzinfo=UTC)
    made = {
        "predicted_at": pa.array([start + place % 10 * DAY for place in range(count)], pa.timestamp("us", "UTC")),
        "age": pa.array(age),
        "plan": pa.array(plan),
        **{f"x{place}": pa.array(numbers[:, place]) for place in range(3)},
        "prediction": pa.array(chance > 0.5),
        "probability": pa.array(chance),
        "churned": pa.array(np.where(turned, chance <= 0.5, random.random(count) < chance)),
    }
    return pa.table(made | columns)


@simulated(8, 100)
def test_a_planted_slice_is_found_and_nothing_where_nothing_is(streams):
    found = [find_slices(CONTRACT, table(2000, seed, planted=0.5)) for seed in range(streams)]
    hits = [slices for slices in found if slices and "age>4" in slices[0].segment and "plan=pro" in slices[0].segment]
    assert len(hits) >= 0.95 * streams
    assert all(each.p_value <= 0.05 and each.value > each.rest for slices in found for each in slices)
    claimed = sum(bool(find_slices(CONTRACT, table(1000, 1000 + seed))) for seed in range(2 * streams))
    assert claimed <= stats.binom.ppf(0.999, 2 * streams, 0.05)


def test_a_slice_is_what_it_says():
    rows = table(3000, 1, planted=0.6)
    worst = find_slices(CONTRACT, rows)[0]
    edge = float(worst.segment.split(" & ")[0].removeprefix("age>"))
    inside = (rows["age"].to_numpy() > edge) & (np.array(rows["plan"].to_pylist()) == "pro")
    losses = row_losses(CONTRACT, rows)["log_loss"]
    assert worst.rows == pytest.approx(inside.sum(), abs=1)
    assert (worst.value, worst.rest) == pytest.approx((losses[inside].mean(), losses[~inside].mean()), rel=0.02)
    assert worst.tried > 100
    assert find_slices(CONTRACT, rows) == find_slices(CONTRACT, rows)


def test_two_slices_apart_are_both_found_and_what_only_overlaps_is_not():
    rows = table(6000, 2)
    x0, plan = rows["x0"].to_numpy(), np.array(rows["plan"].to_pylist())
    bad = (x0 > 0.9) | ((x0 < 0.9) & (plan == "plus"))
    chance = rows["probability"].to_numpy()
    turned = bad & (np.random.default_rng(3).random(6000) < 0.6)
    label = np.where(turned, chance <= 0.5, np.array(rows["churned"].to_pylist()))
    found = find_slices(CONTRACT, rows.set_column(rows.column_names.index("churned"), "churned", pa.array(label)))
    assert {each.segment.split(">")[0] for each in found[:2]} == {"x0", "plan=plus"}
    assert len(found) <= 3


@simulated(12, 40)
def test_heavy_losses_of_a_regression_do_not_make_slices(streams):
    claimed = 0
    for seed in range(streams):
        random = np.random.default_rng(seed)
        rows = {"x": random.normal(size=1000), "prediction": np.zeros(1000), "paid": random.standard_t(2, size=1000)}
        claimed += bool(find_slices(regression_contract(), pa.table(rows)))
    assert claimed <= stats.binom.ppf(0.999, streams, 0.05)


@pytest.mark.parametrize(
    "columns",
    [
        {"churned": pa.array([True] * 600)},
        {"age": pa.nulls(600, pa.float64()), "plan": pa.nulls(600, pa.string())},
        {"plan": pa.array([f"w{place}" for place in range(600)])},
        {"age": pa.array([float("inf"), -1e308] * 300)},
        {"age": pa.array([3.0] * 600), "plan": pa.array(["a"] * 600)},
        {"probability": pa.array([0.5] * 600), "prediction": pa.array([True] * 600)},
        {"probability": pa.nulls(600, pa.float64())},
        {"x0": pa.array([2.0**60 + place for place in range(600)])},
    ],
)
def test_nasty_rows_break_neither(columns):
    rows = table(600, 5, **columns)
    for one, other in ((table(600, 6), rows), (rows, rows)):
        values = multivariate_values(CONTRACT, one, other)
        assert all(np.isfinite(each.value) and each.p_value is not None for each in values)
    assert all(np.isfinite([each.value, each.rest]).all() for each in find_slices(CONTRACT, rows))


def test_a_hundred_thousand_words_and_few_rows_break_neither():
    words = [f"w{place}" for place in range(100_000)]
    rows = table(100_000, 7, plan=pa.array(words))
    find_slices(CONTRACT, rows.slice(0, 20_000))
    assert multivariate_values(CONTRACT, rows.slice(0, 2000), rows.slice(2000, 2000))
    for count in (0, 1, 99):
        assert find_slices(CONTRACT, rows.slice(0, count)) == ()
        assert multivariate_values(CONTRACT, rows.slice(0, 2000), rows.slice(0, count)) == ()
    kinds = pa.table({"x": [1.0] * 600, "prediction": ["a"] * 600, "kind": ["b"] * 600})
    kinds = kinds.append_column("probability_a", pa.array([1.0] * 600))
    kinds = kinds.append_column("probability_b", pa.array([0.0] * 600))
    kinds = kinds.append_column("probability_c", pa.array([0.0] * 600))
    contract = multiclass_contract()
    named = kinds.rename_columns(
        ["x", contract.outputs[0].stored, "kind", *(c.stored for c in contract.probabilities)]
    )
    assert find_slices(contract, named) == ()


def test_features_that_only_drift_together_are_found_and_named():
    found = multivariate_values(CONTRACT, table(2000, 1), table(2000, 2, together=0.95))
    [auc] = found
    assert auc.method == "classifier_auc"
    assert auc.drifted
    assert auc.value > 0.7
    assert {"x0", "x1"} == {name.split(" ")[0] for name in auc.binning.removeprefix("told by ").split(", ")[:2]}


def test_correlations_that_break_are_told_and_the_same_each_time():
    before, now = table(2000, 1, together=0.98), table(2000, 2)
    [told] = multivariate_values(CONTRACT, before, now)
    assert told.drifted
    assert multivariate_values(CONTRACT, before, now) == (told,)


@simulated(4, 60)
def test_rows_from_the_same_world_have_not_drifted(streams):
    found = [
        multivariate_values(CONTRACT, table(1000, 2 * seed), table(500, 2 * seed + 1)) for seed in range(streams)
    ]
    assert not any(each.drifted for values in found for each in values)
    assert np.mean([auc.value for [auc] in found]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([auc.p_value < 0.1 for [auc] in found]) <= 0.4


def test_the_auc_is_scikit_learns_with_ties_and_its_error_that_of_many_samples():
    random = np.random.default_rng(3)
    drawn = [(random.normal(0.4, size=150).round(1), random.normal(size=200).round(1)) for _ in range(400)]
    found = [_auc(higher, lower) for higher, lower in drawn]
    first = roc_auc_score(np.repeat([True, False], [150, 200]), np.concatenate(drawn[0]))
    assert found[0][0] == pytest.approx(first)
    assert np.std([auc for auc, _ in found]) == pytest.approx(np.mean([error for _, error in found]), rel=0.1)


def test_a_sample_is_the_same_however_its_rows_come_and_weighs_as_they_do():
    ids = [f"{place:032x}" for place in range(4000)]
    rows = pa.table({"prediction_id": ids, "sample_weight": [1.0] * 2000 + [3.0] * 2000})
    whole = draw(rows, 400)
    parts = [draw(rows.slice(start, 1000), 400) for start in (2000, 0, 3000, 1000)]
    assert draw(pa.concat_tables(parts), 400).equals(whole)
    heavy = np.mean(whole["sample_weight"].to_numpy() == 3.0)
    assert heavy == pytest.approx(0.74, abs=0.06)
