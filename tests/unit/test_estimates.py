"""Estimates without outcomes: NannyML's on its own data, bins against rows, trees of losses, nasty windows."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feedback_loop.clock import Window
from feedback_loop.monitoring.cbpe import binary_estimates, calibrated, multiclass_estimates
from feedback_loop.monitoring.estimates import estimate_values, past_errors
from feedback_loop.monitoring.evaluation import profile_of_reference
from feedback_loop.monitoring.profiles.fold import fold, fold_predictions
from feedback_loop.monitoring.profiles.layout import make_layout
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.validation import profile_metrics
from feedback_loop.schema import Column, ColumnType, Task, make_contract
from feedback_loop.store.past_estimates import PastEstimate
from tests.builders import (
    binary_contract,
    evaluate_rows,
    expected_bins,
    multiclass_contract,
    prediction_rows,
    regression_contract,
)

RECORDED = Path(__file__).parent.parent / "recorded"
VALUES = json.loads((RECORDED / "nannyml.json").read_text())
CARDS = ["highstreet_card", "prepaid_card", "upmarket_card"]
START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CHUNK = 1000
OURS = {"average_precision": "pr_auc"}
TASK_METRICS = ["roc_auc", "f1", "precision", "recall", "accuracy"]


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDED / "nannyml.npz") as file:
        return dict(file)


def rows_of(scores, chances, answered):
    """Rows, each by itself, as NannyML sorts them."""
    order = np.argsort(scores, kind="stable")
    return expected_bins(scores[order], answered[order], chances[order], 800.0)


def chunks(count):
    return [slice(first, first + CHUNK) for first in range(0, count, CHUNK)]


def test_binary_estimates_are_those_of_nannyml_on_its_own_data(recorded):
    truth, score = recorded["binary_reference_truth"].astype(float), recorded["binary_reference_score"] / 100
    asked, answers = recorded["binary_analysis_score"] / 100, recorded["binary_analysis_answer"]
    assert VALUES["binary"]["calibrated"]
    chances = calibrated(score, truth, 1 - truth, asked)
    for number, chunk in enumerate(chunks(len(asked))):
        found = binary_estimates(rows_of(asked[chunk], chances[chunk], answers[chunk]))
        for metric in [*TASK_METRICS, "average_precision"]:
            expected = VALUES["binary"][metric][number]
            assert found[OURS.get(metric, metric)].value == pytest.approx(expected, abs=1e-8)


def test_multiclass_estimates_are_those_of_nannyml_on_its_own_data(recorded):
    """NannyML makes a row's calibrated probabilities add up to 1, which is all that bins can't say."""
    truth, answers = recorded["multiclass_reference_truth"], recorded["multiclass_analysis_answer"]
    asked = np.column_stack([recorded[f"multiclass_analysis_{card}"] / 100 for card in CARDS])
    assert VALUES["multiclass"]["calibrated"] == [True] * 3
    chances = np.empty_like(asked)
    for place, card in enumerate(CARDS):
        hits = (truth == place).astype(float)
        chances[:, place] = calibrated(
            recorded[f"multiclass_reference_{card}"] / 100, hits, 1 - hits, asked[:, place]
        )
    chances /= chances.sum(axis=1)[:, None]
    for number, chunk in enumerate(chunks(len(asked))):
        classes = {
            card: rows_of(asked[chunk, place], chances[chunk, place], answers[chunk] == place)
            for place, card in enumerate(CARDS)
        }
        found = multiclass_estimates(classes)
        for metric in TASK_METRICS:
            value = found["accuracy" if metric == "accuracy" else f"{metric}_macro"].value
            assert value == pytest.approx(VALUES["multiclass"][metric][number], abs=1e-8)
        precision = np.mean([binary_estimates(each)["pr_auc"].value for each in classes.values()])
        # NannyML rounds its running counts to five decimals: three hundred hits are known to 1e-8 of them.
        assert precision == pytest.approx(VALUES["multiclass"]["average_precision"][number], abs=2e-8)


def card_rows(recorded, part, slice_, truth):
    contract = multiclass_contract(CARDS)
    own = {
        each.stored: recorded[f"multiclass_{part}_{card}"][slice_] / 100
        for each, card in zip(contract.probabilities, CARDS, strict=True)
    }
    answers = np.array(CARDS)[recorded[f"multiclass_{part}_answer"][slice_]]
    rows = prediction_rows(contract, [START] * len(answers), prediction=answers, **own)
    return rows.append_column("kind", truth)


def estimates_of(contract, reference, rows, *matured):
    """By the way that evaluations take: from profiles alone. Values by metric."""
    known = profile_of_reference(contract, reference, DAY)
    profile = Profile.of(known.layout, fold_predictions(known.layout, rows))
    labelled = [Profile.of(known.layout, fold(known.layout, each)) for each in matured]
    return {each.metric: each for each in estimate_values(profile, known, *labelled)}


def test_bins_say_of_classes_what_rows_do(recorded):
    """The recorded values are of rows; 0.003 is what bins leave open on NannyML's data, a fifth of the error."""
    truth = pa.array(np.array(CARDS)[recorded["multiclass_reference_truth"]])
    reference = card_rows(recorded, "reference", slice(None), truth)
    for number, chunk in enumerate(chunks(4000)):
        rows = card_rows(recorded, "analysis", chunk, pa.nulls(CHUNK, pa.string()))
        found = estimates_of(multiclass_contract(CARDS), reference, rows)
        for metric in TASK_METRICS:
            value = found["accuracy" if metric == "accuracy" else f"{metric}_macro"]
            assert value.value == pytest.approx(VALUES["multiclass"][metric][number], abs=0.003)
            assert value.standard_error > 0.01
            assert (value.rows, value.calibrated_on, value.method) == (CHUNK, 4000, "cbpe")


def binary_rows(score, truth=None, answer=None, **columns):
    """Rows of the churn contract; an outcome that is not known is None."""
    score = np.asarray(score, float)
    answer = score > 0.5 if answer is None else answer
    given = {"probability": score, "prediction": answer, "age": score, "plan": ["p"] * len(score)}
    rows = prediction_rows(binary_contract(), [START] * len(score), **(given | columns))
    return rows.append_column("churned", pa.array(truth if truth is not None else [None] * len(score), pa.bool_()))


def made_up(seed, count, *, to=1.0):
    """Scores whose chance is their square root, so that they need to be calibrated; `to` is the greatest chance."""
    random = np.random.default_rng(seed)
    chance = random.uniform(0, to, count)
    return chance**2, random.random(count) < chance


def test_bins_say_of_a_binary_task_what_rows_do(recorded):
    reference = binary_rows(
        recorded["binary_reference_score"] / 100,
        recorded["binary_reference_truth"].astype(bool),
        recorded["binary_reference_answer"].astype(bool),
    )
    for number, chunk in enumerate(chunks(4000)):
        rows = binary_rows(
            recorded["binary_analysis_score"][chunk] / 100,
            answer=recorded["binary_analysis_answer"][chunk].astype(bool),
        )
        found = estimates_of(binary_contract(), reference, rows)
        for metric in TASK_METRICS:
            assert found[metric].value == pytest.approx(VALUES["binary"][metric][number], abs=1e-6)


def test_estimates_foretell_what_is_realised_when_inputs_change():
    reference, changed = made_up(1, 20_000), made_up(2, 20_000, to=0.85)
    found = estimates_of(binary_contract(), binary_rows(*reference), binary_rows(changed[0]))
    known = binary_rows(*changed)
    layout = profile_of_reference(binary_contract(), binary_rows(*reference), DAY)
    evaluation = evaluate_rows(
        binary_contract(), known, layout, version="1", window=Window(START, START + DAY), as_of=START, matured=True
    )
    metrics = set(found) & {each.metric for each in evaluation.metrics}
    assert metrics == {
        "accuracy",
        "precision",
        "recall",
        "f1",
        "roc_auc",
        "pr_auc",
        "brier",
        "log_loss",
        "outcome_rate",
    }
    for metric in metrics:
        realised = evaluation.metric(metric)
        assert abs(found[metric].value - realised) < 4 * found[metric].standard_error
    assert evaluation.estimates == tuple(found.values())
    assert found["accuracy"].standard_error == pytest.approx(0.005, rel=0.1)


def test_the_newest_outcomes_change_the_calibration():
    """The same scores have come to have other outcomes: matured rows tell, the reference alone can't."""
    score, truth = made_up(3, 3000)
    old = binary_rows(score, truth)
    fewer = binary_rows(score, truth & (np.arange(3000) % 3 > 0))
    by_reference = estimates_of(binary_contract(), old, binary_rows(score))
    by_both = estimates_of(binary_contract(), old, binary_rows(score), fewer)
    assert by_reference["outcome_rate"].value == pytest.approx(truth.mean(), abs=1e-3)
    mixed = (truth.mean() + (truth & (np.arange(3000) % 3 > 0)).mean()) / 2
    assert by_both["outcome_rate"].value == pytest.approx(mixed, abs=1e-3)
    assert by_both["outcome_rate"].calibrated_on == 6000


CARS = ("car_age", "km_driven", "price_new", "accident_count", "door_count")
FUELS = ("fuel", "transmission")


def car_contract():
    numbers = tuple(Column(name, ColumnType.DOUBLE) for name in CARS)
    words = tuple(Column(name, ColumnType.STRING) for name in FUELS)
    return make_contract(
        model="cars", task=Task.REGRESSION, features=(*numbers, *words), label="y_true", label_type=ColumnType.DOUBLE
    )


def car_rows(recorded, part, chunk=slice(None)):
    columns = {name: recorded[f"regression_{part}_{name}"][chunk] for name in (*CARS, *FUELS)}
    predicted = recorded[f"regression_{part}_y_pred"][chunk]
    rows = prediction_rows(car_contract(), [START] * len(predicted), prediction=predicted, **columns)
    return rows.append_column("y_true", pa.array(recorded[f"regression_{part}_y_true"][chunk].astype(float)))


def test_losses_are_estimated_as_nannyml_does_on_its_own_data(recorded):
    """By a tree, not by gradient boosting: at most 3% from NannyML's, and about as far from what came."""
    reference, ours, theirs = car_rows(recorded, "reference"), [], []
    for number, chunk in enumerate(chunks(4000)):
        rows = car_rows(recorded, "analysis", chunk)
        found = estimates_of(car_contract(), reference, rows)
        error = rows.column("y_true").to_numpy() - rows.column("prediction").to_numpy()
        for metric, realised in (("mae", np.abs(error).mean()), ("rmse", np.sqrt((error**2).mean()))):
            value, recorded_value = found[metric], VALUES["regression"][metric][number]
            assert value.value == pytest.approx(recorded_value, rel=0.03)
            assert abs(value.value - realised) < 4 * value.standard_error
            ours.append(abs(value.value - realised))
            theirs.append(abs(recorded_value - realised))
            assert (value.rows, value.calibrated_on, value.method) == (CHUNK, 5000, "dle")
    assert np.mean(ours) < 1.2 * np.mean(theirs)


def price_rows(at, error, **columns):
    contract = regression_contract()
    x = np.asarray(at, float)
    rows = prediction_rows(contract, [START] * len(x), **{"prediction": 2 * x, "x": x, **columns})
    return rows.append_column("paid", pa.array(2 * x - np.asarray(error, float), pa.float64()))


def test_a_loss_that_grows_with_a_feature_is_foretold_from_the_feature_alone():
    random = np.random.default_rng(4)
    x = random.uniform(0, 1, 4000)
    reference = price_rows(x, x * random.normal(size=4000))
    later = np.full(1000, 0.9)
    found = estimates_of(regression_contract(), reference, price_rows(later, [np.nan] * 1000))
    assert found["mae"].value == pytest.approx(0.9 * np.sqrt(2 / np.pi), rel=0.1)
    assert found["rmse"].value == pytest.approx(0.9, rel=0.1)


def test_a_class_that_the_model_does_not_know_is_expected_to_come_on():
    random = np.random.default_rng(5)
    chances = random.dirichlet([2, 1, 1], 4000)
    known = (chances.cumsum(axis=1) < random.random((4000, 1))).sum(axis=1)
    truth = np.where(random.random(4000) < 0.4, "d", np.array(list("abc"))[known])
    answers = np.array(list("abc"))[chances.argmax(axis=1)]
    rows = pa.table(
        {"kind": truth, "prediction": answers, **{f"probability_{c}": chances[:, k] for k, c in enumerate("abc")}}
    )
    layout = make_layout(multiclass_contract(), rows)
    before, now = (Profile.of(layout, fold(layout, each)) for each in (rows.slice(0, 2000), rows.slice(2000)))
    came = {each.metric: each.value for each in profile_metrics(now)}
    for each in estimate_values(now, before):
        assert each.value == pytest.approx(came[each.metric], abs=5 * each.standard_error + 1e-9), each.metric


def test_without_features_the_prediction_tells_what_it_can():
    """What is not logged is not there; what is missing in a window counts as missing."""
    random = np.random.default_rng(5)
    x = random.uniform(0, 1, 2000)
    known = price_rows(x, x * random.normal(size=2000))
    found = estimates_of(
        regression_contract(), known.drop_columns(["x"]), price_rows(np.linspace(0.8, 1, 500), [0] * 500)
    )
    assert found["mae"].value == pytest.approx(0.9 * np.sqrt(2 / np.pi), rel=0.15)
    found = estimates_of(regression_contract(), known, price_rows([0.9] * 500, [0] * 500, x=[None] * 500))
    assert found["mae"].value > 0


NASTY = {
    "too few rows": ([0.5] * 99, [True, False] * 2000, {"insufficient_data": 1.0}),
    "one row": ([0.5], [True, False] * 2000, {"insufficient_data": 99.0}),
    "no scores": ([np.nan] * 300, [True, False] * 2000, {"insufficient_data": 100.0}),
    "too few outcomes": ([0.5] * 300, [True] * 30 + [None] * 300, {"insufficient_data": 70.0}),
    "no outcome": ([0.5] * 300, [None] * 300, {"insufficient_data": 100.0}),
    "no rows": ([], [True, False] * 2000, {}),
}


@pytest.mark.parametrize("case", NASTY)
def test_what_can_not_be_estimated_says_what_is_missing(case):
    scores, truth, expected = NASTY[case]
    reference = binary_rows(np.linspace(0, 1, len(truth)), truth)
    found = estimates_of(binary_contract(), reference, binary_rows(scores))
    assert {metric: each.value for metric, each in found.items()} == expected


def test_one_class_only_has_no_ranks_and_no_error():
    reference = binary_rows(np.linspace(0, 1, 500), [False] * 500)
    found = estimates_of(binary_contract(), reference, binary_rows(np.linspace(0, 1, 500)))
    assert found["outcome_rate"].value == 0.0
    assert found["accuracy"].value == pytest.approx(0.5, abs=0.01)
    assert found["precision"].value == 0.0
    assert not {"roc_auc", "pr_auc", "recall"} & set(found)


def test_a_model_without_probabilities_has_no_estimates():
    contract = binary_contract(probabilities=False)
    rows = prediction_rows(contract, [START] * 300, prediction=[True] * 300, age=[1.0] * 300, plan=["p"] * 300)
    assert estimates_of(contract, rows.append_column("churned", pa.array([True] * 300)), rows) == {}


def test_missing_scores_are_left_out_and_counted():
    score, truth = made_up(6, 2000)
    with_gaps = np.where(np.arange(2000) % 4 == 0, np.nan, score)
    found = estimates_of(binary_contract(), binary_rows(score, truth), binary_rows(with_gaps, answer=score > 0.5))
    assert found["accuracy"].rows == 1500


@pytest.mark.parametrize("error", [[0.0] * 300, [np.inf] * 300, [1e200] * 300, [np.nan] * 300])
def test_losses_that_are_nothing_to_count_with_give_no_number_that_is_none(error):
    x = np.linspace(0, 1, 300)
    found = estimates_of(regression_contract(), price_rows(x, error), price_rows(x, [0] * 300))
    assert {metric: each.value for metric, each in found.items()} in ({}, {"mae": 0.0, "rmse": 0.0})


def test_few_rows_of_a_regression_say_how_many_are_missing():
    x = np.linspace(0, 1, 200)
    found = estimates_of(regression_contract(), price_rows(x, x), price_rows([0.5] * 40, [0] * 40))
    assert {metric: each.value for metric, each in found.items()} == {"insufficient_data": 60.0}
    found = estimates_of(regression_contract(), price_rows(x[:60], x[:60]), price_rows(x, [0] * 200))
    assert {metric: each.value for metric, each in found.items()} == {"insufficient_data": 40.0}


def test_the_past_error_is_the_mean_distance_of_what_was_estimated_and_what_came():
    window = Window(START, START + DAY)
    past = [
        PastEstimate(window, "accuracy", 0.9, 0.8),
        PastEstimate(window, "accuracy", 0.7, 0.9),
        PastEstimate(window, "f1", 0.5, 0.5),
    ]
    found = past_errors(past)
    assert {metric: each.windows for metric, each in found.items()} == {"accuracy": 2, "f1": 1}
    assert found["accuracy"].error == pytest.approx(0.15)
    assert past_errors([]) == {}
