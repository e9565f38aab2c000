"""A model of several labels, through the whole loop."""

import json
import shutil
import subprocess
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression

from feedback_loop.clock import Window
from feedback_loop.errors import BadInput, ContractError, Refused
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import profile_store, window_evaluation
from feedback_loop.store.conclusions import load_diagnoses
from tests.builders import register_model, told

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
LABELS = ["left", "right"]
CONFIG = """
[store]
url = {store}
[registry]
tracking_uri = "sqlite:///mlflow.db"
[models.several]
task = "{task}"
label = {labels}
key = ["item"]
key_types = {{ item = "long" }}
[models.several.policy]
reference = 1000
"""


def items(count, first, task, seed=0):
    random = np.random.default_rng([seed, first])
    frame = pd.DataFrame({"item": np.arange(first, first + count), "size": random.normal(size=count)})
    left, right = frame["size"] + random.normal(size=count), -frame["size"] * 2 + random.normal(size=count)
    if task == "binary":
        left, right = (left > 0).astype(int), (right > 0).astype(int)
    return frame.assign(left=left, right=right)


def register(loop, task, now):
    known, held = items(2000, 0, task, 1), items(1500, 0, task, 2)
    made = RandomForestClassifier(n_estimators=20, min_samples_leaf=20, random_state=0)
    model = (made if task == "binary" else LinearRegression()).fit(known[["size"]], known[LABELS])
    answers = model.predict(held[["size"]])
    reference = held[["size", *LABELS]].assign(
        **{f"prediction_{name}": answers[:, place] for place, name in enumerate(LABELS)},
        predicted_at=pd.to_datetime([now - timedelta(days=9 - place // 300) for place in range(1500)], utc=True),
    )
    if task == "binary":
        for place, name in enumerate(LABELS):
            reference[f"probability_{name}"] = model.predict_proba(held[["size"]])[place][:, 1]
    reference["predicted_at"] = reference["predicted_at"].dt.as_unit("us")
    options = {"now": now, "trained_until": now - 5 * DAY}
    return register_model(loop.registry, "several", model, known[["size"]], reference, **options)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.statistics)])
def opened(request, tmp_path, empty_mlflow, clock):
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    url = "sqlite:///store.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    loops = []

    def open_with(task, labels=LABELS):
        path = tmp_path / "feedback_loop.toml"
        path.write_text(CONFIG.format(store=json.dumps(url), task=task, labels=json.dumps(labels)))
        loop = FeedbackLoop.open(path, clock=clock)
        if not loops:
            loop.promote("several", register(loop, task, clock()).version, reason="first")
        loops.append(loop)
        return loop

    yield open_with
    for loop in loops:
        loop.close()


@pytest.mark.parametrize("task", ["regression", "binary"])
def test_each_label_and_all_of_them_are_judged_alike_however_they_are_asked(opened, clock, monkeypatch, task):
    loop, start = opened(task), clock()
    rows = items(300, 0, task)
    answered = loop.predict("several", rows[["item", "size"]])
    clock.set(clock() + HOUR)
    taken = loop.record_outcomes("several", rows[["item", *LABELS]].head(250))
    assert (taken.counts.new, taken.counts.unmatched) == (250, 0)
    window = Window(start, start + DAY)
    assert loop.evaluate("several", window)
    with monkeypatch.context() as patch:
        patch.setattr(window_evaluation, "fold_window", lambda *_, **__: pytest.fail("rows were read"))
        [kept] = loop.evaluate("several", window)
    assert (kept.predictions, kept.labelled) == (300, 250)
    logged = loop.labelled("several", window).to_pandas().dropna(subset=LABELS)
    truth, answers = logged[LABELS].to_numpy(), logged[[f"prediction_{name}" for name in LABELS]].to_numpy()
    if task == "regression":
        assert kept.metric("rmse") == pytest.approx(metrics.root_mean_squared_error(truth, answers))
        assert kept.metric("r2[right]") == pytest.approx(metrics.r2_score(truth[:, 1], answers[:, 1]))
    else:
        assert kept.metric("subset_accuracy") == pytest.approx(metrics.accuracy_score(truth, answers))
        assert kept.metric("f1_macro") == pytest.approx(metrics.f1_score(truth, answers, average="macro"))
    with monkeypatch.context() as patch:
        patch.setattr(profile_store, "SLICE_ROWS", 100)  # by several processes
        assert told(loop.evaluate("several", window, kept.as_of, from_log=True)) == told([kept])
    clock.set(clock() + HOUR)
    changed = rows[["item", *LABELS]].head(50).assign(right=rows["right"].max() - rows["right"].head(50))
    assert loop.record_outcomes("several", changed).counts.corrected > 10  # the second label alone is another one
    [now] = loop.evaluate("several", window)
    first, second = (f"{'mae' if task == 'regression' else 'accuracy'}[{name}]" for name in LABELS)
    assert now.metric(first) == kept.metric(first)
    assert now.metric(second) != kept.metric(second)
    assert told(loop.evaluate("several", window, kept.as_of)) == told([kept])
    assert len(answered) == 300
    clock.set(clock() + 3 * DAY)
    assert loop.evaluate("several")  # what matured is drawn by MLflow too
    assert loop.decide("several") is not None
    assert any(path.suffix == ".html" for path in loop.report("several", window, "first"))
    asked = (
        lambda: loop.retrain("several"),
        lambda: loop.models.optimize("several", 0.01),
        lambda: loop.diagnose("several", window),
    )
    for refused in asked:
        with pytest.raises(Refused, match="several labels"):
            refused()
    assert loop.erase("several", {"item": 3}).outcomes > 0


def test_the_command_says_why_several_labels_are_not_diagnosed_and_ends_with_one(opened, warm, tmp_path):
    """In words and in JSON, before anything is looked at; nothing is recorded."""
    loop = opened("binary")
    cause = "several version 1 can't be diagnosed: it predicts several labels."
    cure = "See which label has become worse (feedback-loop evaluate), or register a model for each."

    def diagnosed(*more):
        command = [warm / "feedback-loop", "diagnose", "several", *more]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    words = diagnosed()
    assert (words.returncode, words.stdout, words.stderr) == (1, "", f"feedback-loop: {cause} {cure}\n")
    plain = diagnosed("--window", "2026-03-02", "--json")
    assert (plain.returncode, json.loads(plain.stdout)) == (1, {"error": cause, "cure": cure})
    assert load_diagnoses(loop.store, "several") == []


def test_an_outcome_has_all_labels_and_they_stay_the_ones_they_were(opened, clock):
    loop = opened("regression")
    rows = items(5, 0, "regression")
    loop.predict("several", rows[["item", "size"]])
    with pytest.raises(BadInput, match="right"):
        loop.record_outcomes("several", rows[["item", "left"]])
    with pytest.raises(BadInput, match="is missing"):
        loop.record_outcomes("several", rows[["item", *LABELS]].assign(right=[None, 1.0, 1.0, 1.0, 1.0]))
    loop = opened("regression", ["left"])
    with pytest.raises(ContractError, match="The label of 'several' was left"):
        loop.record_outcomes("several", rows[["item", "left"]])
