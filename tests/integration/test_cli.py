"""The command line as a user types it: what it prints, and how it ends."""

import json
import re
import subprocess
from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow.parquet as pq
import pytest

from feedback_loop.clock import ManualClock, format_moment, system_clock
from feedback_loop.store import migrate
from feedback_loop.store.ledger import begin_run, end_run
from tests.builders import churn_loop, copy_home, customers, open_loop, play_days, register_churn
from tests.integration.processes import Answers
from tests.once import once
from tests.warm import FRESH


@pytest.fixture
def loop(tmp_path, clock):
    """A loop that has lived for three days; commands see it through the real clock."""

    def live(folder):
        made = churn_loop(folder, clock)
        play_days(made, clock, 3)
        made.close()

    end = clock() + timedelta(days=3)
    copy_home(once("lived", live), tmp_path)
    clock.set(end)
    return open_loop(tmp_path / "feedback_loop.toml", clock)


def test_estimates_are_told_beside_what_is_realised(run, tmp_path, clock):
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


def test_a_key_of_another_type_is_refused_with_where_its_type_is_said(run, loop, tmp_path):
    frame = pd.DataFrame(customers(5, 3)).drop(columns="churned").assign(month=3)
    frame.to_parquet(tmp_path / "in.parquet")
    code, _, err = run("predict", "churn", "in.parquet", "out.parquet")
    assert code == 1
    assert "row 0: month: 3 does not fit the type string" in err
    assert "models.churn.key_types" in err


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
def test_what_can_not_be_done_is_one_line_with_cause_and_cure(run, loop, tmp_path, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert not (tmp_path / "nofile.db").exists()  # a database that is mistyped is not made
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


def test_commands_that_only_read_the_store_need_no_mlflow(loop, tmp_path):
    """Its import takes seconds, and its server may be away."""
    commands = [["status"], ["incidents", "list"], ["models", "history", "churn"], ["retrainings", "list"]]
    code = f"""
import sys
from feedback_loop.cli import app
for command in {commands}:
    app(command, standalone_mode=False)
print(*sys.modules)
"""
    done = subprocess.run([FRESH, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded & {"mlflow", "sklearn", "pandas", "scipy.stats", "evidently", "apprise"} == set()


def test_models_are_listed_and_their_history_told(run, plain, loop, clock, tmp_path):
    second = register_churn(open_loop(tmp_path / "feedback_loop.toml", clock).registry, clock(), seed=3).version
    assert [row["version"] for row in plain("models", "list")[1]] == ["1", second]
    assert plain("models", "promote", "churn", second, "--reason", "it is newer")[1]["from_version"] == "1"
    code, out, _ = run("models", "rollback", "churn")
    assert (code, out) == (0, "Version 1 is the champion of churn (before: version 2).\n")
    told = [(row["kind"], row["version"]) for row in plain("models", "history", "churn")[1]]
    assert told == [("first", "1"), ("promotion", "2"), ("retired", "1"), ("rollback", "1"), ("retired", "2")]
    assert {row["version"] for row in plain("models", "history", "churn", "--version", "2")[1]} == {"2"}
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
    assert re.search(r"DIED +decide \(run \d+\) for [\d,]+ s \(usually 2.0 s\): .* holds no lease any more", out)
    with loop.runner.leased("churn"):
        assert re.search(r"RUNS LONG +decide \(run \d+\) for [\d,]+ s \(usually 2.0 s\), by ", run("status")[1])


def test_the_scheduler_runs_once_and_tells_each_job_and_the_database_is_checked_and_upgraded(
    run, plain, loop, tmp_path
):
    code, turn = plain("scheduler", "--once", "--model", "churn")
    jobs = turn["models"]["churn"].pop("jobs")
    assert (code, [job["state"] for job in jobs]) == (0, ["succeeded"] * 15)
    assert (turn["state"], turn["exit_code"], list(turn["models"])) == ("ok", 0, ["churn"])
    assert plain("db", "check")[1]["revision"] == migrate.head()
    code, out, _ = run("db", "upgrade")
    assert (code, f"{migrate.head()} → {migrate.head()}" in out) == (0, True)
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"store.db{suffix}").unlink(missing_ok=True)
    assert run("db", "check")[0] == 1


def test_a_key_is_shown_once_and_is_for_certain_scopes_and_models(run, plain, loop):
    _, made = plain("keys", "create", "caller")
    assert made["key"].startswith("fl_")
    _, rows = plain("keys", "list")
    assert (rows[0]["name"], rows[0]["scopes"]) == ("caller", ["predict", "outcomes"])
    assert made["key"] not in json.dumps(rows)
    _, made = plain("keys", "create", "narrow", "--scope", "outcomes", "--scope", "predict", "--model", "churn")
    assert (made["scopes"], made["models"]) == (["predict", "outcomes"], ["churn"])
    assert re.search(r"narrow +predict outcomes +churn", run("keys", "list")[1])
    _, done = plain("keys", "revoke", "caller")
    assert done == {"name": "caller", "revoked": True}
    assert run("keys", "create", "other", "--scope", "everything")[0] == 2
    assert run("keys", "create", "other", "--model", "chrun")[0] == 1


def test_the_doctor_names_what_is_wrong_and_ends_with_one(run, loop, monkeypatch):
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__SCHEDULE__CYCLE", "whenever")
    code, out, _ = run("doctor")
    assert code == 1
    assert "FAIL model churn: models.churn.schedule.cycle: 'whenever' is no schedule" in out
    assert "ok   database" in out


def test_a_store_is_backed_up_and_restored_into_an_empty_one(run, plain, loop, monkeypatch):
    assert run("keys", "create", "caller")[0] == 0
    code, out, _ = run("backup", "copy")
    assert (code, "store.db is in copy: " in out) == (0, True)
    code, _, err = run("restore", "copy")
    assert (code, "is not empty" in err, "store.url" in err) == (1, True, True)
    monkeypatch.setenv("FEEDBACK_LOOP_STORE__URL", "sqlite:///new.db")
    code, done = plain("restore", "copy")
    assert (code, done["revision"], done["files"]) == (0, migrate.head(), 1)
    assert [key["name"] for key in plain("keys", "list")[1]] == ["caller"]


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


def test_status_says_when_the_first_verdict_is_due(run, tmp_path):
    clock = ManualClock(datetime.now(UTC))
    loop = churn_loop(tmp_path, clock)
    code, out, _ = run("status")
    assert (code, "none yet: nothing is predicted yet; one of now matures on 20" in out) == (0, True)
    rows = customers(3, 1)
    loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
    due = clock().replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=2)  # its day, and one
    assert f"none yet: its first window matures on {format_moment(due)}" in run("status")[1]
    loop.close()
