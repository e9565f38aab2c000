"""Several labels of one row: each is judged like a model of its own, and all together, as scikit-learn does."""

from datetime import UTC, datetime, timedelta
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPClassifier

from feedback_loop.errors import ContractError, ModelFault
from feedback_loop.inference.engines import PyfuncEngine, SklearnEngine
from feedback_loop.monitoring.losses import row_losses
from feedback_loop.monitoring.profiles.fold import fold, merge
from feedback_loop.monitoring.profiles.layout import make_layout
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.validation import metrics_of, validation_metrics
from feedback_loop.schema import Column, ColumnType, JoinRule, Task, make_contract

START = datetime(2026, 3, 1, tzinfo=UTC)
NAMES = ("price", "days", "noise")
TAGS = ("red", "round", "big")


def contract_of(names, task=Task.BINARY, **changes):
    options = {
        "model": "several",
        "task": task,
        "features": (Column("x", ColumnType.DOUBLE), Column("shop", ColumnType.STRING)),
        "label": names[0],
        "more_labels": tuple(names[1:]),
        "label_type": ColumnType.DOUBLE if task is Task.REGRESSION else ColumnType.LONG,
        "classes": () if task is Task.REGRESSION else (0, 1),
        "has_probabilities": task is Task.BINARY,
    }
    return make_contract(**(options | changes))


def numbers(count=500, seed=0):
    random = np.random.default_rng(seed)
    truth = random.normal(size=(count, 3)) * (1, 50, 3) + (5, 100, 0)
    return truth, truth + random.normal(size=(count, 3)) * (0.3, 20, 3)


def regression_rows(truth, answers, mask=None):
    columns = {name: pa.array(truth[:, k], mask=mask) for k, name in enumerate(NAMES)}
    return pa.table(columns | {f"prediction_{name}": answers[:, k] for k, name in enumerate(NAMES)})


def tag_rows(truth, chances, **more):
    columns = {name: truth[k] if isinstance(truth, list) else truth[:, k] for k, name in enumerate(TAGS)}
    columns |= {f"prediction_{name}": (chances[:, k] > 0.5).astype(int) for k, name in enumerate(TAGS)}
    return pa.table(columns | {f"probability_{name}": chances[:, k] for k, name in enumerate(TAGS)} | more)


def values(found):
    return {each.metric: each.value for each in found if not each.segment}


def test_several_numbers_are_judged_each_and_on_the_whole_as_scikit_learn_does():
    truth, answers = numbers()
    rows = regression_rows(truth, answers)
    contract = contract_of(NAMES, Task.REGRESSION)
    layout = make_layout(contract, rows)
    found = values(metrics_of(layout, fold(layout, rows)))
    for name, theirs in {
        "mae": metrics.mean_absolute_error,
        "mape": metrics.mean_absolute_percentage_error,
        "rmse": metrics.root_mean_squared_error,
        "r2": metrics.r2_score,
    }.items():
        assert found[name] == pytest.approx(theirs(truth, answers)), name
        each = theirs(truth, answers, multioutput="raw_values")
        assert [found[f"{name}[{label}]"] for label in NAMES] == pytest.approx(each), name


def test_several_tags_are_judged_each_and_on_the_whole_as_scikit_learn_does():
    random = np.random.default_rng(1)
    chances = random.random((800, 3))
    truth = (random.random((800, 3)) < chances).astype(int)
    answers = (chances > 0.5).astype(int)
    found = {each.metric: each for each in validation_metrics(contract_of(TAGS), tag_rows(truth, chances))}
    exact = {
        "subset_accuracy": metrics.accuracy_score(truth, answers),
        "hamming_loss": metrics.hamming_loss(truth, answers),
        "precision_macro": metrics.precision_score(truth, answers, average="macro"),
        "recall_macro": metrics.recall_score(truth, answers, average="macro"),
        "f1_macro": metrics.f1_score(truth, answers, average="macro"),
        "f1[round]": metrics.f1_score(truth[:, 1], answers[:, 1]),
    }
    assert {name: found[name].value for name in exact} == pytest.approx(exact)
    assert found["roc_auc_macro"].value == pytest.approx(metrics.roc_auc_score(truth, chances), abs=1e-3)
    assert found["hamming_loss"].standard_error > 0
    losses = row_losses(contract_of(TAGS), tag_rows(truth, chances))
    assert losses["error"].mean() == pytest.approx(exact["hamming_loss"])


def test_each_of_two_hundred_labels_is_judged_like_a_model_of_its_own():
    names = [f"l{place}" for place in range(200)]
    random = np.random.default_rng(3)
    truth = random.normal(5, 1, (60, 200))
    answers = truth + random.normal(size=(60, 200)) * np.linspace(0.1, 2, 200)
    hours = [START + place % 40 * timedelta(hours=1) for place in range(60)]
    columns = {"predicted_at": pa.array(hours, pa.timestamp("us", "UTC"))}
    columns |= {name: truth[:, k] for k, name in enumerate(names)}
    rows = pa.table(columns | {f"prediction_{name}": answers[:, k] for k, name in enumerate(names)})
    layout = make_layout(contract_of(names, Task.REGRESSION), rows)
    cells = fold(layout, rows)
    assert merge([fold(layout, rows.slice(0, 23)), fold(layout, rows.slice(23))]) == cells
    profile = Profile.from_bytes(Profile.of(layout, cells).to_bytes())
    assert profile == Profile.of(layout, cells)
    found = values(metrics_of(layout, cells))
    for name, theirs in {"mae": metrics.mean_absolute_error, "r2": metrics.r2_score}.items():
        each = theirs(truth, answers, multioutput="raw_values")
        assert [found[f"{name}[{label}]"] for label in names] == pytest.approx(each), name
        assert found[name] == pytest.approx(each.mean())


@pytest.mark.parametrize("seed", range(2))
def test_the_bounds_hold_whatever_the_tags_of_the_unlabelled_are(seed):
    random = np.random.default_rng(seed)
    chances = random.random((6, 3))
    truth = (random.random((6, 3)) < chances).astype(int)
    known = np.arange(6) < 4

    def of(world):
        return {each.metric: each for each in validation_metrics(contract_of(TAGS), tag_rows(world, chances))}

    found = of([pa.array(truth[:, k], mask=~known) for k in range(3)])
    for others in product([0, 1], repeat=6):
        world = truth.copy()
        world[~known] = np.reshape(others, (2, 3))
        for name, each in of(world).items():
            if name in found and found[name].least is not None:
                assert found[name].least - 1e-9 <= each.value <= found[name].most + 1e-9, name
    assert {"subset_accuracy", "hamming_loss", "f1_macro"} <= {
        n for n, each in found.items() if each.most is not None
    }


def test_profiles_of_several_labels_add_up_and_can_be_taken_out_again():
    truth, answers = numbers(300)
    rows = regression_rows(truth, answers)
    layout = make_layout(contract_of(NAMES, Task.REGRESSION), rows)
    whole, parts = fold(layout, rows), [fold(layout, rows.slice(start, 70)) for start in range(0, 300, 70)]
    assert merge(parts) == whole
    left = merge([whole, *({cell: -tally for cell, tally in part.items()} for part in parts[1:])])
    assert left == parts[0]
    profile = Profile.of(layout, whole)
    assert Profile.from_bytes(profile.to_bytes()) == profile
    assert profile.target(1).rows() == 300


@pytest.mark.parametrize("known", [0, 1])
def test_few_rows_of_several_labels_break_nothing(known):
    truth, answers = numbers(3)
    mask = np.arange(3) >= known
    found = values(validation_metrics(contract_of(NAMES, Task.REGRESSION), regression_rows(truth, answers, mask)))
    assert ("mae" in found) == bool(known)
    assert all(np.isfinite(value) for value in found.values())


def test_segments_have_the_means_of_each_label_too():
    truth, chances = np.ones((4, 3), int), np.array([[0.9] * 3, [0.1] * 3, [0.9] * 3, [0.9] * 3])
    rows = tag_rows(truth, chances, shop=["a", "b", "a", "b"])
    found = {(e.segment, e.metric): e.value for e in validation_metrics(contract_of(TAGS, segments=("shop",)), rows)}
    assert (found["shop=a", "subset_accuracy"], found["shop=b", "subset_accuracy"]) == (1.0, 0.5)
    assert found["shop=b", "accuracy[red]"] == 0.5


FRAME = pa.table({"x": np.linspace(0, 1, 60), "shop": ["a"] * 60})


@pytest.mark.parametrize("make", [RandomForestClassifier, MLPClassifier])
def test_engines_answer_all_labels_with_their_probabilities(make):
    features = FRAME.select(["x"]).to_pandas()
    truth = np.column_stack([features["x"] > 0.3, features["x"] > 0.6, features["x"] < 2]).astype(int)
    options = {"max_iter": 2000} if make is MLPClassifier else {}
    model = make(random_state=0, **options).fit(features, truth)
    contract = contract_of(TAGS, features=(Column("x", ColumnType.DOUBLE),))
    scored = SklearnEngine(model, contract).score(FRAME)
    assert np.array(scored.answers).tolist() == model.predict(features).tolist()
    told = scored.outputs
    assert told.column_names == [*(f"prediction_{each}" for each in TAGS), *(f"probability_{each}" for each in TAGS)]
    assert told["prediction_round"].to_pylist() == model.predict(features)[:, 1].tolist()
    chances = model.predict_proba(features)
    wanted = chances[1][:, 1] if isinstance(chances, list) else chances[:, 1]
    assert told["probability_round"].to_numpy() == pytest.approx(wanted)
    assert min(told["probability_big"].to_pylist()) > 0.5  # always so


def test_a_model_that_answers_too_little_is_refused():
    features = FRAME.select(["x"]).to_pandas()
    model = LinearRegression().fit(features, features["x"])
    contract = contract_of(NAMES, Task.REGRESSION, features=(Column("x", ColumnType.DOUBLE),))
    for engine in (SklearnEngine(model, contract), PyfuncEngine(model.predict, contract)):
        with pytest.raises(ModelFault, match="1 values for a row, and there are 3 labels"):
            engine.score(FRAME)


def test_a_pyfunc_may_answer_with_a_matrix_or_a_frame():
    contract = contract_of(NAMES, Task.REGRESSION, features=(Column("x", ColumnType.DOUBLE),))
    matrix = np.arange(180.0).reshape(60, 3)
    import pandas as pd

    for answer in (matrix, matrix.tolist(), pd.DataFrame(matrix, columns=list("abc"))):
        told = PyfuncEngine(lambda _, answer=answer: answer, contract).score(FRAME).outputs
        assert told["prediction_days"].to_pylist() == matrix[:, 1].tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": Task.MULTICLASS}, "several labels"),
        ({"query": "shop"}, "several labels"),
        ({"join": JoinRule(absent_means=0)}, "several labels"),
        ({"more_labels": ("red",)}, "is there twice"),
        ({"more_labels": ("x",)}, "also one of its features"),
    ],
)
def test_what_several_labels_do_not_go_with_is_refused(changes, said):
    with pytest.raises(ContractError, match=said):
        contract_of(TAGS, **changes)
