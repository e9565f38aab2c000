import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics

from feedback_loop.clock import Window
from feedback_loop.monitoring.evaluation import profile_of_reference
from feedback_loop.monitoring.losses import row_losses
from feedback_loop.monitoring.profiles.fold import fold
from feedback_loop.monitoring.profiles.layout import make_layout
from feedback_loop.monitoring.validation import metrics_of, validation_metrics
from feedback_loop.schema import ColumnType
from tests.builders import binary_contract, evaluate_rows, multiclass_contract, regression_contract

START, DAY = datetime(2026, 3, 1, tzinfo=UTC), timedelta(days=1)


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


def of(contract, rows):
    return {each.metric: each for each in validation_metrics(contract, rows) if not each.segment}


@pytest.fixture
def random():
    return np.random.default_rng(7)


@pytest.mark.parametrize(("a", "b", "rows"), [(1, 1, 2000), (0.3, 8, 20_000), (0.02, 50, 200_000), (8, 0.3, 20_000)])
def test_binary_metrics_are_scikit_learns(random, a, b, rows):
    chance = random.beta(a, b, rows)
    truth, answer = random.random(rows) < chance, chance > 0.5
    found = values(binary_contract(), binary_rows(truth, chance))
    exact = {
        "accuracy": metrics.accuracy_score(truth, answer),
        "brier": metrics.brier_score_loss(truth, chance),
        "log_loss": metrics.log_loss(truth, chance),
        "outcome_rate": truth.mean(),
        "prediction_rate": answer.mean(),
        "recall": metrics.recall_score(truth, answer),
        "f1": metrics.f1_score(truth, answer),
    }
    if answer.any():
        exact["precision"] = metrics.precision_score(truth, answer)
    assert {name: found[name] for name in exact} == pytest.approx(exact, rel=1e-12)
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth, chance), abs=1e-4 if rows < 5000 else 2e-5)
    assert found["pr_auc"] == pytest.approx(metrics.average_precision_score(truth, chance), abs=5e-4)
    order = np.argsort(-chance)[: rows // 10]
    assert found["lift"] == pytest.approx(truth[order].mean() / truth.mean(), rel=0.01)
    tenth = np.minimum((chance * 10).astype(int), 9)
    gaps = np.bincount(tenth, truth - chance, 10)
    assert found["calibration_error"] == pytest.approx(np.abs(gaps).sum() / rows, abs=2e-3)


def test_multiclass_metrics_are_scikit_learns(random):
    chance = random.dirichlet([1, 2, 3], 3000)
    classes = np.array(["a", "b", "c"])
    truth, answer = random.choice(classes, 3000), classes[chance.argmax(axis=1)]
    rows = pa.table(
        {"kind": truth, "prediction": answer, **{f"probability_{name}": chance[:, k] for k, name in enumerate("abc")}}
    )
    found = values(multiclass_contract(), rows)
    hit = truth[:, None] == classes
    exact = {
        "accuracy": metrics.accuracy_score(truth, answer),
        "log_loss": metrics.log_loss(truth, chance, labels=classes),
        "brier": ((chance - hit) ** 2).sum(axis=1).mean() / 2,
    }
    for average in ("macro", "weighted"):
        scores = metrics.precision_recall_fscore_support(truth, answer, average=average)
        exact |= dict(zip((f"{each}_{average}" for each in ("precision", "recall", "f1")), scores[:3], strict=True))
    each = metrics.precision_recall_fscore_support(truth, answer, labels=classes)
    for name, scores in zip(("precision", "recall", "f1"), each[:3], strict=True):
        exact |= {f"{name}[{label}]": score for label, score in zip(classes, scores, strict=True)}
    assert {name: found[name] for name in exact} == pytest.approx(exact, rel=1e-12)
    areas = [metrics.roc_auc_score(hit[:, k], chance[:, k]) for k in range(3)]
    assert [found[f"roc_auc[{name}]"] for name in "abc"] == pytest.approx(areas, abs=1e-4)
    assert found["roc_auc_macro"] == pytest.approx(
        metrics.roc_auc_score(truth, chance, multi_class="ovr", labels=classes), abs=1e-4
    )


@pytest.mark.parametrize("shift", [0.0, 1e6, 1.7e9])
def test_regression_metrics_are_scikit_learns(random, shift):
    truth = random.normal(size=2000) + shift
    answer = truth + random.normal(scale=0.3, size=2000) + 0.1
    found = values(regression_contract(), pa.table({"paid": truth, "prediction": answer}))
    exact = {
        "mae": metrics.mean_absolute_error(truth, answer),
        "rmse": metrics.root_mean_squared_error(truth, answer),
        "mape": metrics.mean_absolute_percentage_error(truth, answer),
        "bias": (answer - truth).mean(),
        **{f"quantile_loss_{q}": metrics.mean_pinball_loss(truth, answer, alpha=q) for q in (0.1, 0.5, 0.9)},
    }
    assert {name: found[name] for name in exact} == pytest.approx(exact, rel=1e-9)
    if shift < 1e9:  # beyond, a layout without a reference has no centre to sum from
        assert found["r2"] == pytest.approx(metrics.r2_score(truth, answer), abs=1e-3)


def test_r2_is_exact_far_from_zero_once_there_is_a_reference(random):
    truth = random.normal(size=2000) + 1.7e9
    rows = pa.table({"paid": truth, "prediction": truth + random.normal(scale=0.3, size=2000)})
    layout = make_layout(regression_contract(), rows)
    found = {each.metric: each.value for each in metrics_of(layout, fold(layout, rows))}
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, rows["prediction"].to_numpy()), abs=1e-9)


def simulated(seed):
    random = np.random.default_rng(seed)
    chance = random.beta(1, 3, 400)
    truth = random.random(400) < chance
    error = random.normal(0.1, 1, 400)
    level = random.normal(10, 1, 400)
    classes = np.array(["a", "b", "c"])
    kinds = random.dirichlet([1, 2, 3], 400)
    real = np.array([random.choice(classes, p=each) for each in kinds])
    columns = {f"probability_{name}": kinds[:, k] for k, name in enumerate("abc")}
    return {
        **of(binary_contract(), binary_rows(truth, chance)),
        **of(regression_contract(), pa.table({"paid": level, "prediction": level + error})),
        **{
            f"kind {name}": each
            for name, each in of(
                multiclass_contract(),
                pa.table({"kind": real, "prediction": classes[kinds.argmax(axis=1)], **columns}),
            ).items()
        },
    }


@pytest.mark.parametrize("samples", [60, pytest.param(300, marks=pytest.mark.statistics)])
def test_sampling_errors_are_what_repetition_shows(samples):
    found = [simulated(seed) for seed in range(samples)]
    for name in found[0]:
        spread = np.std([each[name].value for each in found if name in each])
        told = np.mean([each[name].standard_error for each in found if name in each and each[name].standard_error])
        low, high = (0.5, 2.0) if name in ("calibration_error", "r2", "kind roc_auc_macro", "pr_auc") else (0.8, 1.3)
        assert low < told / spread < high, (name, told, spread)


@pytest.mark.parametrize("known_share", [0.0, 0.3, 0.9])
def test_bounds_hold_for_any_outcomes_of_the_unlabelled(random, known_share):
    chance = np.round(random.beta(1, 2, 300), 2)
    known = random.random(300) < known_share
    known[0] = True
    truth = random.random(300) < chance
    told = pa.array(truth, mask=~known)
    found = of(binary_contract(), binary_rows(told.to_pylist(), chance))
    bounded = {name: each for name, each in found.items() if each.least is not None}
    assert bounded.keys() >= {"accuracy", "brier", "log_loss", "prediction_rate", "outcome_rate"}
    worlds = [random.random(300) < 0.5, chance > 0.5, chance <= 0.5, truth, chance > 0.8, chance > 0.1]
    worlds += [np.zeros(300, bool), np.ones(300, bool)]
    for world in worlds:
        whole = of(binary_contract(), binary_rows(np.where(known, truth, world), chance))
        for name, each in bounded.items():
            if name in whole:
                assert each.least - 1e-3 <= whole[name].value <= each.most + 1e-3, name
    assert found["accuracy"].coverage == pytest.approx(known.mean())
    assert found["accuracy"].most - found["accuracy"].least == pytest.approx(1 - known.mean())


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_the_error_of_a_regression_is_at_least_as_if_the_rest_were_right(random, share):
    truth = random.normal(size=500)
    answer, known = truth + random.normal(size=500), random.random(500) < share
    rows = pa.table({"paid": pa.array(truth, mask=~known), "prediction": answer})
    found = of(regression_contract(), rows)
    best = np.where(known, truth, answer)
    assert found["mae"].least == pytest.approx(metrics.mean_absolute_error(best, answer))
    assert found["rmse"].least == pytest.approx(metrics.root_mean_squared_error(best, answer))
    assert found["mae"].most is None


@pytest.mark.parametrize(
    ("truth", "chance"),
    [
        ([True] * 50, [0.3] * 50),
        ([False] * 50, [0.0] * 50),
        ([True], [0.7]),
        ([None] * 50, [0.5] * 50),
        ([True, False] * 20, [None] * 40),
        ([], []),
    ],
)
def test_nasty_rows_break_no_metric(truth, chance):
    chances = pa.array(chance, pa.float64())
    rows = pa.table(
        {
            "churned": pa.array(truth, pa.bool_()),
            "prediction": pa.array([place % 2 == 0 for place in range(len(chance))], pa.bool_()),
            "probability": chances,
            "plan": ["pro"] * len(chance),
            "age": [float("inf")] * len(chance),
        }
    )
    found = of(binary_contract(), rows)
    assert all(np.isfinite(each.value) for each in found.values())
    assert ("accuracy" in found) == any(each is not None for each in truth)
    assert ("log_loss" in found) == (any(each is not None for each in truth) and None not in chance)


@pytest.mark.parametrize("truth", [[float("inf")] * 5 + [1.0], [1e308, -1e308] * 9, [2.0**60 + 1] * 20, [3.0], []])
def test_nasty_numbers_break_no_metric(truth):
    rows = pa.table({"paid": pa.array(truth, pa.float64()), "prediction": pa.array([0.5] * len(truth), pa.float64())})
    found = of(regression_contract(), rows)
    assert ("mae" in found) == bool(np.isfinite(truth).any())
    if "mae" in found:
        assert found["mae"].rows == np.isfinite(truth).sum()


def test_a_metric_counts_every_row_that_has_what_it_uses():
    rows = pa.table(
        {
            "churned": [True, True, False, None],
            "prediction": [True, False, False, True],
            "probability": [0.9, None, 0.2, 0.7],
            "plan": [None, "pro", None, "pro"],
        }
    )
    found = of(binary_contract(), rows)
    assert (found["accuracy"].rows, found["log_loss"].rows) == (3, 2)
    assert found["accuracy"].value == pytest.approx(2 / 3)


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
    assert losses["log_loss"].tolist() == pytest.approx([-math.log(2**-52)])


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_class_that_the_model_does_not_know_counts_as_in_scikit_learn(random, share):
    chances = random.dirichlet([1, 1, 1], 400)
    answers = np.array(list("abc"))[chances.argmax(axis=1)]
    truth = np.where(random.random(400) < share, "d", np.array(list("abc"))[random.integers(0, 3, 400)])
    rows = pa.table(
        {"kind": truth, "prediction": answers, **{f"probability_{c}": chances[:, k] for k, c in enumerate("abc")}}
    )
    found = values(multiclass_contract(), rows)
    every = np.column_stack([chances, np.zeros(400)])
    expected = {
        "brier": metrics.brier_score_loss(truth, every, labels=list("abcd"), scale_by_half=True),
        "log_loss": metrics.log_loss(truth, every, labels=list("abcd")),
        "accuracy": metrics.accuracy_score(truth, answers),
    }
    options = {"labels": np.unique([*truth, *answers]), "zero_division": 0}
    for name in ("precision", "recall", "f1"):
        score = getattr(metrics, f"{name}_score")
        expected[f"{name}_macro"] = score(truth, answers, average="macro", **options)
        expected[f"{name}_weighted"] = score(truth, answers, average="weighted", **options)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    for place, name in enumerate("abc" if share < 1 else ""):
        area = metrics.roc_auc_score(truth == name, chances[:, place])
        assert found[f"roc_auc[{name}]"] == pytest.approx(area, abs=2e-3)


def test_a_sure_mistake_does_not_make_the_loss_infinite():
    losses = row_losses(binary_contract(), binary_rows([True], [0.0]))
    assert np.isfinite(losses["log_loss"]).all()


def test_an_evaluation_counts_what_has_no_outcome():
    rows = binary_rows([True, None, False, None], [0.9, 0.5, 0.1, 0.2])
    evaluation = evaluate_rows(
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
    assert evaluation.drift == ()
    assert evaluation.metric("insufficient_data") == 98


def test_an_evaluation_of_nothing_is_not_an_error():
    reference = profile_of_reference(binary_contract(), binary_rows([True] * 200, [0.5] * 200), timedelta(days=1))
    evaluation = evaluate_rows(
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


def test_two_rows_that_say_less_than_one_have_no_error_and_break_nothing():
    rows = binary_rows([True, False, None], [0.9, 0.2, 0.5]).append_column("sample_weight", pa.array([1.0, 1.0, 9.0]))
    assert of(binary_contract(), rows)["outcome_rate"].standard_error is None
    worth = pa.table({"paid": [1.0, 2.0, None], "prediction": [1.0, 1.0, 1.0], "sample_weight": [1.0, 1.0, 9.0]})
    assert of(regression_contract(), worth)["quantile_loss_0.1"].standard_error is None


@pytest.mark.parametrize("classes", [(-1, 1), ("fraud", "no")])
def test_no_class_is_told_from_others_before_classes_are_known_and_then_they_are_learned(random, classes):
    kind = ColumnType.LONG if classes[0] == -1 else ColumnType.STRING
    contract = binary_contract(probabilities=False, classes=(), label_type=kind)
    truth = random.choice(classes, 400, p=[0.25, 0.75])
    answers = np.where(random.random(400) < 0.8, truth, random.choice(classes, 400))
    rows = pa.table({"churned": truth, "prediction": answers, "plan": ["pro"] * 400, "age": np.ones(400)})
    asked = {"version": "1", "window": Window(START, START + DAY), "as_of": START + 2 * DAY, "matured": True}
    bare = evaluate_rows(contract, rows, None, **asked)
    assert {each.metric for each in bare.metrics if not each.segment} == {"accuracy"}
    assert "No class is told from others" in bare.notes[0]
    found = evaluate_rows(contract, rows, profile_of_reference(contract, rows, DAY), **asked)
    assert found.metric("outcome_rate") == pytest.approx((truth == classes[1]).mean())
    assert found.metric("recall") == pytest.approx(metrics.recall_score(truth, answers, pos_label=classes[1]))
    assert f"{classes[1]!r} counts are learned from outcomes" in found.notes[0]
    wanted = binary_contract(probabilities=False, classes=(), label_type=kind, positive=classes[0])
    layout = make_layout(wanted, rows)
    assert layout.is_of(wanted)
    assert not layout.is_of(replace(contract, positive=classes[1]))
    told = {each.metric: each.value for each in metrics_of(layout, fold(layout, rows)) if not each.segment}
    assert told["outcome_rate"] == pytest.approx((truth == classes[0]).mean())


def test_classes_of_a_multiclass_model_that_says_none_are_not_one():
    contract = replace(multiclass_contract(()), outputs=multiclass_contract().outputs[:1])
    rows = pa.table({"kind": list("abc") * 9, "prediction": list("abb") * 9})
    assert {each.metric for each in validation_metrics(contract, rows)} == {"accuracy"}
