"""Trainers of people's own: what they are given, and that each way to fail is a trial with its cause."""

import json
from datetime import timedelta
from pathlib import Path

import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

from feedback_loop.clock import ManualClock
from feedback_loop.config_policy import TrainerSettings
from feedback_loop.errors import Cancelled
from feedback_loop.retraining import Trainer, supervised
from feedback_loop.retraining.parallel import LATE, THREADS
from feedback_loop.retraining.trainers import SHOWN
from feedback_loop.retraining.trials import Plan, try_plans
from tests.builders import churn_loop, churn_pipeline, customers, open_loop, play_days
from tests.conftest import NOW

DAY = timedelta(days=1)
MODEL = '"$6"'
"""Of a command's arguments (--data FILE --params FILE --model FOLDER), in bash's words, where the model goes."""


class Says(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[float]) -> list[float]:
        return model_input


@pytest.fixture(scope="module")
def clock_of_module():
    return ManualClock(NOW)


@pytest.fixture(scope="module")
def played(tmp_path_factory, clock_of_module):
    """A loop with two weeks of outcomes, and models in MLflow's format beside it."""
    folder = tmp_path_factory.mktemp("trainers")
    loop = churn_loop(folder, clock_of_module)
    play_days(loop, clock_of_module, 12, per_day=100)
    known = pd.DataFrame(customers(2000, 5))
    good = churn_pipeline().fit(known[["age", "plan"]], known["churned"])
    other = LogisticRegression().fit(known[["age", "customer"]], known["churned"])
    number = LogisticRegression().fit(known[["age"]].to_numpy(), known["churned"])
    for name, model in {"good": good, "other": other, "number": number, "what": {"no": "model"}}.items():
        mlflow.sklearn.save_model(
            model, str(folder / name), serialization_format="cloudpickle", pip_requirements=["scikit-learn"]
        )
    mlflow.pyfunc.save_model(str(folder / "pyfunc"), python_model=Says(), pip_requirements=["scikit-learn"])
    (folder / "torn").mkdir()
    (folder / "torn" / "MLmodel").write_text("flavors: {sklearn: {")
    yield loop, folder
    loop.close()


@pytest.fixture
def tried(played, clock_of_module):
    """Has a trainer make its trial; returns the trial, its run in MLflow and the split of rows."""
    loop, folder = played

    def tried(limit=timedelta(minutes=9), trusted=True, check=lambda: None, **settings):
        search = loop.retrain.__self__._search("churn", clock_of_module())
        registry = loop.registry
        registry._mlflow._trusted = trusted
        with registry.lineage.search("churn", clock_of_module()) as run:
            made, progress = TrainerSettings(**settings), loop.context.progress
            trainer = Trainer(made, folder, limit, registry, progress, clock_of_module(), run, check)
            split = search.prepare().split
            plan = Plan("trainer", search.champion.loaded.estimator, "all", None, 7, trainer=trainer)
            _, trials = try_plans(
                [plan], split, search.settings.retraining, "log_loss", search._rescored, lambda _: None
            )
        return trials[0], registry._mlflow.client.get_run(trials[0].run_id), split

    return tried


def bash(words):
    return {"command": ("bash", "-c", words, "trainer")}


def copy(model):
    return bash(f"cp -r {model}/. {MODEL}")


def test_a_trainer_ends_with_all_it_started_when_its_job_is_cancelled(tried, tmp_path, monkeypatch):
    monkeypatch.setattr(supervised, "REPORT_SECONDS", 0.0)
    begun = tmp_path / "begun"

    def check():
        if begun.exists() and begun.read_text().strip():
            raise Cancelled("ada", "it takes too long")

    with pytest.raises(Cancelled):
        tried(check=check, **bash(f"sleep 600 & echo $! > {begun}; wait"))
    assert not psutil.pid_exists(int(begun.read_text()))


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        (bash("echo half of it; exit 3"), "it ended with code 3"),
        (bash(r"printf 'so far\0'; exit 4"), "it ended with code 4"),
        (bash("kill -9 $$"), "it was killed (was memory short?)"),
        (bash("sleep 600") | {"limit": timedelta(seconds=0.3)}, LATE),
        (bash("sleep 600") | {"memory_limit": 1000}, "bytes of memory, and 1,000 are allowed"),
        (bash("echo done"), "it ended well and left no model"),
        ({"command": ("no-such-program",)}, "FileNotFoundError: [Errno 2] No such file or directory"),
        (copy("torn"), "its model can't be loaded"),
        (copy("what"), "its model is of the type dict, which is no estimator"),
        (copy("pyfunc"), "its signature is of no use: The inputs of 'churn' have no names"),
        (copy("other"), "its signature is another one: it does not take 'plan'; it takes 'customer'"),
        (copy("number"), "its signature is another one: it takes 1 inputs, the champion 2"),
        (copy("good") | {"trusted": False}, "its registry is not trusted"),
    ],
)
def test_each_way_to_fail_is_a_trial_with_its_cause(tried, how, cause):
    trial, run, _ = tried(**how)
    assert cause in trial.cause
    assert (trial.recipe, trial.loss, trial.chosen) == ("trainer", None, False)
    assert trial.seconds > 0
    if "half of it" in str(how):
        assert trial.log == "half of it"
        assert run.info.status == "FAILED"
    if "so far" in str(how):
        assert trial.log == r"so far\x00"  # no database takes NUL


def test_a_trainer_is_given_the_rows_to_learn_from_and_what_there_is_to_know_and_its_output_is_in_mlflow(
    tried, played, tmp_path
):
    loop, folder = played
    given, told, run_of = (folder / name for name in ("given.parquet", "told.json", "variables"))
    words = f'cp "$2" {given}; cp "$4" {told}; env > {run_of}; seq 3000; cp -r good/. {MODEL}'
    trial, run, split = tried(**bash(words), params={"depth": 3})
    assert (trial.cause, trial.loss < 1) == (None, True)
    rows, about = pq.read_table(given), json.loads(told.read_text())
    names = {"age", "plan", "churned", "predicted_at", "feedback_loop.outcome", "feedback_loop.weight"}
    assert set(rows.column_names) == names
    assert rows.num_rows == trial.rows == len(split.learn)
    assert np.asarray(rows["predicted_at"]).max() < np.datetime64(split.at.replace(tzinfo=None))
    assert set(rows["feedback_loop.outcome"].to_pylist()).isdisjoint(split.holdout.outcomes)
    assert (about["params"], about["seed"], about["label"]) == ({"depth": 3}, 7, "churned")
    assert about["window"][1] <= split.at.isoformat() <= about["as_of"]
    variables = dict(line.partition("=")[::2] for line in run_of.read_text().splitlines())
    assert variables["MLFLOW_RUN_ID"] == trial.run_id
    assert {variables[name] for name in THREADS} == {str(about["threads"])}
    client = loop.registry._mlflow.client
    kept = client.download_artifacts(trial.run_id, "trainer.log", str(tmp_path))
    assert Path(kept).read_text().split()[-1] == "3000"
    assert len(trial.log) <= SHOWN
    assert trial.log.endswith("2999\n3000")
    assert run.data.tags["mlflow.parentRunId"]


def test_a_project_of_mlflows_trains_within_the_trials_run(tried, played):
    _, folder = played
    (folder / "project").mkdir()
    (folder / "project" / "MLproject").write_text(
        "name: churn\nentry_points:\n  fit:\n    parameters:\n      model: path\n      strength: float\n"
        f'    command: "echo strength {{strength}} of $MLFLOW_RUN_ID; cp -r {folder}/good/. {{model}}; echo given"\n'
    )
    trial, run, _ = tried(project="project", entry_point="fit", params={"strength": 0.5})
    assert trial.cause is None, trial.log
    assert trial.loss < 1
    assert f"strength 0.5 of {trial.run_id}" in trial.log
    assert "given --data" in trial.log
    assert run.info.status == "FINISHED"


FUNCTION = """
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

def train(dataset, params):
    print(len(dataset.features), dataset.window.end <= dataset.as_of, params["strength"])
    assert len(dataset.features) == len(dataset.outcome) == len(dataset.groups) == len(dataset.predicted_at)
    if params["strength"] < 0:
        raise ValueError(f"no strength in 'Ada Lovelace' of 'age'")
    if params["strength"] == 0:
        return None
    columns = make_column_transformer((StandardScaler(), ["age"]), (OneHotEncoder(), ["plan"]))
    model = make_pipeline(columns, LogisticRegression(C=params["strength"]))
    return model.fit(dataset.features, dataset.outcome)
"""


def test_a_functions_error_is_told_without_the_rows_words_and_what_is_no_estimator_by_its_type(tried, played):
    _, folder = played
    (folder / "own_training.py").write_text(FUNCTION)
    raised, _, _ = tried(function="own_training:train", params={"strength": -1.0})
    assert raised.cause == "ValueError: no strength in '...' of 'age'"
    assert 'own_training.py", line 11, in train' in raised.log
    assert raised.log.endswith("ValueError")  # and nobody's name
    nothing, _, _ = tried(function="own_training:train", params={"strength": 0.0})
    assert "returned NoneType, which is no estimator" in nothing.cause


def test_a_failed_trainer_leaves_champion_and_schedule_and_a_good_one_is_gated_promoted_and_shown(
    tmp_path, clock, warm_children, run, plain
):
    (tmp_path / "own_training.py").write_text(FUNCTION)
    loop = churn_loop(tmp_path, clock)
    path = tmp_path / "feedback_loop.toml"
    text = path.read_text()
    play_days(loop, clock, 4, per_day=100)
    play_days(loop, clock, 8, per_day=100, harder=0.45, seed=100)
    loop.close()

    def configured(trainer):
        path.write_text(text.replace('search = "own"\n', f'search = "own"\ntrainer = {trainer}\n'))
        return open_loop(path, clock)

    loop = configured('["bash", "-c", "echo so far; echo and no further; exit 7"]')
    assert [trial.recipe for trial in loop.outline_retraining("churn").trials] == ["trainer"]
    failed = loop.retrain("churn")
    assert (failed.state, loop.champion("churn").version) == ("refused", "1")
    assert failed.summary == "No trial succeeded: trainer, all: it ended with code 7."
    shown = run("retrainings", "show", str(failed.retraining_id))[1]
    assert "it ended with code 7" in shown
    assert "  | so far\n  | and no further\n" in shown
    assert "The trainer took" in plain("models", "history", "churn")[1][-1]["words"]
    loop.close()
    loop = configured('{ function = "own_training:train", params = { strength = 1.0 } }')
    result = loop.retrain("churn")
    assert (result.state, loop.champion("churn").version) == ("promoted", "2"), result.summary
    (trial,) = result.trials
    assert (trial.chosen, trial.recipe) == (True, "trainer")
    version = loop.champion("churn")
    origin = loop.registry.lineage.origin_of(version)
    assert (origin["recipe"], json.loads(origin["trainer"])["params"]) == ("trainer", {"strength": 1.0})
    assert loop.registry.load(version).estimator[-1].C == 1.0
    loop.close()
