"""A search space in a database: what was done is not done again, and Optuna's tables stand apart from all others."""

import multiprocessing
import os
import signal
import time
import uuid
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from sklearn.linear_model import LogisticRegression
from sqlalchemy import create_engine, inspect, text

from feedback_loop.config_policy import RetrainingSettings, SearchSpaceSettings
from feedback_loop.errors import Refused
from feedback_loop.retraining import retrain
from feedback_loop.retraining.tuning import Tuning, make_tuning, refuse_space
from feedback_loop.schema import Task
from feedback_loop.store import Store, migrate
from feedback_loop.store.backup import make_backup, restore_backup
from feedback_loop.store.studies import SCHEMA, study_url
from tests.adapters import adapter_contract

OWN = LogisticRegression()
PARAMETERS = {"own": {"C": {"low": 0.1, "high": 10.0, "log": True}}, "linear": {"C": {"choices": [0.1, 1.0]}}}


def space(**more):
    return SearchSpaceSettings(**{"kinds": ("own", "linear"), "trials": 4, "parameters": PARAMETERS} | more)


class Fits:
    """Trials whose loss is how far C is from 1; one of C above 5 fails. After `until` it kills its process."""

    def __init__(self, until=None):
        self.made, self.until = [], until

    def __call__(self, planned, settings):
        assert settings.time_limit <= timedelta(hours=1)
        if len(self.made) == self.until:
            os.kill(os.getpid(), signal.SIGKILL)
        self.made += planned
        losses = {id(plan): abs(plan.parameters.get("C", 2.0) - 1) for plan in planned}
        good = [plan for plan in planned if plan.parameters.get("C", 2.0) <= 5]
        return [SimpleNamespace(plan=plan, trial=SimpleNamespace(loss=losses[id(plan)])) for plan in good], list(
            planned
        )


def tuning(store, name="a", settings=None, **more):
    return Tuning(store, space(**more), OWN, settings or RetrainingSettings(), 0, ("age", "plan"), "churn", name)


def killed_after(url, until):
    process = multiprocessing.get_context("fork").Process(
        target=lambda: tuning(Store(url)).run(Fits(until)), daemon=True
    )
    process.start()
    process.join(60)
    return process.exitcode


def test_a_search_that_was_killed_goes_on_where_it_was(store):
    assert killed_after(store.url.render_as_string(hide_password=False), 6) == -signal.SIGKILL  # in its fourth round
    rest = Fits()
    result = tuning(store).run(rest)
    assert result.taken_over == 6
    fitted_again = len(rest.made) - 2  # of two trials that were left
    assert fitted_again <= 2  # the best of each kind, where they were from before
    best = {success.plan.recipe: success for success in result.successes}
    assert set(best) == {"own", "linear"}
    assert result.trials == rest.made
    done = Fits()
    again = tuning(store).run(done)
    assert (again.taken_over, len(done.made)) == (8, 2)
    assert {success.plan.recipe: success.plan.parameters for success in again.successes} == {
        kind: success.plan.parameters for kind, success in best.items()
    }
    other = Fits()
    assert tuning(store, "b").run(other).taken_over == 0  # of another window
    assert (len(other.made), len(tuning(store).run(Fits()).trials)) == (8, 8)  # whose studies took the place of these


@pytest.fixture
def cut_off(urls, tmp_path, clock):
    """A store that holds nothing, and the folder of a backup of another one, whose search was killed in the midst."""
    with closing(Store(urls[0])) as store:
        migrate.upgrade(store)
    assert killed_after(urls[0], 6) == -signal.SIGKILL
    with closing(Store(urls[0])) as store:
        make_backup(store, tmp_path / "backup", clock())
    with closing(Store(urls[1])) as target:
        yield target, tmp_path / "backup"


def test_a_search_that_was_cut_off_goes_on_after_a_restore(cut_off):
    target, folder = cut_off
    restore_backup(target, folder)
    rest = Fits()
    assert (tuning(target).run(rest).taken_over, len(rest.made)) == (6, pytest.approx(3, abs=1))
    assert tuning(target, "b").run(Fits()).taken_over == 0  # studies and trials are numbered on
    assert tuning(target, "b").run(Fits()).taken_over == 8


def test_studies_are_not_overwritten_by_a_restore(cut_off):
    target, folder = cut_off
    tuning(target, trials=1).run(Fits())
    with pytest.raises(Refused, match=r"not empty: there is something in .*optuna.*set store.url"):
        restore_backup(target, folder)
    assert tuning(target, trials=1).run(Fits()).taken_over == 2
    assert migrate.current(target) is None


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)  # PostgreSQL's is one transaction
def test_a_restore_that_was_cut_off_is_made_again(cut_off):
    target, folder = cut_off
    restore_backup(target, folder)
    if target.is_postgresql:  # in one transaction
        return
    target.close()
    Path(target.url.database).unlink()
    restore_backup(target, folder)
    assert tuning(target).run(Fits()).taken_over == 6


def test_optunas_tables_are_apart_from_ours_and_from_mlflows(store):
    before = set(inspect(store.engine).get_table_names())
    tuning(store, trials=1).run(Fits())
    assert set(inspect(store.engine).get_table_names()) == before


def test_in_postgresql_options_of_the_url_stay_and_a_schema_that_is_there_is_used(postgres_url):
    with closing(Store(f"{postgres_url}&options=-cstatement_timeout%3D5000")) as store:
        url = study_url(store)
        name = f"plain_{uuid.uuid4().hex}"
        with store.write() as connection:
            connection.execute(text(f"CREATE ROLE {name} LOGIN"))
        with closing(Store(store.url.set(username=name).render_as_string(hide_password=False))) as plain:
            assert study_url(plain).partition("?")[2] == url.partition("?")[2]  # a role that may make no schemas
        with store.write() as connection:
            connection.execute(text(f"DROP ROLE {name}"))
    engine = create_engine(url)
    with engine.connect() as connection:
        shown = [connection.execute(text(f"SHOW {what}")).scalar() for what in ("statement_timeout", "search_path")]
    with closing(engine.raw_connection()) as connection:  # behind a pooler it is anybody's with the next transaction
        after = connection.cursor().execute("SHOW search_path").fetchone()
    engine.dispose()
    assert (shown, after) == (["5s", SCHEMA], ('"$user", public',))


def test_a_search_goes_on_only_under_the_same_settings(sqlite_store):
    contract = adapter_contract(Task.BINARY)

    def name(of=("1", "monday"), **settings):
        settings = RetrainingSettings(search_space=space(), **settings)
        return make_tuning(sqlite_store, settings.search_space, OWN, contract, settings, 0, of).name

    assert name(time_limit=timedelta(minutes=3), jobs=1) == name()
    others = [name(recent=timedelta(days=7)), name(holdout=0.3), name(of=("2", "monday"))]
    assert len({name(), *others}) == 4


def test_features_are_varied_where_that_is_asked_for_but_not_those_of_the_champions_pipeline(sqlite_store):
    fits = Fits()
    tuning(sqlite_store, trials=8, feature_selection=True).run(fits)
    without = {kind: {plan.without for plan in fits.made if plan.recipe == kind} for kind in ("own", "linear")}
    assert without["own"] == {()}
    assert len(without["linear"]) > 1
    assert ("age", "plan") not in without["linear"]
    assert all(plan.why.startswith("the search space: ") for plan in fits.made)


def test_it_has_what_the_fixed_trials_leave_of_the_time(sqlite_store, monkeypatch):
    limits = []

    def try_plans(planned, split, settings, *more):
        del planned, split, more
        limits.append(settings.time_limit)
        time.sleep(0.01)
        return [], []

    monkeypatch.setattr(retrain, "try_plans", try_plans)
    search = SimpleNamespace(settings=SimpleNamespace(retraining=RetrainingSettings()), _rescored=None)
    prepared = retrain.Prepared(None, None, (), (), tuning(sqlite_store, trials=1))
    retrain.Search._tried(search, prepared, "log_loss", None)
    assert limits[0] == timedelta(hours=1)
    assert timedelta() < limits[1] < timedelta(hours=1) - timedelta(seconds=0.01)


def test_no_time_left_no_trials(sqlite_store):
    result = tuning(sqlite_store, settings=RetrainingSettings(time_limit=timedelta(microseconds=1))).run(Fits())
    assert (result.successes, result.trials) == ([], [])


def test_a_parameter_that_is_none_of_its_kind_is_refused_with_those_there_are(monkeypatch):
    with pytest.raises(Refused, match=r"own has no parameter 'depth'\. It has C, "):
        refuse_space(space(parameters={"own": {"depth": {"low": 1, "high": 3}}}), OWN, classifies=True)
    wrong = space(kinds=("boosting",), parameters={"boosting": {"C": {"low": 1, "high": 3}}})
    with pytest.raises(Refused, match=r"boosting has no parameter 'C'\. It has .*learning_rate"):
        refuse_space(wrong, OWN, classifies=True)
    refuse_space(space(), OWN, classifies=True)
    monkeypatch.setattr("feedback_loop.retraining.tuning.find_spec", {}.get)
    with pytest.raises(
        Refused, match=r"needs Optuna, which is not installed\. pip install 'feedback-loop\[search\]'"
    ):
        refuse_space(space(), OWN, classifies=True)


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({}, "range .* or choices"),
        ({"low": 1}, "range .* or choices"),
        ({"low": 1, "high": 2, "choices": [1]}, "range .* or choices"),
        ({"low": 3, "high": 2}, "low is at most high"),
        ({"low": 0, "high": 2, "log": True}, "above zero"),
    ],
)
def test_a_parameter_has_a_range_or_choices(values, cause):
    with pytest.raises(ValueError, match=cause):
        space(parameters={"own": {"C": values}})
    with pytest.raises(ValueError, match="'trees', which is none of the kinds own, linear"):
        space(parameters={"trees": {}})
