"""Recipes: what a search fits, and the average of fitted ones."""

import numpy as np
import pytest
from sklearn.base import clone

from benchmarks.pipelines import NUMBERS, WORDS, Kind, made_up
from feedback_loop.retraining.recipes import BOOSTING, LINEAR, TREES, Columns, averaged, recipe

COLUMNS = Columns(WORDS, NUMBERS)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_an_average_answers_with_the_mean_of_its_members_and_learns_again_as_they_do(task):
    frame, outcomes = made_up(Kind("", lambda: None, task, missing=True))
    members = {
        kind: recipe(kind, COLUMNS, classifies=task != "regression", seed=0).fit(frame, outcomes)
        for kind in (BOOSTING, LINEAR, TREES)
    }
    average = averaged(members)
    method = "predict" if task == "regression" else "predict_proba"
    mean = np.mean([getattr(member, method)(frame) for member in members.values()], axis=0)
    assert np.allclose(getattr(average, method)(frame), mean, rtol=0, atol=1e-15)
    again = clone(average).fit(frame, outcomes)
    assert np.allclose(getattr(again, method)(frame), mean, rtol=0, atol=1e-12)
    if task != "regression":
        assert average.predict(frame).tolist() == average.classes_[mean.argmax(axis=1)].tolist()
