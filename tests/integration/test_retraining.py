"""Retraining of models that other people made, and of logs as they are: what is learned from which rows."""

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta

import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import (
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from feedback_loop.clock import format_moment
from feedback_loop.cycle import run_cycle
from feedback_loop.inference import EngineOptions
from feedback_loop.inference.choosing import make_engine
from feedback_loop.loop import FeedbackLoop
from feedback_loop.retraining.column_types import chosen_kinds
from feedback_loop.store import retrainings
from feedback_loop.store.alerts import load_alerts
from tests.builders import churn_loop

RANDOM = np.random.default_rng(0)
DAY = timedelta(days=1)
SKOPS = ["scikit-learn", "skops", "cloudpickle"]

pytestmark = pytest.mark.usefixtures("warm_children")


@pytest.fixture
def house(empty_mlflow, tmp_path, clock):
    """Opens a loop around one model of somebody's, version 1 of it, which learned from rows of before the log."""
    opened = []

    def make(estimator, inputs, label, *, task="binary", more="", search="own", flavor=mlflow.sklearn):
        if not (tmp_path / "mlflow.db").exists():
            shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
        (tmp_path / "feedback_loop.toml").write_text(
            '[store]\nurl = "sqlite:///store.db"\n[registry]\ntracking_uri = "sqlite:///mlflow.db"\n'
            f'[models.m]\ntask = "{task}"\nlabel = "y"\nkey = ["id"]\nkey_types = {{ id = "long" }}\n{more}\n'
            f'[models.m.retraining]\nrecent = "10d"\nmin_rows = 100\nsearch = "{search}"\n'
        )
        loop = FeedbackLoop.open(tmp_path / "feedback_loop.toml", clock=clock)
        opened.append(loop)
        adopt(loop, tmp_path, estimator, inputs, label, flavor)
        return loop

    yield make
    for loop in opened:
        loop.close()


def adopt(loop, folder, estimator, inputs, label, flavor=mlflow.sklearn):
    path = folder / f"model-{len(list(folder.glob('model-*')))}"
    flavor.save_model(
        estimator,
        str(path),
        signature=infer_signature(inputs, np.asarray(label)[:5]),
        pip_requirements=SKOPS,
        **({} if flavor.__name__ == "mlflow.xgboost" else {"serialization_format": "cloudpickle"}),
    )
    version = loop.models.register("m", str(path))
    loop.registry.tag(version, {"trained_until": loop.clock().isoformat()})
    loop.promote("m", version.version)


def play(loop, clock, days, make, per_day=60):
    """So many days of predictions whose outcomes come within the day."""
    for _ in range(days):
        features, label = make(per_day)
        keys = np.arange(per_day) + clock().toordinal() * 1000
        loop.predict("m", {"id": keys, **{name: features[name].to_numpy() for name in features}})
        clock.set(clock() + DAY)
        loop.record_outcomes("m", {"id": keys, "y": list(label)})
    clock.set(clock() + 2 * DAY)


def numbers(count, by="a"):
    frame = pd.DataFrame({"a": RANDOM.normal(size=count), "b": RANDOM.normal(size=count)})
    return frame, (frame[by] + RANDOM.normal(size=count) > 0).to_numpy().astype("int64")


def words(count, sign=1):
    """A word that matters, chosen by type as a category, and a number whose sense turns round."""
    place, number = RANDOM.integers(0, 4, count), RANDOM.normal(size=count)
    known = np.array([1.5, -1.5, 1.5, -1.5])[place] + 2 * sign * number + RANDOM.normal(size=count) > 0
    names = np.array(["ams", "ber", "cdg", "dub"])[place]
    return pd.DataFrame({"word": names, "place": place, "number": number}), known.astype("int64")


def a_word(count, sign=1):
    features, label = words(count, sign)
    return features.drop(columns="place"), label


def by_type(kind):
    encoded = (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_include=kind))
    return make_column_transformer(encoded, ("passthrough", make_column_selector(dtype_include="number")))


CATEGORIES = {
    "columns by type": make_pipeline(by_type("category"), LogisticRegression()),
    "boosting": HistGradientBoostingClassifier(max_iter=5),
    "boosting in a search": GridSearchCV(HistGradientBoostingClassifier(max_iter=5), {"max_depth": [2]}, cv=2),
    "columns by type, calibrated": CalibratedClassifierCV(
        make_pipeline(by_type("category"), LogisticRegression()), cv=2
    ),
}


@pytest.mark.parametrize("name", CATEGORIES)
def test_columns_are_chosen_by_type_as_they_were(name):
    frame, label = words(200)
    fitted = CATEGORIES[name].fit(frame.astype({"word": "category", "place": "category"}), label)
    assert chosen_kinds(fitted, frame) == {"word": "category", "place": "category"}
    frame = frame.drop(columns="word")  # numbers alone are fitted silently in another sense
    assert chosen_kinds(CATEGORIES[name].fit(frame.astype({"place": "category"}), label), frame) == {
        "place": "category"
    }
    assert chosen_kinds(CATEGORIES[name].fit(frame, label), frame) == {}


def test_a_model_of_categories_is_fitted_again_on_categories(house, clock):
    frame, label = a_word(400)
    loop = house(CATEGORIES["columns by type"].fit(frame.astype({"word": "category"}), label), frame, label)
    play(loop, clock, 12, lambda count: a_word(count, -1))
    result = loop.retrain("m", promotes=False)
    assert result.state == "passed", result.summary
    made = loop.scorer(loop.find(f"m/{result.candidate}")).loaded.estimator
    twins = pd.DataFrame({"word": ["ams", "ber"], "number": [0.0, 0.0]})
    assert np.diff(made.predict_proba(twins)[:, 1])[0] < -0.3


def as_categories(frame):
    return frame.astype({"word": pd.CategoricalDtype(["ams", "ber", "cdg", "dub"])})


def test_boosting_in_a_flavor_of_its_own_is_served_as_fitted_and_fitted_again(house, clock, boosting):
    """Text of the log becomes the categories that it learned; what it never saw is missing to it."""
    flavor, model = boosting
    frame, label = a_word(400)
    model.fit(as_categories(frame), label)
    loop = house(model, frame, label, flavor=flavor)
    asked, _ = a_word(5)
    asked.loc[0, "word"] = "new"
    answers = loop.predict("m", {"id": np.arange(5), **{name: asked[name].to_numpy() for name in asked}})
    assert answers.column("probability").to_pylist() == pytest.approx(
        model.predict_proba(as_categories(asked.assign(word=asked.word.replace("new", np.nan))))[:, 1]
    )
    play(loop, clock, 12, lambda count: a_word(count, -1))
    result = loop.retrain("m")
    assert result.state == "promoted", result.summary
    made = loop.registry.load(loop.find(f"m/{result.candidate}"))
    assert type(made.estimator) is type(model)
    assert (made.path / "MLmodel").read_text().count(f"loader_module: {flavor.__name__}") == 1


def test_boosting_of_categories_is_part_of_an_average(house, clock):
    import lightgbm
    import mlflow.lightgbm

    frame, label = a_word(400)
    model = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1).fit(as_categories(frame), label)
    loop = house(model, frame, label, search="kinds", flavor=mlflow.lightgbm)
    play(loop, clock, 12, lambda count: a_word(count, -1))
    result = loop.retrain("m")
    assert result.state == "promoted", result.summary
    assert {trial.cause for trial in result.trials} <= {None, "the same rows as another trial"}, result.trials
    assert any(trial.chosen for trial in result.trials if trial.recipe == "own"), result.trials


KINDS = np.array(["blue", "Grün / vert", "50% (new)", "late"])


def told(count, *, classes=3, shift=0):
    """Texts of several kinds, and a number that says nothing."""
    kind = RANDOM.integers(0, classes, count)
    text = [f"{' '.join(RANDOM.choice(['the', 'of', 'a'], 3))} word{(place + shift) % classes}" for place in kind]
    return pd.DataFrame({"text": text, "n": RANDOM.normal(size=count)}), KINDS[kind]


def test_a_new_class_is_learned_gated_and_served(house, clock):
    columns = make_column_transformer((TfidfVectorizer(), "text"), (StandardScaler(), ["n"]))
    search = GridSearchCV(make_pipeline(columns, LogisticRegression()), {"logisticregression__C": [1, 10]}, cv=2)
    frame, label = told(200)
    loop = house(
        search.fit(frame, label), frame, label, task="multiclass", more=f"classes = {json.dumps(KINDS.tolist())}"
    )
    play(loop, clock, 12, lambda count: told(count, classes=4, shift=1))
    result = loop.retrain("m")
    assert result.state == "promoted", result.summary
    assert "It has learned a new class: late." in result.summary
    answers = loop.predict("m", {"id": [1], "text": ["of word0"], "n": [0.0]})
    assert answers.column("probability_late")[0].as_py() > 0.5


def test_a_class_that_has_gone_or_was_swapped_is_joined_by_name(house, clock):
    frame, label = told(200)
    pipeline = make_pipeline(make_column_transformer((TfidfVectorizer(), "text")), LogisticRegression())
    loop = house(
        pipeline.fit(frame, label), frame, label, task="multiclass", more=f"classes = {json.dumps(KINDS.tolist())}"
    )

    def swapped(count):
        features, label = told(count, shift=1)
        return features, np.where(label == "50% (new)", "late", label)  # which sorts elsewhere

    play(loop, clock, 12, swapped)
    result = loop.retrain("m", promotes=False)
    assert result.gate.candidate < 0.7
    assert "It knows no more of: 50% (new)." in result.summary


def test_a_regression_on_a_bare_array_is_fitted_again_on_one(house, clock):
    def rows(count, by=0):
        matrix = RANDOM.normal(size=(count, 2))
        return matrix, np.exp(matrix[:, by] + RANDOM.normal(scale=0.1, size=count))

    matrix, price = rows(300)
    model = TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=np.exp).fit(matrix, price)
    loop = house(model, matrix, price, task="regression")

    def framed(count):
        matrix, price = rows(count, 1)
        return pd.DataFrame(matrix, columns=["feature_0", "feature_1"]), price

    play(loop, clock, 12, framed)
    result = loop.retrain("m", promotes=False)
    assert result.state == "passed", result.summary
    fitted = loop.registry.load(loop.find(f"m/{result.candidate}")).estimator
    assert not hasattr(fitted, "feature_names_in_")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_trial_whose_loss_is_no_number_has_failed(house, clock):
    frame, label = numbers(300)
    frame["k"] = RANDOM.normal(size=300)
    loop = house(GaussianNB(var_smoothing=0).fit(frame, label), frame, label)

    def rows(count, spread):
        features, label = numbers(count, "b")
        return features.assign(k=RANDOM.normal(size=count) * spread), label

    play(loop, clock, 12, lambda count: rows(count, 1.0))
    play(loop, clock, 14, lambda count: rows(count, 0.0))
    result = loop.retrain("m", promotes=False)
    trials = {each.name: each for each in result.trials}
    assert trials["recent"].cause.startswith("its log_loss is no number on ")
    assert result.gate.candidate == next(each.loss for each in result.trials if each.chosen)


def test_rows_that_share_an_outcome_are_on_one_side_and_coin_tosses_pass_no_gate(house, clock):
    frame, _ = numbers(300)
    tosses = RANDOM.integers(0, 2, 300)
    loop = house(DecisionTreeClassifier(random_state=0).fit(frame, tosses), frame, tosses)
    people = np.arange(300)
    for _ in range(12):
        loop.predict("m", {"id": people, "a": frame["a"], "b": frame["b"]})
        clock.set(clock() + DAY)
    loop.record_outcomes("m", {"id": people, "y": RANDOM.integers(0, 2, 300)})
    clock.set(clock() + 2 * DAY)
    result = loop.retrain("m")
    assert (result.state, result.gate) == ("not_made", None)
    assert "rows share their key's outcome with held-out ones: left out." in result.summary


def test_rows_from_before_a_required_feature_was_there_are_left_out_and_that_is_said(house, clock, tmp_path):
    frame, label = numbers(300)
    loop = house(LogisticRegression().fit(frame[["a"]], label), frame[["a"]], label)

    def older(count):
        features, label = numbers(count)
        return features[["a"]], label

    play(loop, clock, 3, older)
    adopt(loop, tmp_path, LogisticRegression().fit(frame, label), frame, label)
    play(loop, clock, 12, lambda count: numbers(count, "b"))
    result = loop.retrain("m", promotes=False)
    assert "180 rows are from before 'b' was there, and were left out." in result.summary
    assert result.gate is not None


def test_what_fails_after_a_version_was_made_takes_it_back_and_the_record_keeps_the_rest(house, clock, tmp_path):
    frame, label = numbers(300)
    loop = house(LogisticRegression().fit(frame, label), frame, label)
    play(loop, clock, 12, lambda count: numbers(count, "b"))
    with closing(sqlite3.connect(tmp_path / "store.db")) as connection, connection:
        full = "SELECT RAISE(ABORT, 'database or disk is full')"
        connection.execute(f"CREATE TRIGGER full BEFORE UPDATE OF candidate ON fl_retrainings BEGIN {full}; END")
    result = loop.retrain("m")
    assert (result.state, result.candidate) == ("refused", None)
    assert "disk is full" in result.summary
    assert [each.version for each in loop.registry.versions("m")] == ["1"]
    (search,) = retrainings.load_retrainings(loop.store, "m")
    assert (search.state, search.candidate, search.gate["passed"]) == ("refused", None, True)
    assert [each.chosen for each in retrainings.load_trials(loop.store, search.retraining_id)].count(True) == 1
    assert loop.champion("m").version == "1"


def test_a_version_whose_search_died_before_it_said_so_is_found_by_the_next(loop, clock):
    number = retrainings.start_retraining(
        loop.store, "churn", reason="alarm", champion="1", incident_id=None, now=clock()
    )
    retrainings.note_retraining(loop.store, number, gate={"passed": True})
    mark = f"{number} of {format_moment(clock())}"
    loop.registry.tag(loop.champion("churn"), {"retraining": mark})  # as if it were that search's
    clock.set(clock() + DAY)
    loop.retrain("churn")
    searches = [(each.state, each.candidate) for each in retrainings.load_retrainings(loop.store, "churn")]
    assert searches == [("abandoned", "1"), ("not_made", None)]


def test_a_spent_budget_is_told_once(tmp_path, clock):
    more = '[models.churn.policy]\nreference = 1000\nbudget = 0\nrefresh = "1d"\n'
    loop = churn_loop(tmp_path, clock)
    path = tmp_path / "feedback_loop.toml"
    path.write_text(path.read_text().replace("[models.churn.policy]\nreference = 1000\n", more))
    loop.close()
    loop = FeedbackLoop.open(path, clock=clock)
    for _ in range(2):
        clock.set(clock() + DAY)
        done = {each.job: each.result for each in run_cycle(loop, "churn")}
        assert done["retrain"]["held"].startswith("It should be retrained (refresh), but its budget of 0")
    (alert,) = load_alerts(loop.store, [], about="retraining:churn:")
    assert alert.title == "churn is not retrained"
    loop.close()


def mixed(count, sign=1):
    """Words, numbers with gaps and a switch: what each of them means turns round with the sign."""
    frame = pd.DataFrame(
        {
            "word": RANDOM.choice(["ams", "ber", "cdg"], count),
            "number": RANDOM.normal(size=count),
            "steps": RANDOM.integers(0, 4, count).astype(float),
        }
    )
    score = sign * (frame["number"] ** 2 - 1 + frame["steps"] - (frame["word"] == "ams") * 2)
    label = (score + RANDOM.normal(size=count) > 0).to_numpy().astype("int64")
    frame.loc[RANDOM.random(count) < 0.1, "number"] = np.nan
    return frame, label


def test_a_search_over_kinds_makes_an_average_that_is_served_fast_and_searched_from_again(house, clock):
    frame, label = mixed(600)
    columns = make_column_transformer((OneHotEncoder(), ["word"]), ("passthrough", ["number", "steps"]))
    own = make_pipeline(columns, HistGradientBoostingClassifier(max_iter=20, random_state=0))
    loop = house(own.fit(frame, label), frame, label, search="kinds")
    play(loop, clock, 14, lambda count: mixed(count, -1), per_day=150)
    result = loop.retrain("m")
    assert result.state == "promoted", result.summary
    chosen = [trial for trial in result.trials if trial.chosen]
    assert len(result.trials) == 12
    assert len({trial.recipe for trial in chosen}) == 3
    assert result.gate.candidate < max(trial.loss for trial in chosen)
    version = loop.champion("m")
    average = loop.registry.load(version).estimator
    assert version.tags["feedback_loop.average"] == f"average of {', '.join(average.named_estimators_)}"
    engine = make_engine(
        loop.registry.load(version),
        loop.scorer(version).contract,
        loop.settings.model("m").inference,
        loop.registry.reference_rows(version),
        EngineOptions(),
    )
    assert engine.reason == ""
    assert engine.proof.max_difference < 1e-12
    play(loop, clock, 14, lambda count: mixed(count, -1), per_day=150)
    again = loop.retrain("m", promotes=False)
    assert {trial.recipe for trial in again.trials} == {"own", "boosting", "linear", "trees"}
    assert isinstance(next(trial for trial in again.trials if trial.recipe == "own").loss, float)
