"""Fits side by side: what hangs, dies or fails is a failure of its own, and the others are not its victims."""

import os
import signal
import time
from datetime import timedelta

import numpy as np
import psutil
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from feedback_loop.retraining import parallel
from feedback_loop.retraining.column_types import unfitted
from feedback_loop.retraining.parallel import DIED, LATE, THREADS, Job, fit, fit_all, workers_for

ROWS = np.random.default_rng(0).normal(size=(200, 2))
LABEL = (ROWS[:, 0] > 0).astype(int)


class Behaving(BaseEstimator):
    """Does what it is told while it is fitted."""

    def __init__(self, how="well"):
        self.how = how

    def fit(self, inputs, label):
        del inputs, label
        if self.how == "hangs":
            time.sleep(600)
        if self.how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "raises":
            raise ValueError("no")
        return self


def outcomes(*jobs, workers, seconds=60):
    done = dict(fit_all(jobs, workers=workers, limit=timedelta(seconds=seconds)))
    return [done[place] for place in range(len(jobs))]


def test_side_by_side_each_is_fitted_as_it_would_be_alone_and_what_dies_or_raises_ends_alone():
    linear = Job(LogisticRegression(), ROWS, LABEL)
    first, died, raised, last = outcomes(
        linear, Job(Behaving("dies"), ROWS, LABEL), Job(Behaving("raises"), ROWS, LABEL), linear, workers=2
    )
    assert np.array_equal(first.estimator.coef_, fit(linear).estimator.coef_)
    assert np.array_equal(last.estimator.coef_, first.estimator.coef_)
    assert (died.estimator, died.words) == (None, DIED)
    assert (raised.error, raised.words) == ("ValueError", "no")


def test_what_hangs_is_killed_when_the_time_is_over():
    began = time.monotonic()
    hang = Job(Behaving("hangs"), ROWS, LABEL)
    assert [fitted.words for fitted in outcomes(hang, hang, workers=2, seconds=4)] == [LATE, LATE]
    assert time.monotonic() - began < 60
    children = [child for child in psutil.Process().children(recursive=True) if child.status() != "zombie"]
    assert not [child for child in children if "popen_loky" in " ".join(child.cmdline())]


def test_in_this_process_nothing_is_begun_after_the_time():
    assert [fitted.words for fitted in outcomes(Job(Behaving(), ROWS, LABEL), workers=1, seconds=0)] == [LATE]


def test_an_estimator_of_many_threads_gets_its_share_and_stays_as_it_was_told():
    model = make_pipeline(StandardScaler(), ExtraTreesClassifier(3, n_jobs=-1))
    fitted = fit(Job(model, ROWS, LABEL), threads=1).estimator
    assert fitted[-1].n_jobs == -1


@pytest.mark.parametrize(
    ("model", "takes"),
    [(make_pipeline(StandardScaler(), LogisticRegression(C=1e6)), True), (Behaving(), False)],
)
def test_weights_are_learned_by_where_the_last_step_takes_them(model, takes):
    weights = np.where(ROWS[:, 1] > 0, 1.0, 9.0)
    fitted = fit(Job(model, ROWS, LABEL, weights)).estimator
    assert fitted is not None
    if takes:
        assert not np.allclose(fitted[-1].coef_, fit(Job(model, ROWS, LABEL)).estimator[-1].coef_)


@pytest.mark.parametrize(
    ("values", "jobs", "wanted", "workers"),
    [(10, 12, None, 1), (10, 12, 3, 3), (10, 2, 3, 2), (10**9, 1, None, 1), (10**9, 12, None, 4), (10, 12, 64, 4)],
)
def test_processes_are_started_where_they_are_wanted_or_worth_it_and_no_more_than_cores(
    monkeypatch, values, jobs, wanted, workers
):
    monkeypatch.setattr(parallel, "cores", lambda: 4)
    assert workers_for(values, jobs, wanted) == workers


class Threads(BaseEstimator):
    """Tells on how many threads it may work, by its parameters and by its environment."""

    def __init__(self, n_jobs=64, thread_count=64):
        self.n_jobs, self.thread_count = n_jobs, thread_count

    def fit(self, inputs, label):
        del inputs, label
        self.told_ = [self.n_jobs, self.thread_count, *(int(os.environ[name]) for name in THREADS)]
        return self


@pytest.mark.parametrize(("cores", "workers"), [(7, 2), (1, 2)])
def test_side_by_side_trials_times_threads_are_no_more_than_cores(monkeypatch, cores, workers):
    monkeypatch.setattr(parallel, "cores", lambda: cores)
    fitted = outcomes(Job(Threads(), ROWS, LABEL), Job(Threads(), ROWS, LABEL), workers=workers)
    assert [set(each.estimator.told_) for each in fitted] == [{max(cores // workers, 1)}] * 2


class Forgetful(ClassifierMixin, BaseEstimator):
    """As CatBoost is: it copies its categories, which are no parameter once it was loaded. Fitted, it is not set."""

    def __init__(self, cat_features=None, thread_count=None):
        self.cat_features, self.thread_count = cat_features and list(cat_features), thread_count

    def is_fitted(self):
        return hasattr(self, "trees_")

    def get_params(self, deep=True):
        return {"thread_count": self.thread_count} if hasattr(self, "trees_") else super().get_params(deep)

    def set_params(self, **changes):
        assert not hasattr(self, "trees_")
        return super().set_params(**changes)

    def get_cat_feature_indices(self):
        assert self.is_fitted()
        return self.cat_features or []

    def fit(self, inputs, label):
        self.trees_ = len(inputs) + len(label)
        return self


def test_categories_that_a_fitted_estimator_alone_knows_are_those_of_its_copy():
    fitted = Forgetful([0], thread_count=3).fit([["a"]], [1])
    again = fit(Job(fitted, [["b"], ["c"]], np.array([0, 1]), None), threads=1)
    assert (again.words, again.estimator.cat_features, again.estimator.trees_) == ("", [0], 4)
    assert unfitted(unfitted(fitted)).cat_features == [0]
    last = fit(Job(make_pipeline(StandardScaler(), Forgetful(thread_count=3)), ROWS, LABEL), threads=1)
    assert (last.words, last.estimator[-1].trees_) == ("", 400)
