"""What MLflow's own commands do with our entry points."""

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.registry import Registry
from feedback_loop.registry.client import Connection
from tests.builders import churn_loop, customers, register_churn

EVALUATE = """
import json, sys
import mlflow, numpy as np, pandas as pd
from mlflow.models import MetricThreshold
from tests.builders import customers

rows = pd.DataFrame(customers(4000, 5))[["age", "plan", "churned"]]
rows["at"] = pd.Timestamp("2026-02-01", tz="UTC") + pd.to_timedelta(np.arange(4000) // 200, unit="D")
missing = rows.assign(churned=rows.churned.where(np.arange(4000) % 4 > 0, None))
said = {}

def evaluate(name, model, data=rows, **options):
    with mlflow.start_run() as run:
        result = mlflow.models.evaluate(model, data, targets="churned", **options)
    logged = mlflow.get_run(run.info.run_id)
    said[name] = {"result": result.metrics, "logged": logged.data.metrics, "tags": logged.data.tags}
    said[name]["file"] = {key: value.content["gate"] for key, value in result.artifacts.items() if "loop" in key}
    return result

ours = {"model_type": "classifier", "evaluators": "feedback-loop"}
config = {"baseline": "models:/churn/1", "time": "at", "segments": ["plan"]}
good = evaluate("good", "models:/churn/2", evaluator_config=config, **ours)
bad = evaluate("bad", "models:/churn/3", evaluator_config=config, **ours)
evaluate("bounded", "models:/churn/1", missing, **ours)
model = mlflow.pyfunc.load_model("models:/churn/1")
chance = model.get_raw_model().predict_proba(rows[["age", "plan"]])[:, 1]
static = rows.assign(answer=model.predict(rows[["age", "plan"]]), chance=chance, before=False, chance_before=0.5)
columns = {"baseline": "before", "probability": "chance", "baseline_probability": "chance_before"}
evaluate("static", None, static, predictions="answer", evaluator_config=columns, **ours)
price = pd.DataFrame({"x": np.arange(100.0), "churned": np.arange(100.0) + 1})
evaluate("regression", lambda frame: frame["x"].to_numpy(), price, model_type="regressor", evaluators="feedback-loop")
evaluate("nobody asked", lambda frame: frame["x"].to_numpy(), price, model_type="regressor")
must = {"gate.passed": MetricThreshold(threshold=1, greater_is_better=True)}
for name, result in {"good": good, "bad": bad}.items():
    try:
        mlflow.validate_evaluation_results(must, result)
        said[name]["valid"] = True
    except mlflow.exceptions.MlflowException as error:
        said[name]["valid"] = str(error)
try:
    evaluate("wrong", "models:/churn/1", evaluator_config={"basline": 1}, **ours)
except mlflow.exceptions.MlflowException as error:
    said["wrong"] = str(error)
json.dump(said, sys.stdout)
"""


@pytest.fixture(scope="module")
def evaluations(warm, registry_home):
    """What MLflow said of some evaluations by our evaluator; version 3 has learned the opposite."""
    clock = ManualClock(datetime.now(UTC))
    registry = Registry(Connection(f"sqlite:///{registry_home}/mlflow.db", "", registry_home / "mlartifacts", "x"))
    register_churn(registry, clock(), turned=True)
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{registry_home}/mlflow.db"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [warm / "python", "-c", EVALUATE],
        cwd=registry_home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_mlflows_evaluation_has_our_metrics_with_errors_and_bounds(evaluations):
    good = evaluations["good"]["logged"]
    assert good == evaluations["good"]["result"]
    assert {"log_loss", "roc_auc", "accuracy/plan_basic", "log_loss.standard_error", "rows"} <= set(good)
    assert good["accuracy.least"] == good["accuracy"] == good["accuracy.most"]  # each row has its outcome
    bounded = evaluations["bounded"]["logged"]
    assert (bounded["rows"], bounded["coverage"]) == (3000, 0.75)
    ends = [0.75 * bounded["accuracy"], 0.75 * bounded["accuracy"] + 0.25]  # whatever became of the rest
    assert [bounded["accuracy.least"], bounded["accuracy.most"]] == pytest.approx(ends)
    assert evaluations["static"]["logged"]["log_loss"] == pytest.approx(
        evaluations["bounded"]["logged"]["log_loss"], 0.1
    )
    regression = evaluations["regression"]["logged"]
    assert (regression["mae"], regression["bias"], regression["rows"]) == (1, -1, 100)


def test_a_model_that_is_worse_than_its_baseline_fails_the_gate_and_mlflows_validation(evaluations):
    good, bad = evaluations["good"], evaluations["bad"]
    assert (good["logged"]["gate.passed"], good["valid"]) == (1, True)
    assert bad["logged"]["gate.passed"] == 0
    assert "Metric gate.passed value threshold check failed" in bad["valid"]
    assert bad["logged"]["gate.upper"] > bad["logged"]["gate.allowed"] > good["logged"]["gate.upper"]
    (gate,) = good["file"].values()
    assert (gate["days"], gate["rows"], gate["passed"]) == (20, 4000, True)
    assert evaluations["static"]["logged"]["gate.passed"] == 1


def test_nothing_of_ours_is_in_an_evaluation_that_nobody_asked_us_for(evaluations):
    assert "rows" not in evaluations["nobody asked"]["logged"]
    assert "mean_absolute_error" in evaluations["nobody asked"]["logged"]
    assert evaluations["wrong"].startswith("basline: is no option of evaluator_config. There are: baseline, margin")


DATASET = """
import json, os, sys
from pathlib import Path
import mlflow, mlflow.data
from feedback_loop.run_tags import run_tags
from tests.builders import open_loop, ManualClock
from datetime import datetime, timedelta

window, as_of, later = sys.argv[1:]
data = mlflow.data.load_feedback_loop("churn", window, as_of=as_of)
with run_tags(incident=3, evaluation="7"), mlflow.start_run() as run:
    mlflow.log_input(data, context="evaluation")
    result = mlflow.models.evaluate("models:/churn/1", data, model_type="classifier", evaluators="feedback-loop")
loop = open_loop(Path("feedback_loop.toml"), ManualClock(datetime.fromisoformat(later)))
corrected = data.df[data.df.churned.notna()][["customer", "month"]].assign(churned=True)
loop.record_outcomes("churn", corrected)
logged = mlflow.get_run(run.info.run_id)
again = mlflow.data.get_source(logged.inputs.dataset_inputs[0]).load()
now = mlflow.data.load_feedback_loop("churn", window, labelled=True)
erased = dict(json.loads(data.source.to_json()), digest="of other rows")
try:
    mlflow.data.get_source(data).from_dict(erased).load()
except Exception as error:
    erased = str(error)

# Another machine: the configuration lies elsewhere, and this folder has none.
own, moved = Path("feedback_loop.toml").absolute(), Path("elsewhere/own.toml").absolute()
moved.parent.mkdir()
moved.write_text(own.read_text().replace("sqlite:///", f"sqlite:///{own.parent}/"))
own.unlink()
os.chdir(moved.parent)
source = mlflow.data.get_source(logged.inputs.dataset_inputs[0])
try:
    source.load()
except Exception as error:
    gone = str(error)
os.environ["FEEDBACK_LOOP_CONFIG"] = str(moved)
moved_same = source.load().equals(again)
os.environ["FEEDBACK_LOOP_CONFIG"] = str(moved.parent / "nothing.toml")
try:
    source.load()
except Exception as error:
    wrong = str(error)

said = {
    "moved": moved_same, "gone": gone, "wrong": wrong, "own": str(own),
    "same": again.equals(data.df), "rows": len(again), "columns": list(again), "tags": logged.data.tags,
    "coverage": result.metrics["coverage"], "churned now": int(now.df.churned.sum()), "labelled": len(now.df),
    "churned then": int(again.churned.sum()), "name": logged.inputs.dataset_inputs[0].dataset.name, "erased": erased,
}
json.dump(said, sys.stdout)
"""


def test_a_window_of_the_log_is_a_data_set_of_mlflows_that_loads_the_same_rows_again(warm, tmp_path):
    now = datetime.now(UTC)
    clock, rows = ManualClock(now - timedelta(hours=10)), customers(200, 3)
    loop = churn_loop(tmp_path, clock)
    loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
    clock.set(now - timedelta(hours=5))
    loop.record_outcomes("churn", {name: rows[name][:150] for name in ("customer", "month", "churned")})
    loop.close()
    window = f"{now - timedelta(hours=12):%Y-%m-%dT%H:%MZ}/{now:%Y-%m-%dT%H:%MZ}"
    moments = [(now - timedelta(hours=hours)).isoformat() for hours in (4, 1)]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [warm / "python", "-c", DATASET, window, *moments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["same"], said["rows"], said["coverage"]) == (True, 200, 0.75)
    assert {"customer", "month", "age", "plan", "churned", "prediction", "predicted_at"} <= set(said["columns"])
    assert (said["churned now"], said["labelled"], said["churned then"]) == (
        150,
        150,
        int(rows["churned"][:150].sum()),
    )
    assert said["name"].startswith("churn 20")
    assert said["tags"]["feedback_loop.incident"] == "3"
    assert said["tags"]["feedback_loop.evaluation"] == "7"
    assert "are not the 200 of then" in said["erased"]
    assert said["moved"] is True
    assert said["gone"] == (
        f"The configuration that these rows were read by, {said['own']}, is not on this machine. "
        "Set FEEDBACK_LOOP_CONFIG to one with the same store and the model churn."
    )
    nothing = f"is not on this machine, and {tmp_path}/elsewhere/nothing.toml is not either."
    assert said["wrong"] == said["gone"].replace("is not on this machine.", nothing)
