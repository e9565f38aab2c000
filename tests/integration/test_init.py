"""`feedback-loop init`, and how a version comes by its reference."""

import json
import re
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from feedback_loop.config import load_settings
from feedback_loop.monitoring import span_of
from feedback_loop.store import create_tables
from tests.builders import customers, open_loop, register_churn, write_config


def test_init_writes_a_configuration_that_works(run, plain, mlflow_uri, clock, tmp_path):
    write_config(tmp_path)
    register_churn(open_loop(tmp_path / "feedback_loop.toml", clock).registry, clock())
    (tmp_path / "feedback_loop.toml").unlink()
    options = ["--model", "churn/1", "--task", "binary", "--label", "churned"]
    options += ["--key", "customer:long", "--key", "month"]
    code, out, _ = run("init", *options, "--segment", "plan")
    assert code == 0
    assert "age (double), plan (string)" in out
    assert "# columns by which outcomes find their prediction" in (tmp_path / "feedback_loop.toml").read_text()
    assert plain("models", "promote", "churn", "1")[1]["kind"] == "first"
    code, checks = plain("doctor")
    assert (code, {check["ok"] for check in checks}) == (0, {True})
    assert load_settings(tmp_path / "feedback_loop.toml").model("churn").key_types == {"customer": "long"}
    # What stands there as a comment is what holds without it.
    text = (tmp_path / "feedback_loop.toml").read_text()
    commented = re.findall(r"(?m)^# (\[(?:capture|models\.churn\.(?:log|join))\](?:.*\n# .*)+)", text)
    assert len(commented) == 3
    tables = "\n".join(commented).replace("\n# ", "\n").replace("absent_means = false", "")
    (tmp_path / "all.toml").write_text(f"{text}\n{tables}")
    said, meant = (load_settings(tmp_path / name) for name in ("all.toml", "feedback_loop.toml"))
    assert (said.capture, said.models) == (meant.capture, meant.models)
    for section in (said.capture, said.model("churn").log, said.model("churn").join):
        named = set(re.findall(r"(?m)^(\w+) = ", tables)) | {"absent_means", "hash_key"}
        assert set(type(section).model_fields) <= named
    code, _, err = run("init", *options)
    assert (code, "--force" in err) == (1, True)


def test_init_adds_a_model_to_the_file_that_is_there_and_keeps_what_it_says(run, mlflow_uri, clock, tmp_path):
    path = write_config(tmp_path)
    registry = open_loop(path, clock).registry
    register_churn(registry, clock()), register_churn(registry, clock(), name="leavers")
    path.write_text(f"# ours\n{path.read_text()}\n# to the end\n")
    before = path.read_text()
    options = ["--task", "binary", "--label", "gone", "--key", "customer:long"]
    code, _, err = run("init", "--add", "--model", "leavers/1", *options)
    assert (code, err.count("Looking")) == (0, 1)
    assert path.read_text().startswith(before.rstrip())
    settings = load_settings(path)
    assert set(settings.models) == {"churn", "leavers"}
    assert settings.model("leavers").label == "gone"
    code, _, err = run("init", "--add", "--model", "leavers/1", *options)
    assert (code, "is in feedback_loop.toml already" in err) == (1, True)


def log_evaluated(uri, run_id, path):
    """As `mlflow.log_input(…, context="evaluation")` does it."""
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset("held", "digest", "local", json.dumps({"uri": str(path)}))
    given = [DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])]
    MlflowClient(uri).log_inputs(run_id, given)


def test_a_version_without_a_reference_is_said_to_be_unjudged_until_it_is_given_one(
    run, plain, mlflow_uri, clock, tmp_path
):
    registry = open_loop(write_config(tmp_path), clock).registry
    adopted = registry.adopt("churn", f"models:/churn/{register_churn(registry, clock()).version}")
    (tmp_path / "feedback_loop.toml").unlink()
    key = ["--key", "customer:long", "--key", "month"]
    code, out, _ = run("init", "--model", "churn/2", "--task", "binary", "--label", "churned", *key)
    assert (code, "It has no reference: nothing is judged before" in out) == (0, True)
    code, out, _ = run("models", "promote", "churn", adopted.version)
    assert (code, "has 0 of the 5,000 reference rows that verdicts take: 5,000 are missing" in out) == (0, True)
    assert "no prediction has an outcome yet" in run("status")[1]
    code, out, _ = run("doctor")
    assert (code, out.startswith("note reference churn: churn version 2 has 0 of the 5,000")) == (0, True)
    assert run("evaluate", "churn")[1].startswith("NOT JUDGED: churn version 2 has 0 of the 5,000")
    (tmp_path / "evaluated.csv").write_text("age,plan,churned\n")
    log_evaluated(mlflow_uri, adopted.run_id, tmp_path / "evaluated.csv")
    said = "MLflow says that it was evaluated on"
    assert f"{said} {tmp_path / 'evaluated.csv'}" in run("models", "promote", "churn", adopted.version)[2]
    held = pd.DataFrame(customers(5000, 7))[["age", "plan", "churned"]]
    held["at"] = pd.Timestamp("2026-02-01", tz="UTC") + pd.to_timedelta(np.arange(5000) / 100.7, unit="h")  # of ns
    held.to_parquet(tmp_path / "held.parquet")
    code, _, err = run("models", "reference", "churn", "2", "held.parquet", "--time", "when")
    assert (code, "when: is missing. The columns are age, plan, churned, at" in err) == (1, True)
    given = ["held.parquet", "--time", "at", "--trained-until", "2026-01-31"]
    assert "5,000 rows are the reference of churn version 2" in run("models", "reference", "churn", "2", *given)[1]
    loop = open_loop(tmp_path / "feedback_loop.toml", clock)
    assert loop.judging.missing_reference("churn") is None
    assert loop.champion("churn").trained_until == datetime(2026, 1, 31, tzinfo=UTC)
    assert span_of(loop.registry.reference_rows(loop.champion("churn")))[0] == datetime(2026, 2, 1, tzinfo=UTC)
    assert "ok   reference churn: it is whole" in run("doctor")[1]
    code, out, _ = run("models", "reference", "churn", "2", *given)  # the same once more
    assert (code, "5,000 rows are the reference of churn version 2" in out) == (0, True)
    held[1:].to_parquet(tmp_path / "held.parquet")
    code, _, err = run("models", "reference", "churn", "2", *given)
    assert (code, "has other reference rows already. Leave it out" in err) == (1, True)


def test_reference_rows_without_times_are_of_when_training_ended_and_keep_no_window_from_being_judged(
    mlflow_uri, tmp_path, clock
):
    loop = open_loop(write_config(tmp_path), clock)
    register_churn(loop.registry, clock())
    held = pd.DataFrame(customers(5000, 7))[["age", "plan", "churned"]]
    ended = datetime(2026, 2, 1, tzinfo=UTC)
    version = loop.models.register("churn", "models:/churn/1", reference=held, trained_until=ended)
    settings = loop.settings.model("churn")
    rows = loop.judging.reference(loop.context.version("churn", version.version), settings, clock())
    assert set(rows.column("predicted_at").to_pylist()) == {ended}
    assert span_of(rows) is None
    assert (
        loop.judging.baseline(loop.context.version("churn", version.version), settings, as_of=clock()).until is None
    )


def test_init_says_what_is_missing_where_nobody_can_be_asked(run, mlflow_uri, clock, tmp_path, monkeypatch):
    register_churn(open_loop(write_config(tmp_path), clock).registry, clock())
    code, _, err = run("init", "--model", "churn/1", "--output", "new.toml")
    assert (code, "--task: is missing" in err) == (1, True)
    code, _, err = run(
        "init", "--model", "churn/1", "--task", "regression", "--label", "age", "--key", "x", "--output", "new.toml"
    )
    assert (code, "also one of its features" in err) == (1, True)
    assert not (tmp_path / "new.toml").exists()
    monkeypatch.setattr(create_tables, "MOST_COLUMNS", {"sqlite": 10})
    code, out, _ = run(
        "init", "--model", "churn/1", "--task", "binary", "--label", "churned", "--key", "x", "--force"
    )
    assert "can't be promoted or served like this. No prediction of 'churn' can be logged" in " ".join(out.split())


def test_init_takes_a_booster_that_answers_probabilities_for_a_classification(
    run, plain, mlflow_uri, clock, tmp_path
):
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    class Booster(mlflow.pyfunc.PythonModel):
        def predict(self, model_input):
            return 1 / (1 + np.exp(-model_input["x"].to_numpy()))

    frame = pd.DataFrame({"x": [-1.0, 2.0]})
    signature = infer_signature(frame, np.array([0.5]))
    mlflow.pyfunc.save_model(
        str(tmp_path / "m"), python_model=Booster(), signature=signature, input_example=frame, pip_requirements=[]
    )
    open_loop(write_config(tmp_path), clock).registry.adopt("boost", str(tmp_path / "m"))
    options = ["init", "--model", "boost/1", "--task", "binary", "--label", "y", "--key", "id:long", "--force"]
    code, _, err = run(*options)
    assert (code, "--answers probability" in " ".join(err.split())) == (1, True)
    assert run(*options, "--answers", "probability", "--positive", "1")[0] == 0
    assert plain("models", "promote", "boost", "1")[0] == 0
    frame.assign(id=[1, 2]).to_parquet(tmp_path / "in.parquet")
    assert plain("predict", "boost", "in.parquet", "out.parquet")[0] == 0
    told = pq.read_table(tmp_path / "out.parquet")
    assert told.column("prediction").to_pylist() == [0, 1]
    assert told.column("probability").to_pylist() == pytest.approx([0.2689414, 0.8807971])


def test_init_asks_for_the_positive_class_where_it_can_not_be_seen_and_writes_it_in_its_type(run, registry, tmp_path):
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import PythonModel, save_model
    from mlflow.types import ColSpec, Schema

    class Sign(PythonModel):
        def predict(self, model_input):
            return (model_input["x"] > 0).astype("int64").to_numpy()

    signature = ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("long")]))
    example = pd.DataFrame({"x": [1.0, -1.0]})
    save_model(
        str(tmp_path / "sign"), python_model=Sign(), signature=signature, input_example=example, pip_requirements=[]
    )
    registry.adopt("sign of (x)", str(tmp_path / "sign"))
    options = ["init", "--model", "sign of (x)/1", "--task", "binary", "--label", "y", "--key", "id"]
    code, _, err = run(*options)
    assert (code, "--positive: is missing" in err) == (1, True)
    code, _, err = run(*options, "--positive", "yes")
    assert (code, "'yes' of 'sign of (x)' is no long" in err) == (1, True)
    assert not (tmp_path / "feedback_loop.toml").exists()
    assert run(*options, "--positive", "1")[0] == 0
    assert "positive = 1 " in (tmp_path / "feedback_loop.toml").read_text()
    assert run("models", "promote", "sign of (x)", "1")[0] == 0
    (tmp_path / "in.csv").write_text("x,id\n1.5,a\n-1.5,b\n")
    code, _, err = run("predict", "sign of (x)", "in.csv", "out.csv")
    assert (code, err) == (0, err)
    assert pd.read_csv(tmp_path / "out.csv")["prediction"].tolist() == [1, 0]


def test_init_names_the_columns_of_a_tensor(run, registry, tmp_path):
    from mlflow.models import infer_signature
    from mlflow.pyfunc import PythonModel, save_model

    class Network(PythonModel):
        def predict(self, model_input):
            return model_input.sum(axis=1)

    tensor = np.zeros((2, 2), dtype=np.float32)
    signature = infer_signature(tensor, tensor[:, 0])
    given = {"signature": signature, "input_example": tensor, "pip_requirements": []}
    save_model(str(tmp_path / "net"), python_model=Network(), **given)
    registry.adopt("net", str(tmp_path / "net"))
    options = ["init", "--model", "net/1", "--task", "regression", "--label", "y", "--key", "id"]
    options += ["--feature", "miles"]
    code, _, err = run(*options)
    assert (code, "takes 2 columns, and models.net.features has 1 names" in err) == (1, True)
    code, out, _ = run(*options, "--feature", "seats")
    assert (code, "which takes miles (float), seats (float)." in out) == (0, True)
    assert run("models", "promote", "net", "1")[0] == 0
    (tmp_path / "in.csv").write_text("seats,miles,id\n2,1,a\n")
    assert run("predict", "net", "in.csv", "out.csv")[0] == 0
    assert pd.read_csv(tmp_path / "out.csv")["prediction"].tolist() == [3.0]


def test_init_says_which_of_two_words_the_probabilities_are_of(run, registry, tmp_path):
    from mlflow.sklearn import save_model
    from sklearn.linear_model import LogisticRegression

    example = pd.DataFrame({"x": [1.0, -1.0]})
    model = LogisticRegression().fit(example, ["Late", "On time"])
    save_model(model, str(tmp_path / "sign"), input_example=example, pip_requirements=[])
    registry.adopt("sign", str(tmp_path / "sign"))
    options = ["init", "--model", "sign/1", "--task", "binary", "--label", "y", "--key", "id"]
    code, out, _ = run(*options)
    assert (code, "Its probabilities are of 'On time'." in out) == (0, True)
    assert 'positive = "On time"' in (tmp_path / "feedback_loop.toml").read_text()
    (tmp_path / "feedback_loop.toml").unlink()
    assert "Its probabilities are of 'Late'." in run(*options, "--positive", "Late")[1]
