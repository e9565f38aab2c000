"""Surrogates have the distributions of the rows that a profile was made from."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import wasserstein_distance
from sklearn.metrics import brier_score_loss, confusion_matrix, log_loss, r2_score, roc_auc_score

from feedback_loop.monitoring.evaluation import profile_of_reference
from feedback_loop.monitoring.profiles.fold import fold
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.surrogates import SURROGATE_ROWS, drift_columns, labelled_columns, shared
from feedback_loop.schema import Column, ColumnType, Task, make_contract
from tests.builders import binary_contract, multiclass_contract, regression_contract

RANDOM = np.random.default_rng(1)
NUMBERS = {
    "normal": lambda n, s: RANDOM.normal(s, 1, n),
    "lognormal": lambda n, s: RANDOM.lognormal(s, 1, n),
    "heavy": lambda n, s: RANDOM.standard_t(3, n) + s,
    "uniform": lambda n, s: RANDOM.random(n) + s,
    "values": lambda n, s: RANDOM.integers(0, 50, n).astype(float) + round(10 * s),
    "whole": lambda n, s: RANDOM.poisson(500 + 100 * s, n),
}


def profiles(contract, reference, current):
    whole = profile_of_reference(contract, reference, timedelta(days=1))
    return whole, Profile.of(whole.layout, fold(whole.layout, current))


def made_of(pair):
    """The surrogates of a reference and of what is compared with it."""
    return [drift_columns(each, pair[0]) for each in pair]


def drifting():
    kinds = {name: ColumnType.LONG if name == "whole" else ColumnType.DOUBLE for name in NUMBERS}
    features = (*(Column(name, kind) for name, kind in kinds.items()), Column("word", ColumnType.STRING))
    contract = make_contract(
        model="m", task=Task.REGRESSION, features=features, label="paid", label_type=ColumnType.DOUBLE
    )

    def rows(count, shift):
        words = RANDOM.choice(
            list("abcdefgh"), count, p=np.array([8 + 40 * shift, 7, 6, 5, 4, 3, 2, 1]) / (36 + 40 * shift)
        )
        numbers = {name: draw(count, shift) for name, draw in NUMBERS.items()}
        return pa.table({**numbers, "word": words, "prediction": np.zeros(count), "paid": np.zeros(count)})

    return contract, rows


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("count", [2_000, 50_000])
def test_distances_of_surrogates_are_those_of_the_rows(shift, count):
    contract, rows = drifting()
    reference, current = rows(50_000, 0), rows(count, shift)
    before, after = made_of(profiles(contract, reference, current))
    for name in NUMBERS:
        one, other = (np.asarray(each[name], float) for each in (reference, current))
        expected = wasserstein_distance(one, other) / one.std()
        found = wasserstein_distance(before[name], after[name]) / before[name].std()
        assert found == pytest.approx(expected, abs=5e-3, rel=0.02), name
        assert before[name].std() == pytest.approx(one.std(), rel=5e-3)
        assert before[name].mean() == pytest.approx(one.mean(), abs=5e-3 * one.std())
    for name, column in (("word", before), ("word", after)):
        rows_of = reference if column is before else current
        words, counts = np.unique(rows_of[name], return_counts=True)
        made = np.array([(column[name] == word).mean() for word in words])
        assert made == pytest.approx(counts / counts.sum(), abs=1 / len(column[name]))


def test_few_rows_have_as_many_surrogates_and_many_five_thousand():
    contract, rows = drifting()
    before, after = made_of(profiles(contract, rows(20_000, 0), rows(137, 0)))
    assert {len(column) for column in before.values()} == {SURROGATE_ROWS}
    assert {len(column) for column in after.values()} == {137}


def test_columns_are_independent_and_the_same_every_time():
    contract, rows = drifting()
    whole, _ = profiles(contract, rows(20_000, 0), rows(100, 0))
    made = drift_columns(whole, whole)
    numbers = np.array([made[name] for name in NUMBERS])
    assert np.abs(np.corrcoef(numbers) - np.eye(len(numbers))).max() < 0.06
    read = Profile.from_bytes(whole.to_bytes())
    again = drift_columns(read, read)
    assert all(np.array_equal(made[name], again[name], equal_nan=name != "word") for name in made)


def test_whole_numbers_stay_whole():
    contract, rows = drifting()
    before, _ = made_of(profiles(contract, rows(20_000, 0), rows(100, 0)))
    assert (before["whole"] % 1 == 0).all()


def test_missing_and_infinite_values_new_and_rare_words_are_there_in_proportion():
    contract = binary_contract()
    base = {"prediction": [True] * 1000, "probability": [0.5] * 1000, "churned": [True] * 1000}
    reference = pa.table({"age": np.arange(1000.0), "plan": ["basic"] * 1000, **base})
    ages = [None] * 100 + [np.inf] * 50 + [2000.0] * 50 + [-100.0] * 50 + [500.0] * 750
    current = pa.table({"age": ages, "plan": [None] * 200 + ["new"] * 300 + ["basic"] * 500, **base})
    _, after = made_of(profiles(contract, reference, current))
    age, plan = after["age"], after["plan"]
    assert np.isnan(age).sum() == 150
    assert (age < 0).sum() == (age > 999).sum() == 50
    assert age[age > 999].mean() == pytest.approx(2000)
    assert age[age < 0].mean() == pytest.approx(-100)
    assert [(plan == word).sum() for word in (None, "(new)", "basic")] == [200, 300, 500]


def test_a_reference_without_values_has_none_and_a_constant_stays_one():
    contract = binary_contract()
    base = {"prediction": [True] * 50, "probability": [0.5] * 50, "churned": [True] * 50}
    empty = pa.table({"age": pa.nulls(50, pa.float64()), "plan": pa.nulls(50, pa.string()), **base})
    constant = pa.table({"age": [7.0] * 50, "plan": ["basic"] * 50, **base})
    before, after = made_of(profiles(contract, empty, constant))
    assert np.isnan(before["age"]).all()
    assert (before["plan"] == None).all()  # noqa: E711 (element by element)
    assert set(after["age"]) == {7.0}
    before, after = made_of(profiles(contract, constant, empty))
    assert set(before["age"]) == {7.0}
    assert np.isnan(after["age"]).all()


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_a_binary_tasks_counts_and_scores_go_together_as_in_the_rows(rate):
    count = 50_000
    chance = RANDOM.beta(1, 1 / rate - 1, count)
    rows = pa.table(
        {
            "age": RANDOM.normal(size=count),
            "plan": ["basic"] * count,
            "prediction": chance > 0.3,
            "probability": chance,
            "churned": RANDOM.random(count) < chance,
        }
    )
    whole, _ = profiles(binary_contract(), rows, rows)
    made = labelled_columns(whole, whole)
    truth, answers, scores = (made[name] for name in ("churned", "prediction", "probability"))
    expected = confusion_matrix(rows["churned"], rows["prediction"]) / count
    assert confusion_matrix(truth, answers) / SURROGATE_ROWS == pytest.approx(expected, abs=1 / SURROGATE_ROWS)
    positive = truth == "True"
    assert roc_auc_score(positive, scores) == pytest.approx(roc_auc_score(rows["churned"], chance), abs=1e-4)
    assert log_loss(positive, scores) == pytest.approx(log_loss(rows["churned"], chance), abs=3e-4)
    assert brier_score_loss(positive, scores) == pytest.approx(brier_score_loss(rows["churned"], chance), abs=2e-4)
    for side in (positive, ~positive):  # the answers are made by the score, as the model does
        assert scores[side & (answers == "True")].min() >= scores[side & (answers == "False")].max()


def test_each_class_of_many_has_its_scores():
    count, names = 20_000, np.array(list("abc"))
    chance = RANDOM.dirichlet([1, 2, 3], count)
    truth = names[(chance.cumsum(axis=1) > RANDOM.random(count)[:, None]).argmax(axis=1)]
    scores = {f"probability_{name}": chance[:, place] for place, name in enumerate("abc")}
    answers = names[chance.argmax(axis=1)]
    rows = pa.table({"x": chance[:, 0], "prediction": answers, "kind": truth, **scores})
    whole, _ = profiles(multiclass_contract(), rows, rows)
    made = labelled_columns(whole, whole)
    expected = confusion_matrix(truth, answers) / count
    assert confusion_matrix(made["kind"], made["prediction"]) / SURROGATE_ROWS == pytest.approx(
        expected, abs=1 / SURROGATE_ROWS
    )
    for place, name in enumerate("abc"):
        area = roc_auc_score(made["kind"] == name, made[f"probability_{name}"])
        assert area == pytest.approx(roc_auc_score(truth == name, chance[:, place]), abs=1e-4)


def test_a_regressions_errors_and_outcomes_are_as_in_the_rows():
    count = 20_000
    truth = RANDOM.lognormal(size=count)
    error = RANDOM.standard_t(5, count) / 5
    rows = pa.table({"x": truth, "prediction": truth + error, "paid": truth})
    whole, _ = profiles(regression_contract(), rows, rows)
    made = labelled_columns(whole, whole)
    found = made["prediction"] - made["paid"]
    assert np.abs(found).mean() == pytest.approx(np.abs(error).mean(), rel=2e-3)
    assert found.mean() == pytest.approx(error.mean(), abs=1e-3)
    assert r2_score(made["paid"], made["prediction"]) == pytest.approx(r2_score(truth, truth + error), abs=2e-3)


@pytest.mark.parametrize(("counts", "rows"), [([1, 1, 1], 2), ([0, 0], 5), ([3, 0, 1e-9], 7), ([0.1, 0.9], 10)])
def test_rows_are_shared_out_without_a_rest(counts, rows):
    given = shared(np.array(counts, float), rows)
    assert given.sum() == (rows if sum(counts) else 0)
    assert (np.abs(given - np.array(counts) * (rows / max(sum(counts), 1e-300))) < 1).all() or not sum(counts)
