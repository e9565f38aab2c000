"""Figures of rows that were acted on are those of all predictions: weighted by propensity, or thinned by it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from feedback_loop.clock import Window
from feedback_loop.monitoring import judged, row_losses, thinned
from feedback_loop.monitoring.exploration_effect import effect_in
from feedback_loop.monitoring.judging import _on_grid
from feedback_loop.monitoring.profiles.fold import fold, fold_outcomes, judged_cells
from feedback_loop.monitoring.profiles.layout import Layout, make_layout
from feedback_loop.schema import ACTED, ACTION_PROPENSITY
from tests.builders import binary_contract, evaluate_rows, regression_contract

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
PLAIN = binary_contract()
CONTRACT = replace(PLAIN, join=replace(PLAIN.join, needs_action=True))
SHARE = 0.1


def lender(seed, count=3000, *, share=SHARE):
    """Applicants of whom those below .4 are accepted and a share is explored; high scores are overconfident."""
    random = np.random.default_rng(seed)
    score = random.uniform(0.05, 0.95, count)
    churned = random.random(count) < np.where(score < 0.4, score, 0.5 * score)
    explored, acts = random.random(count) < share, score < 0.4
    acted = explored | acts
    return pa.table(
        {
            "prediction_id": [f"{seed}:{row}" for row in range(count)],
            "predicted_at": pa.array([NOW] * count, pa.timestamp("us", "UTC")),
            "sample_weight": np.ones(count),
            "age": score,
            "plan": random.choice(["basic", "pro"], count),
            "prediction": score > 0.5,
            "probability": score,
            "churned": pa.array(churned, mask=~acted),
            "explored": explored,
            "propensity": np.where(acts, 1.0, share),
            ACTED: acted,
            ACTION_PROPENSITY: pa.nulls(count, pa.float64()),
        }
    ), pa.array(churned)


def mean_loss(rows):
    return float(np.average(row_losses(PLAIN, rows)["log_loss"], weights=rows.column("sample_weight").to_numpy()))


def test_weighted_and_thinned_losses_are_those_of_all_and_the_naive_one_is_not():
    errors = {"weighted": [], "thinned": [], "naive": []}
    for seed in range(80):
        rows, outcomes = lender(seed)
        truth = mean_loss(rows.set_column(rows.column_names.index("churned"), "churned", outcomes))
        of_judged = judged(CONTRACT, rows)
        errors["weighted"].append(mean_loss(of_judged) - truth)
        errors["thinned"].append(mean_loss(thinned(CONTRACT, rows)) - truth)
        errors["naive"].append(mean_loss(rows.filter(rows.column(ACTED))) - truth)
    for name in ("weighted", "thinned"):
        assert abs(np.mean(errors[name])) < 3 * np.std(errors[name]) / np.sqrt(80), name
    assert np.mean(errors["naive"]) < -10 * np.std(errors["naive"]) / np.sqrt(80)


def test_small_windows_without_an_explored_row_do_not_count_in_full():
    losses, truths = [], []
    for seed in range(400):
        rows, outcomes = lender(seed, 60, share=0.04)
        truths.append(mean_loss(rows.set_column(rows.column_names.index("churned"), "churned", outcomes)))
        losses.append(row_losses(PLAIN, thinned(CONTRACT, rows))["log_loss"])
    pooled = np.concatenate(losses)
    assert abs(pooled.mean() - np.mean(truths)) < 3 * pooled.std() / np.sqrt(len(pooled))  # not .17 below


def test_tallies_of_outcomes_are_the_same_without_the_features_of_predictions():
    contract = regression_contract()
    contract = replace(contract, join=replace(contract.join, needs_action=True))
    random = np.random.default_rng(0)
    numbers = {"x": random.normal(size=500), "prediction": random.normal(size=500), "paid": random.normal(size=500)}
    rows = lender(0, 500)[0].drop_columns(["prediction"])
    for name, values in numbers.items():
        rows = rows.append_column(name, pa.array(values))
    layout = make_layout(contract, rows)
    assert layout.tree is not None
    with_features, without = (fold_outcomes(layout, part) for part in (rows, rows.drop_columns(["x"])))
    assert with_features.keys() == without.keys()
    assert all(tally.to_bytes() == without[cell].to_bytes() for cell, tally in with_features.items())


def evaluation(rows, contract=CONTRACT):
    window = Window(NOW, NOW + DAY)
    return evaluate_rows(contract, rows, None, version="1", window=window, as_of=NOW + 9 * DAY, matured=True)


def test_an_evaluation_has_the_weighted_metrics_of_all_and_of_segments_and_says_what_its_rows_are_worth():
    rows, _ = lender(1)
    said, of_judged = evaluation(rows), judged(CONTRACT, rows)
    weights = of_judged.column("sample_weight").to_numpy()
    losses = row_losses(PLAIN, of_judged)["log_loss"]
    assert said.metric("log_loss") == pytest.approx(np.average(losses, weights=weights))
    pro = of_judged.column("plan").to_numpy(zero_copy_only=False) == "pro"
    assert said.metric("log_loss", "plan=pro") == pytest.approx(np.average(losses[pro], weights=weights[pro]))
    assert said.metric("effective_rows") == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert (said.predictions, said.labelled, said.coverage) == (3000, of_judged.num_rows, 1.0)
    (loss,) = [value for value in said.metrics if (value.metric, value.segment) == ("log_loss", "")]
    spread = weights * (losses - loss.value)
    assert loss.standard_error == pytest.approx(np.sqrt((spread**2).sum()) / weights.sum(), rel=0.01)
    assert loss.least == pytest.approx(loss.value)  # nothing of those that count is missing


def test_outcomes_that_could_have_come_and_have_not_are_missing_from_coverage_and_from_the_bounds():
    rows, _ = lender(2)
    missing = pa.array(
        [None if row % 4 == 0 else value for row, value in enumerate(rows.column("churned").to_pylist())]
    )
    said = evaluation(rows.set_column(rows.column_names.index("churned"), "churned", missing))
    assert 0.6 < said.coverage < 0.85
    (accuracy,) = [value for value in said.metrics if (value.metric, value.segment) == ("accuracy", "")]
    assert accuracy.least == pytest.approx(accuracy.value * said.coverage, abs=1e-9)


def test_rows_that_are_worth_too_few_give_no_number():
    rows, _ = lender(3, 700, share=0.02)  # hundreds of labels, worth some dozens
    said = evaluation(rows)
    assert said.labelled > 200
    assert {value.metric for value in said.metrics} == {"coverage", "effective_rows", "insufficient_data"}


def test_without_any_known_propensity_there_is_no_number():
    rows, _ = lender(4)
    unknown = rows.set_column(rows.column_names.index("propensity"), "propensity", pa.nulls(3000, pa.float64()))
    said = evaluation(unknown.set_column(rows.column_names.index("explored"), "explored", pa.nulls(3000, pa.bool_())))
    assert {value.metric for value in said.metrics} == {"effective_rows", "insufficient_data"}


def test_tallies_add_up_whatever_parts_they_are_folded_in():
    rows, _ = lender(5, 1000)
    layout = Layout.bare(CONTRACT).with_segments_of(rows)
    whole, halves = fold(layout, rows), [fold(layout, rows.slice(0, 400)), fold(layout, rows.slice(400))]
    for cell, tally in judged_cells(layout, whole).items():
        parts = [judged_cells(layout, half).get(cell) for half in halves]
        first, second = (part for part in parts if part is not None)
        assert (first + second).to_bytes() == tally.to_bytes()


def test_reported_propensities_are_few_weights_that_are_right_in_the_mean():
    weights = 1 / np.random.default_rng(0).uniform(0.01, 1.0, 20_000)
    rounded = _on_grid(weights, [str(row) for row in range(20_000)])
    assert len(np.unique(rounded)) <= 30
    assert rounded.sum() == pytest.approx(weights.sum(), rel=0.005)
    assert (np.abs(np.log2(rounded / weights)) <= 0.25).all()


def days_of(seed, harm):
    """Twenty days whose level differs; explored rows are worse by `harm`."""
    random = np.random.default_rng(seed)
    day = np.repeat(np.arange(20), 60)
    explored = random.random(1200) < 0.3
    chance = np.clip(0.3 + 0.2 * random.standard_normal(20)[day] + harm * explored, 0.02, 0.98)
    rows, _ = lender(seed, 1200)
    moments = pa.array([NOW + timedelta(days=int(number)) for number in day], pa.timestamp("us", "UTC"))
    columns = {"predicted_at": moments, "explored": pa.array(explored), ACTED: pa.array([True] * 1200)}
    columns["churned"] = pa.array(random.random(1200) < chance)
    for name, values in columns.items():
        rows = rows.set_column(rows.column_names.index(name), name, values)
    return effect_in(CONTRACT, rows, Window(NOW, NOW + 20 * DAY))


def test_explored_rows_beside_the_rest_differ_when_the_loop_has_changed_what_it_measures_and_else_by_chance():
    equal = [days_of(seed, 0.0).outcome_difference.p_value for seed in range(100)]
    assert 0 <= np.mean(np.array(equal) < 0.05) <= 0.12
    effect = days_of(1, 0.4)
    assert effect.outcome_difference.value == pytest.approx(effect.explored.outcome - effect.rest.outcome)
    assert effect.outcome_difference.p_value < 1e-6
    assert (effect.days, effect.explored.rows + effect.rest.rows) == (20, 1200)


def test_where_none_is_explored_there_is_nothing_to_compare():
    rows, _ = lender(1, 300, share=0.0)
    effect = effect_in(CONTRACT, rows, Window(NOW, NOW + DAY))
    assert (effect.explored, effect.loss_difference, effect.outcome_difference) == (None, None, None)
    assert effect.rest.rows > 0
