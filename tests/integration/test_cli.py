"""The command line as a user types it: what it prints, and how it ends."""

import io
import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import typer

from feedback_loop.cli import app, main
from feedback_loop.clock import ManualClock, system_clock
from feedback_loop.config import load_settings
from feedback_loop.monitoring import span_of
from feedback_loop.store import growing
from feedback_loop.store.jobs import begin_run, end_run
from tests.builders import churn_loop, copy_home, customers, open_loop, play_days, register_churn, write_config


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs `feedback-loop …` in the test's folder; returns exit code, what it printed and what it complained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["feedback-loop", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def plain(run):
    """The same with `--json`, decoded."""

    def plain(*arguments):
        code, out, _ = run(*arguments, "--json")
        return code, json.loads(out)

    return plain


@pytest.fixture(scope="module")
def lived(empty_mlflow, tmp_path_factory):
    """A loop that has lived for three days, to be copied."""
    folder, clock = tmp_path_factory.mktemp("lived"), ManualClock(datetime(2026, 3, 2, 4, tzinfo=UTC))
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    made = churn_loop(folder, clock)
    play_days(made, clock, 3)
    made.close()
    return folder, clock()


@pytest.fixture
def loop(lived, tmp_path, clock):
    """A loop that has lived for a while; commands see it through the real clock."""
    home, now = lived
    copy_home(home, tmp_path)
    clock.set(now)
    return open_loop(tmp_path / "feedback_loop.toml", clock)


def test_estimates_are_told_beside_what_is_realised(run, mlflow_uri, tmp_path, clock):
    made = churn_loop(tmp_path, clock)
    for day in range(2):
        rows = customers(300, day, month=f"m{day}")
        made.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
        clock.set(clock() + timedelta(days=1))
        made.evaluate("churn")
        made.record_outcomes("churn", {name: rows[name] for name in ("customer", "month", "churned")})
    made.evaluate("churn")
    made.close()
    code, out, _ = run("evaluate", "churn", "--from", "2026-03-03", "--to", "2026-03-04")
    told = r"  estimated accuracy 0\.\d+ ± 0\.0\d+ \(realised 0\.\d+; past error 0\.0\d+ over \d windows?\)"
    assert (code, bool(re.search(told, out))) == (0, True)
    as_of = ["--as-of", f"{clock():%Y-%m-%d}", "--json"]
    forms = ["--from=2026-03-03 --to=2026-03-04", "--window=2026-03-03", "--window=2026-03-03/2026-03-04T00:00Z"]
    said = {run("evaluate", "churn", *form.split(), *as_of)[:2] for form in forms}
    assert [code for code, _ in said] == [0]
    code, out, _ = run("status")
    assert re.search(told, out)
    few = customers(40, 9, month="few")
    again = open_loop(tmp_path / "feedback_loop.toml", clock)
    clock.set(clock() + timedelta(days=1))
    again.predict("churn", {name: few[name] for name in ("customer", "month", "age", "plan")})
    again.close()
    code, out, _ = run("evaluate", "churn", "--from", f"{clock():%Y-%m-%d}", "--to", f"{system_clock():%Y-%m-%d}")
    assert "no estimates yet: 60 rows more are needed" in out


def test_init_writes_a_configuration_that_works(run, plain, mlflow_uri, clock, tmp_path):
    write_config(tmp_path)
    register_churn(open_loop(tmp_path / "feedback_loop.toml", clock).registry, clock())
    (tmp_path / "feedback_loop.toml").unlink()
    options = ["--model", "churn/1", "--task", "binary", "--label", "churned"]
    options += ["--key", "customer:long", "--key", "month"]
    code, out, _ = run("init", *options, "--segment", "plan")
    assert code == 0
    assert "age (double), plan (string)" in out
    assert "# the columns by which outcomes find their prediction" in (tmp_path / "feedback_loop.toml").read_text()
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


def test_a_key_of_another_type_is_refused_with_where_its_type_is_said(run, loop, tmp_path):
    frame = pd.DataFrame(customers(5, 3)).drop(columns="churned").assign(month=3)
    frame.to_parquet(tmp_path / "in.parquet")
    code, _, err = run("predict", "churn", "in.parquet", "out.parquet")
    assert code == 1
    assert "row 0: month: 3 does not fit the type string" in err
    assert "models.churn.key_types" in err


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
    assert loop.missing_reference("churn") is None
    assert loop.champion("churn").trained_until == datetime(2026, 1, 31, tzinfo=UTC)
    assert span_of(loop.registry.reference_rows(loop.champion("churn")))[0] == datetime(2026, 2, 1, tzinfo=UTC)
    assert "ok   reference churn: it is whole" in run("doctor")[1]
    code, _, err = run("models", "reference", "churn", "2", *given)
    assert (code, "has a reference already" in err) == (1, True)


def test_reference_rows_without_times_are_of_when_training_ended_and_keep_no_window_from_being_judged(
    mlflow_uri, tmp_path, clock
):
    loop = open_loop(write_config(tmp_path), clock)
    register_churn(loop.registry, clock())
    held = pd.DataFrame(customers(5000, 7))[["age", "plan", "churned"]]
    ended = datetime(2026, 2, 1, tzinfo=UTC)
    version = loop.register("churn", "models:/churn/1", reference=held, trained_until=ended)
    settings = loop.settings.model("churn")
    rows = loop._reference(loop._version("churn", version.version), settings, clock())
    assert set(rows.column("predicted_at").to_pylist()) == {ended}
    assert span_of(rows) is None
    assert loop._baseline(loop._version("churn", version.version), settings, as_of=clock()).until is None


def test_init_says_what_is_missing_where_nobody_can_be_asked(run, mlflow_uri, clock, tmp_path, monkeypatch):
    register_churn(open_loop(write_config(tmp_path), clock).registry, clock())
    code, _, err = run("init", "--model", "churn/1", "--output", "new.toml")
    assert (code, "--task: is missing" in err) == (1, True)
    code, _, err = run(
        "init", "--model", "churn/1", "--task", "regression", "--label", "age", "--key", "x", "--output", "new.toml"
    )
    assert (code, "also one of its features" in err) == (1, True)
    assert not (tmp_path / "new.toml").exists()
    monkeypatch.setattr(growing, "MOST_COLUMNS", {"sqlite": 10})
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
    assert "positive = 1\n" in (tmp_path / "feedback_loop.toml").read_text()
    assert run("models", "promote", "sign of (x)", "1")[0] == 0
    (tmp_path / "in.csv").write_text("x,id\n1.5,a\n-1.5,b\n")
    code, _, err = run("predict", "sign of (x)", "in.csv", "out.csv")
    assert (code, err) == (0, err)
    assert pd.read_csv(tmp_path / "out.csv")["prediction"].tolist() == [1, 0]


def test_a_file_is_scored_its_outcomes_loaded_and_the_status_tells(run, plain, loop, tmp_path):
    rows = pd.DataFrame(customers(40, 5, month="cli"))
    rows.drop(columns="churned").to_parquet(tmp_path / "in.parquet")
    code, result = plain("predict", "churn@champion", "in.parquet", "out.parquet")
    assert (code, result["rows"], result["logged"], result["version"]) == (0, 40, 40, "1")
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 40
    rows[["customer", "month", "churned"]].to_csv(tmp_path / "outcomes.csv", index=False)
    code, out, _ = run("outcomes", "load", "churn", "outcomes.csv")
    assert (code, out) == (0, "40 outcomes: 40 new, 0 corrected, 0 unchanged, 0 without a prediction yet.\n")
    assert plain("outcomes", "load", "churn", "outcomes.csv")[1]["unchanged"] == 40
    code, state = plain("status")
    assert state["models"]["churn"]["predictions"] == 940
    code, out, _ = run("status", "churn")
    assert (code, "predictions   940" in out) == (0, True)


def test_a_file_with_bad_rows_is_refused_whole_unless_asked(run, plain, loop, tmp_path):
    (tmp_path / "bad.csv").write_text("customer,month,churned\n1,2026-03-02,true\n2,2026-03-02,maybe\n")
    code, _, err = run("outcomes", "load", "churn", "bad.csv")
    assert code == 1
    assert "row 1: churned: 'maybe' does not fit the type boolean" in err
    assert "--on-error skip" in err
    code, problem = plain("outcomes", "load", "churn", "bad.csv")
    assert problem["problems"] == [{"row": 1, "field": "churned", "cause": "'maybe' does not fit the type boolean"}]
    code, out, err = run("outcomes", "load", "churn", "bad.csv", "--on-error", "skip")
    assert (code, "1 left out" in out, "left out: row 1: churned" in err) == (0, True, True)


def test_evaluations_verdicts_and_reports_are_printed(run, plain, loop, tmp_path):
    window = ["--from", "2026-03-02", "--to", "2026-03-05"]
    code, (found,) = plain("evaluate", "churn", *window)
    assert (code, found["predictions"], found["coverage"]) == (0, 900, 1.0)
    code, out, _ = run("evaluate", "churn", *window)
    assert "accuracy" in out
    code, verdict = plain("decide", "churn")
    assert (code, verdict["state"]) == (0, "ok")
    code, out, _ = run("decide", "churn")
    assert (code, "has matured since" in out) == (0, True)
    code, paths = plain("report", "churn", "--window", "2026-03")
    assert code == 0
    assert sorted(path.rsplit("/", 1)[1] for path in paths) == [
        "2026-03-drift.html",
        "2026-03-drift.json",
        "2026-03-validation.html",
        "2026-03-validation.json",
    ]
    code, listed = plain("report", "churn", "--list")
    assert [(each["version"], each["kind"], each["rows"], each["drawn of"]) for each in listed] == [
        ("1", "drift", 900, "surrogate"),
        ("1", "validation", 900, "surrogate"),
    ]
    assert listed[0]["window"] == "2026-03-01 – 2026-04-01"
    code, out, _ = run("report", "churn", "--list")
    assert (code, "surrogate" in out, "2026-03-drift.html" in out) == (0, True, True)
    assert plain("report", "churn", *window, "--sample", "100")[0] == 0
    assert plain("report", "churn", "--window", "2026-03", "--full")[0] == 0
    assert [(each["kind"], each["drawn of"]) for each in plain("report", "churn", "--list")[1]] == [
        ("drift", "sample"),
        ("validation", "sample"),
        ("drift", "full"),
        ("validation", "full"),
    ]


def test_predictions_made_elsewhere_are_imported_from_files_and_queries_once(run, plain, loop, tmp_path):
    import sqlite3

    rows = pd.DataFrame(customers(50, 5, month="elsewhere")).drop(columns="churned")
    rows = rows.assign(prediction=True, probability=0.75, predicted_at=pd.Timestamp("2026-03-01T12:00:00.123456Z"))
    rows.to_parquet(tmp_path / "answered.parquet")
    rows.to_csv(tmp_path / "answered.csv", index=False)
    with sqlite3.connect(tmp_path / "theirs.db") as theirs:
        rows.assign(predicted_at=rows["predicted_at"].astype(str)).to_sql("answered", theirs, index=False)
    theirs.close()
    code, out, _ = run("import", "predictions", "churn", "answered.parquet")
    assert (code, out) == (0, "50 predictions of version 1: 50 logged, 0 there already, 0 left out.\n")
    assert plain("import", "predictions", "churn", "answered.csv")[1]["known"] == 50
    query = ["--sql", "SELECT * FROM answered", "--url", "sqlite:///theirs.db"]
    code, result = plain("import", "predictions", "churn", *query)
    assert (code, result["rows"], result["logged"], result["known"]) == (0, 50, 0, 50)
    counts = plain("status")[1]["models"]["churn"]
    assert counts["predictions"] == 950
    assert "there already" in run("import", "predictions", "churn", *query, "--version", "1")[1]


def test_an_import_with_bad_rows_is_refused_whole_unless_asked(run, plain, loop, tmp_path):
    rows = pd.DataFrame(customers(5, 5)).drop(columns="churned").assign(probability=0.75, predicted_at="2026-03-01")
    rows.loc[3, "predicted_at"] = "soon"
    rows.to_csv(tmp_path / "answered.csv", index=False)
    code, _, err = run("import", "predictions", "churn", "answered.csv")
    assert (code, "row 3: predicted_at: 'soon' does not fit" in err) == (1, True)
    assert plain("status")[1]["models"]["churn"]["predictions"] == 900
    code, out, err = run("import", "predictions", "churn", "answered.csv", "--on-error", "skip")
    assert (code, "4 logged, 0 there already, 1 left out" in out, "left out: row 3" in err) == (0, True, True)


def test_the_group_of_imports_shows_what_can_be_imported(run):
    code, out, _ = run("import", "--help")
    assert (code, "predictions" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "predictions", "churn", "none.parquet"], "There is no file 'none.parquet'"),
        (["import", "predictions", "churn", "."], ". is a folder"),
        (["import", "predictions", "churn", "--sql", "SELECT 1", "--url", "sqlite:///nofile.db"], "nofile.db"),
        (["outcomes", "load", "churn", "."], ". is a folder"),
        (["import", "predictions", "churn", "--sql", "SELECT 1", "--url", "nonsense"], "no database URL"),
        (["import", "predictions", "churn", "--sql", "SELECT 1", "--url", "oracle://x/y"], "not installed"),
        (["import", "predictions", "churn", "--sql", "SELEC 1", "--url", "sqlite://"], "syntax error"),
        (["import", "predictions", "churn", "--sql", "SELECT :x", "--url", "sqlite://"], "sql: "),
        (["evaluate", "churn", "--from", "2026-03-02"], "only one end"),
        (["evaluate", "churn", "--window", "2026-03", "--to", "2026-03-02"], "given twice"),
        (["evaluate", "churn", "--window", "March"], "ISO 8601"),
        (["evaluate", "churn", "--from", "soon", "--to", "later"], "ISO 8601"),
        (["evaluate", "churn", "--as-of", "2200-01-01"], "in the future"),
        (["report", "churn"], "--window"),
        (["report", "churn", "--window", "2020-01"], "too few"),
        (["report", "churn", "--window", "2026-03", "--sample", "9"], "too small"),
        (["report", "churn", "--window", "2026-03", "--sample", "99", "--full"], "--sample or --full"),
        (["report", "chrun", "--list"], "Known: churn"),
        (["evaluate", "chrun"], "Known: churn"),
        (["predict", "churn", "none.parquet", "out.parquet"], "There is no file 'none.parquet'"),
        (["models", "promote", "churn", "9"], "There is no model version 'churn/9'"),
        (["models", "rollback", "churn"], "no champion before"),
        (["models", "register", "churn", "--from", "nowhere"], "There is no MLflow model"),
        (["status", "chrun"], "Known: churn"),
        (["keys", "revoke", "nobody"], "There is no valid key 'nobody'"),
    ],
)
def test_what_can_not_be_done_is_one_line_with_cause_and_cure(run, loop, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict"],
        ["nonsense"],
        ["evaluate", "churn", "--nonsense"],
        ["serve", "churn", "--port", "x"],
        ["import", "predictions", "churn"],
        ["import", "predictions", "churn", "--sql", "SELECT 1"],
        ["outcomes", "findings", "churn", "--most", "-1"],
    ],
)
def test_bad_usage_ends_with_two(run, loop, arguments, tmp_path):
    assert run(*arguments)[0] == 2


def test_a_version_that_can_not_be_served_is_not_promoted_but_by_force(run, plain, loop):
    broken = register_churn(loop.registry, loop.clock(), seed=9)
    for file in loop.registry.load(broken).path.glob("model.*"):
        file.write_bytes(b"no model")
    code, _, err = run("models", "promote", "churn", broken.version)
    assert (code, f"churn version {broken.version} can't be served" in " ".join(err.split())) == (1, True)
    assert loop.champion("churn").version != broken.version
    assert plain("models", "promote", "churn", broken.version, "--force")[0] == 0
    assert loop.champion("churn").version == broken.version
    assert plain("models", "rollback", "churn")[0] == 0


def test_a_database_that_is_mistyped_is_not_made(run, loop, tmp_path):
    run("import", "predictions", "churn", "--sql", "SELECT 1", "--url", "sqlite:///nofile.db")
    assert not (tmp_path / "nofile.db").exists()


def test_no_outcomes_and_no_findings_are_said_in_words(run, plain, loop, tmp_path):
    (tmp_path / "none.ndjson").write_text("\n")
    assert plain("outcomes", "load", "churn", "none.ndjson")[1]["received"] == 0
    (tmp_path / "empty.csv").write_text("customer,month,churned\n7,,true\n")
    code, _, err = run("outcomes", "load", "churn", "empty.csv")
    assert (code, "row 0: names no prediction" in err) == (1, True)
    for kind, said in ("unmatched", "no outcome that fits no prediction"), ("conflict", "whose outcomes conflict"):
        code, out, _ = run("outcomes", "findings", "churn", "--kind", kind)
        assert (code, said in out) == (0, True)


def test_coverage_tells_what_was_observed_from_what_absence_means(run, plain, loop, tmp_path):
    config = tmp_path / "feedback_loop.toml"
    config.write_text(config.read_text() + "[models.churn.join]\nabsent_means = false\n")
    rows = pd.DataFrame(customers(300, 5, month="dead")).drop(columns="churned")
    rows.assign(prediction=True, probability=0.75, predicted_at=pd.Timestamp("2026-03-01T12:00Z")).to_parquet(
        tmp_path / "answered.parquet"
    )
    assert plain("import", "predictions", "churn", "answered.parquet")[1]["logged"] == 300
    [row] = plain("outcomes", "coverage", "churn", "--by", "version")[1]
    counts = [row[name] for name in ("predictions", "observed", "inferred", "labelled", "coverage")]
    assert counts == [1200, 900, 300, 1200, 1.0]
    code, out, _ = run("outcomes", "coverage", "churn", "--by", "version")
    assert (code, f"{'█' * 15}{'░' * 5}" in out) == (0, True)


@pytest.mark.parametrize("command", [["status"], ["incidents", "list"], ["models", "history", "churn"]])
def test_commands_that_only_read_the_store_need_no_mlflow(loop, command, tmp_path):
    """Its import takes seconds, and its server may be away."""
    code = (
        f"import sys\nfrom feedback_loop.cli import app\napp({command!r}, standalone_mode=False)\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded & {"mlflow", "sklearn", "pandas", "scipy.stats", "evidently", "apprise"} == set()


def test_without_a_configuration_the_cure_is_init(run):
    code, _, err = run("status")
    assert (code, "feedback-loop init" in err) == (1, True)


def test_models_are_listed_and_their_history_told(run, plain, loop, clock, tmp_path):
    second = register_churn(open_loop(tmp_path / "feedback_loop.toml", clock).registry, clock(), seed=3).version
    assert [row["version"] for row in plain("models", "list")[1]] == ["1", second]
    assert plain("models", "promote", "churn", second, "--reason", "it is newer")[1]["from_version"] == "1"
    code, out, _ = run("models", "rollback", "churn")
    assert (code, out) == (0, "Version 1 is the champion of churn (before: version 2).\n")
    assert [row["kind"] for row in plain("models", "history", "churn")[1]] == ["first", "promotion", "rollback"]
    code, out, _ = run("models", "history", "churn")
    assert "it is newer" in out


def test_a_retraining_by_hand_tells_its_trials(run, plain, loop, clock):
    code, result = plain("retrain", "churn", "--no-promote")
    assert code == 0
    assert result["state"] == "not_made"  # by the real clock all of the log is long past
    assert "newer than what the champion has learned from" in result["summary"]
    code, out, _ = run("retrain", "churn", "--no-promote")
    assert code == 0
    assert result["state"] in out


def test_a_job_that_runs_long_is_said_by_the_status_and_so_is_one_whose_process_died(run, loop, clock):
    for minute in (60, 40, 20):
        begun = clock() - timedelta(minutes=minute)
        done = begin_run(loop.store, "decide", "churn", begun, loop.runner.holder, begun)
        if minute > 20:
            end_run(loop.store, done, state="succeeded", now=begun + timedelta(seconds=2))
    code, out, _ = run("status")
    assert code == 0
    assert re.search(r"DIED +decide for [\d,]+ s \(usually 2.0 s\): .* holds no lease any more", out)
    with loop.runner.leased("churn"):
        assert re.search(r"RUNS LONG +decide for [\d,]+ s \(usually 2.0 s\), by ", run("status")[1])


def test_the_scheduler_runs_once_and_tells_each_job(run, plain, loop):
    code, rows = plain("scheduler", "--once")
    assert (code, [row["state"] for row in rows]) == (0, ["succeeded"] * 13)


def test_the_database_is_checked_and_upgraded(run, plain, loop, tmp_path):
    assert plain("db", "check")[1]["revision"] == "0001"
    code, out, _ = run("db", "upgrade")
    assert (code, "0001 → 0001" in out) == (0, True)
    (tmp_path / "store.db").unlink()
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"store.db{suffix}").unlink(missing_ok=True)
    assert run("db", "check")[0] == 1


def test_a_key_is_shown_once(run, plain, loop):
    _, made = plain("keys", "create", "caller")
    assert made["key"].startswith("fl_")
    _, rows = plain("keys", "list")
    assert (rows[0]["name"], rows[0]["scopes"]) == ("caller", ["predict", "outcomes", "read"])
    assert made["key"] not in json.dumps(rows)
    assert run("keys", "revoke", "caller")[0] == 0


def test_a_key_is_made_for_certain_scopes(run, plain, loop):
    _, made = plain("keys", "create", "caller", "--scope", "outcomes", "--scope", "predict")
    assert made["scopes"] == ["predict", "outcomes"]
    assert "predict outcomes" in run("keys", "list")[1]
    _, done = plain("keys", "revoke", "caller")
    assert done == {"name": "caller", "revoked": True}
    assert run("keys", "create", "other", "--scope", "everything")[0] == 2


def test_a_key_is_made_for_certain_models(run, plain, loop):
    assert plain("keys", "create", "caller", "--model", "churn")[1]["models"] == ["churn"]
    assert "churn" in run("keys", "list")[1]
    assert run("keys", "create", "other", "--model", "chrun")[0] == 1


def test_the_doctor_names_what_is_wrong_and_ends_with_one(run, loop, monkeypatch):
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__SCHEDULE__CYCLE", "whenever")
    code, out, _ = run("doctor")
    assert code == 1
    assert "FAIL model churn: models.churn.schedule.cycle: 'whenever' is no schedule" in out
    assert "ok   database" in out


NO_ANSWER = {"serve", "stage"}
"""Commands that never end, and so have no answer to give."""


def commands_below(group, *path):
    """The paths of all commands of a group, as the command line itself has them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_below(command, *path, name)
        else:
            yield (*path, name), command


@pytest.mark.parametrize(("path", "command"), [*commands_below(typer.main.get_command(app))])
def test_every_command_takes_json(path, command):
    taken = {option for parameter in command.params for option in parameter.opts}
    assert ("--json" in taken) != (path[0] in NO_ANSWER)


def test_the_real_clock_is_utc():
    assert system_clock().utcoffset().total_seconds() == 0


def test_the_version_is_told(run):
    from feedback_loop import __version__

    assert run("--version") == (0, f"{__version__}\n", "")


def test_the_configuration_is_shown_with_where_each_value_is_from_and_no_secret(run, plain, tmp_path, monkeypatch):
    more = '[alerts.routes]\nops = "json://host/s3cr3t"\n[serving]\nwebhook_secret = "s3cr3t"\n'
    write_config(tmp_path, store="postgresql://ada:s3cr3t@db/x", more=more)
    monkeypatch.setenv("FEEDBACK_LOOP_REGISTRY__TRACKING_URI", "https://ada:s3cr3t@mlflow")
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__WINDOW", "2d")
    code, rows = plain("config", "show")
    shown = {row["setting"]: (row["value"], row["from"]) for row in rows}
    assert code == 0
    assert shown["store.url"] == ("postgresql://ada:***@db/x", "feedback_loop.toml")
    assert shown["registry.tracking_uri"] == ("https://ada:***@mlflow", "FEEDBACK_LOOP_REGISTRY__TRACKING_URI")
    assert shown["alerts.routes.ops"] == ("json://***", "feedback_loop.toml")
    assert shown["serving.webhook_secret"] == ("***", "feedback_loop.toml")
    assert shown["serving.port"] == (5001, "default")
    assert shown["models.churn.window"] == ("P2D", "FEEDBACK_LOOP_MODELS__CHURN__WINDOW")
    code, out, _ = run("config", "show")
    assert (code, "s3cr3t" in out, "models.churn.policy.reference" in out) == (0, False, True)


def test_erase_asks_before_it_removes_for_good(run, loop, monkeypatch):
    options = ("erase", "churn", "--key", "customer=1")
    code, out, err = run(*options)
    assert (code, out) == (1, "")
    assert "--yes" in err
    assert "--dry-run" in err
    monkeypatch.setattr("sys.stdin", Answers("n\n"))
    code, _, err = run(*options)
    assert code == 1
    assert "Would remove" in err
    assert "Nothing was erased." in err
    monkeypatch.setattr("sys.stdin", Answers("y\n"))
    code, out, _ = run(*options)
    assert (code, "Removed" in out) == (0, True)


class Answers(io.StringIO):
    """What a person types."""

    def isatty(self):
        return True
