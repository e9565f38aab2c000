import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn import metrics

from feedback_loop.clock import Window
from feedback_loop.monitoring.drift import drift_values, jensen_shannon, with_swings
from feedback_loop.monitoring.evaluation import evaluate_rows, profile_of_reference
from feedback_loop.monitoring.losses import row_losses
from feedback_loop.monitoring.profiles import Profile, profile_like, reference_profile
from feedback_loop.monitoring.validation import validation_metrics
from feedback_loop.schema import Column, ColumnType
from tests.builders import binary_contract, multiclass_contract, regression_contract

START = datetime(2026, 3, 1, tzinfo=UTC)


def binary_rows(truth, chance):
    chance = np.asarray(chance, dtype=float)
    return pa.table(
        {
            "churned": pa.array(list(truth), pa.bool_()),
            "prediction": chance > 0.5,
            "probability": chance,
            "plan": ["basic" if place % 2 else "pro" for place in range(len(chance))],
            "age": np.linspace(20, 60, len(chance)),
        }
    )


def values(contract, rows, segment=""):
    return {each.metric: each.value for each in validation_metrics(contract, rows) if each.segment == segment}


@pytest.fixture
def random():
    return np.random.default_rng(7)


def test_binary_metrics_are_scikit_learns(random):
    chance = random.random(500)
    truth = random.random(500) < chance
    found = values(binary_contract(), binary_rows(truth, chance))
    answer = chance > 0.5
    assert found == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(truth, answer),
            "brier": metrics.brier_score_loss(truth, chance),
            "log_loss": metrics.log_loss(truth, chance),
            "roc_auc": metrics.roc_auc_score(truth, chance),
            "precision": metrics.precision_score(truth, answer),
            "recall": metrics.recall_score(truth, answer),
            "f1": metrics.f1_score(truth, answer),
            "outcome_rate": truth.mean(),
            "prediction_rate": answer.mean(),
        },
        rel=1e-12,
    )


def test_multiclass_metrics_are_scikit_learns(random):
    chance = random.dirichlet([1, 1, 1], 300)
    classes = np.array(["a", "b", "c"])
    truth, answer = random.choice(classes, 300), classes[chance.argmax(axis=1)]
    rows = pa.table(
        {"kind": truth, "prediction": answer, **{f"probability_{name}": chance[:, k] for k, name in enumerate("abc")}}
    )
    found = values(multiclass_contract(), rows)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, answer))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(truth, chance, labels=classes))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(truth, answer, average="macro"))
    hit = truth[:, None] == classes
    assert found["brier"] == pytest.approx(((chance - hit) ** 2).sum(axis=1).mean() / 2)


def test_regression_metrics_are_scikit_learns(random):
    truth = random.normal(size=200)
    answer = truth + random.normal(scale=0.3, size=200) + 0.1
    found = values(regression_contract(), pa.table({"paid": truth, "prediction": answer}))
    assert found == pytest.approx(
        {
            "mae": metrics.mean_absolute_error(truth, answer),
            "rmse": metrics.root_mean_squared_error(truth, answer),
            "r2": metrics.r2_score(truth, answer),
            "bias": (answer - truth).mean(),
        }
    )


def test_a_metric_that_is_undefined_is_left_out_and_not_made_up():
    found = values(binary_contract(), binary_rows([False, False, False], [0.1, 0.2, 0.3]))
    assert "roc_auc" not in found
    assert "precision" not in found
    assert found["accuracy"] == 1.0
    assert validation_metrics(binary_contract(), binary_rows([], [])) == ()


def test_segments_have_their_own_means_and_errors():
    rows = binary_rows([True, False, True, False], [0.9, 0.9, 0.8, 0.1])
    found = {(each.segment, each.metric): each for each in validation_metrics(binary_contract(), rows)}
    assert found["plan=pro", "accuracy"].value == 1.0
    assert found["plan=basic", "accuracy"].value == 0.5
    assert found["plan=basic", "accuracy"].rows == 2
    overall = found["", "accuracy"]
    assert overall.standard_error == pytest.approx(np.std([0, 1, 0, 0], ddof=1) / 2)


def test_an_outcome_of_an_unknown_class_is_an_error_with_the_least_probability():
    rows = pa.table(
        {"kind": ["z"], "prediction": ["a"], "probability_a": [1.0], "probability_b": [0.0], "probability_c": [0.0]}
    )
    losses = row_losses(multiclass_contract(), rows)
    assert losses["error"].tolist() == [1.0]
    assert losses["log_loss"].tolist() == pytest.approx([-math.log(1e-15)])


def test_a_sure_mistake_does_not_make_the_loss_infinite():
    losses = row_losses(binary_contract(), binary_rows([True], [0.0]))
    assert np.isfinite(losses["log_loss"]).all()


NUMBER, WORD = Column("x", ColumnType.DOUBLE), Column("w", ColumnType.STRING)


def profiles(reference, current, column):
    kind = pa.float64() if column.type.is_numeric else pa.string()
    first = pa.table({column.name: pa.array(reference, kind)})
    profile = reference_profile(first, [column])
    return profile, profile_like(profile, pa.table({column.name: pa.array(current, kind)}))


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.3, 2.0])
def test_the_wasserstein_distance_is_scipys_within_a_hundredth_or_six_percent(random, shift):
    reference, current = random.normal(size=5000), random.normal(size=3000) + shift
    found = drift_values(*profiles(reference, current, NUMBER))[0]
    exact = stats.wasserstein_distance(reference, current) / reference.std()
    assert found.method == "wasserstein_normed"
    assert found.value == pytest.approx(exact, abs=0.01, rel=0.06)
    assert found.drifted == (exact > 0.1)


def test_the_distance_of_few_valued_numbers_is_exact(random):
    reference, current = random.integers(0, 7, 4000), random.integers(0, 5, 3000)
    found = drift_values(*profiles(reference.astype(float), current.astype(float), NUMBER))[0]
    exact = stats.wasserstein_distance(reference, current) / reference.std()
    assert found.value == pytest.approx(exact, abs=1e-9)


def test_the_kolmogorov_smirnov_test_on_bins_never_rejects_sooner():
    for seed in range(20):
        random = np.random.default_rng(seed)
        reference, current = random.normal(size=2000), random.normal(size=400) + 0.1
        found = drift_values(*profiles(reference, current, NUMBER))[0]
        exact = stats.ks_2samp(reference, current, method="asymp").pvalue
        assert found.p_value >= exact * 0.98


def test_the_jensen_shannon_distance_of_words_is_evidentlys(random):
    import pandas as pd
    from evidently.legacy.calculations.stattests.jensenshannon import _jensenshannon
    from evidently.legacy.core import ColumnType as EvidentlyType

    reference, current = random.choice(list("abcde"), 3000), random.choice(list("abcdf"), 2000)
    found = drift_values(*profiles(reference, current, WORD))[0]
    theirs, _ = _jensenshannon(pd.Series(reference), pd.Series(current), EvidentlyType.Categorical, 0.1)
    assert found.value == pytest.approx(theirs, abs=1e-9)
    assert found.drifted


def test_many_categories_in_few_rows_are_not_drift(random):
    words = [f"w{number}" for number in range(100)]
    reference, current = random.choice(words, 5000), random.choice(words, 300)
    found = drift_values(*profiles(reference, current, WORD))[0]
    assert found.value > 0.1  # the distance alone would cry
    assert not found.drifted


def test_fewer_than_a_hundred_rows_say_nothing_about_drift(random):
    assert drift_values(*profiles(random.normal(size=5000), random.normal(size=99) + 9, NUMBER)) == ()


@pytest.mark.parametrize(
    "column", [[None] * 200, [float("inf")] * 200, [3.0] * 200, [float("nan")] * 150 + [1.0] * 50]
)
def test_nasty_columns_do_not_break_a_profile(column):
    profile, other = profiles(column, column, NUMBER)
    assert all(value.value == pytest.approx(0) for value in drift_values(profile, other))
    assert Profile.from_json(profile.to_json()) == profile


def test_a_new_word_counts_as_other():
    profile, other = profiles(["a", "b"] * 100, ["c"] * 150 + ["a"] * 50, WORD)
    assert other.columns["w"].counts == {"a": 50, "b": 0, "(other)": 150}
    assert drift_values(profile, other)[0].drifted


def test_a_reference_whose_days_differ_raises_the_threshold(random):
    days = [random.normal(size=200) + random.normal(scale=2) for _ in range(12)]
    reference = reference_profile(pa.table({"x": np.concatenate(days)}), [NUMBER])
    swung = with_swings(reference, [profile_like(reference, pa.table({"x": day})) for day in days])
    another = profile_like(reference, pa.table({"x": random.normal(size=200) + 1}))
    assert drift_values(reference, another)[0].drifted
    assert not drift_values(swung, another)[0].drifted
    assert Profile.from_json(swung.to_json()) == swung
    far = profile_like(reference, pa.table({"x": random.normal(size=200) + 30}))
    assert drift_values(swung, far)[0].drifted


def test_jensen_shannon_of_the_same_counts_is_zero():
    assert jensen_shannon(np.array([1.0, 2.0]), np.array([2.0, 4.0])) == pytest.approx(0, abs=1e-8)


def test_an_evaluation_counts_what_has_no_outcome():
    rows = binary_rows([True, None, False, None], [0.9, 0.5, 0.1, 0.2])
    evaluation, profile = evaluate_rows(
        binary_contract(),
        rows,
        None,
        version="1",
        window=Window(START, START + timedelta(days=1)),
        as_of=START,
        matured=False,
    )
    assert (evaluation.predictions, evaluation.labelled, evaluation.coverage) == (4, 2, 0.5)
    assert evaluation.metric("accuracy") == 1.0
    assert profile is None


def test_an_evaluation_of_nothing_is_not_an_error():
    reference = profile_of_reference(binary_contract(), binary_rows([True] * 200, [0.5] * 200), timedelta(days=1))
    evaluation, _ = evaluate_rows(
        binary_contract(),
        binary_rows([], []),
        reference,
        version="1",
        window=Window(START, START + timedelta(days=1)),
        as_of=START,
        matured=True,
    )
    assert evaluation.coverage is None
    assert evaluation.drifted_share is None
    assert evaluation.metrics == ()
