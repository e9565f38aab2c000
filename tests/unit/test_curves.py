"""Curves of score bins are those of the rows: against scikit-learn, and by hand."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from feedback_loop.monitoring import curves
from feedback_loop.monitoring.profiles.fold import fold
from feedback_loop.monitoring.profiles.layout import Layout
from feedback_loop.monitoring.profiles.profile import Profile
from tests.builders import binary_contract, multiclass_contract, regression_contract

RANDOM = np.random.default_rng(2)


def profile(contract, rows):
    layout = Layout(contract)
    return Profile.of(layout, fold(layout, rows))


def binary(chance, truth, **more):
    return pa.table({"prediction": chance > 0.5, "probability": chance, "churned": truth, **more})


@pytest.fixture
def drawn():
    chance = RANDOM.beta(1, 3, 20_000)
    return chance, RANDOM.random(20_000) < chance


def test_the_calibration_curve_is_that_of_scikit_learn():
    chance = RANDOM.random(20_000)
    truth = RANDOM.random(20_000) < chance
    (found,) = curves(profile(binary_contract(), binary(chance, truth))).values()
    rates, scores = calibration_curve(truth, chance, n_bins=10)
    assert [each.rate for each in found.calibration] == pytest.approx(rates, abs=0.01)
    assert [each.score for each in found.calibration] == pytest.approx(scores, abs=2e-3)
    assert sum(each.rows for each in found.calibration) == 20_000


def test_the_band_of_a_calibrated_model_holds_the_diagonal_as_often_as_it_says():
    held = []
    for _ in range(100):
        chance = RANDOM.random(500)
        (found,) = curves(profile(binary_contract(), binary(chance, RANDOM.random(500) < chance))).values()
        held += [each.least <= each.score <= each.most for each in found.calibration]
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def test_a_tenth_in_which_all_are_of_the_class_still_has_a_band():
    (found,) = curves(profile(binary_contract(), binary(np.full(20, 0.95), np.full(20, True)))).values()
    (only,) = found.calibration
    assert (only.rate, only.most) == (1.0, pytest.approx(1.0))
    assert only.least == pytest.approx(1 / (1 + 1.96**2 / 20))  # Wilson's, where all are


def test_lift_is_how_much_more_often_the_class_comes_among_the_highest(drawn):
    (found,) = curves(profile(binary_contract(), binary(*drawn))).values()
    ordered = drawn[1][np.argsort(-drawn[0])]
    for each in found.lift:
        top = ordered[: round(20_000 * each.share)]
        assert each.lift == pytest.approx(top.mean() / ordered.mean(), rel=5e-3)
        assert each.found == pytest.approx(top.sum() / ordered.sum(), rel=5e-3)
        assert each.least <= each.lift <= each.most


def test_the_areas_under_the_curves_are_those_of_the_metrics(drawn):
    (found,) = curves(profile(binary_contract(), binary(*drawn))).values()
    assert auc(*zip(*found.roc, strict=True)) == pytest.approx(roc_auc_score(drawn[1], drawn[0]), abs=1e-3)
    recall, precision = zip(*found.precision_recall, strict=True)
    assert auc(recall, precision) == pytest.approx(average_precision_score(drawn[1], drawn[0]), abs=0.01)
    assert len(found.roc) <= 202


def test_each_class_of_many_has_its_curves_and_other_tasks_have_none():
    chance = RANDOM.dirichlet([1, 1, 1], 300)
    names = np.array(list("abc"))
    scores = {f"probability_{name}": chance[:, place] for place, name in enumerate("abc")}
    truth = pa.array(["a"] * 150 + ["b"] * 150)
    rows = pa.table({"prediction": names[chance.argmax(axis=1)], "kind": truth, **scores})
    assert list(curves(profile(multiclass_contract(), rows))) == ["a", "b"]
    assert curves(profile(regression_contract(), pa.table({"prediction": [1.0], "paid": [2.0]}))) == {}
    plain = binary_contract(probabilities=False)
    assert curves(profile(plain, pa.table({"prediction": [True], "churned": [True]}))) == {}


def test_rows_count_for_the_predictions_that_they_stand_for():
    chance = np.array([0.9] * 10 + [0.1] * 10)
    weights = [1.0] * 10 + [9.0] * 10
    (found,) = curves(profile(binary_contract(), binary(chance, chance > 0.5, sample_weight=weights))).values()
    assert [each.rows * 9 for each in found.calibration] == pytest.approx([90, 10])
    assert found.lift[1].lift == pytest.approx(10.0)  # the tenth is the ten that stand for themselves
