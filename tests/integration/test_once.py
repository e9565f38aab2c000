"""`feedback-loop scheduler --once` for cron and orchestrators: each exit code, and one JSON object that says why."""

import json
import os
import re
import socket
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from feedback_loop.clock import Window, system_clock
from feedback_loop.monitoring import model_folder
from feedback_loop.store import approvals, incidents
from feedback_loop.store.approvals import Approval
from feedback_loop.store.conclusions import State, Verdict
from feedback_loop.store.ledger import begin_run, want_run

DAY = timedelta(days=1)
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def once(loop, plain):
    """Runs the model's cycle; returns the exit code, the state of all, and that of the model."""

    def once(*arguments):
        code, turn = plain("scheduler", "--once", *arguments)
        assert code == turn["exit_code"]
        return code, turn["state"], turn["models"]["churn"]

    return once


def degraded(loop):
    now = system_clock() - 9 * DAY
    monitor = {"since": (now - 2 * DAY).isoformat(), "state": None}
    report = model_folder(loop.reports, "churn") / "incident-1-quality.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("It was made: there are no rows for another.")
    verdict = Verdict(
        "churn", "1", now, Window(now - 2 * DAY, now - DAY), State.DEGRADED, "brier .1 → .3", {}, monitor
    )
    return incidents.record_verdict(loop.store, verdict, ["log"])[1]


def asked(loop):
    now = system_clock()
    return approvals.ask(
        loop.store, Approval(0, "churn", "2", "1", None, 1, now, now + 9 * DAY, "open", {"summary": "better"})
    )


def test_what_was_asked_for_on_a_page_is_made_first(loop, once):
    told = {"by": "ada", "promotes": False, "despite_diagnosis": True, "begun": 0}
    want_run(loop.store, "retrain by hand", "churn", told, system_clock())
    jobs = once()[2]["jobs"]
    assert (jobs[0]["job"], jobs[0]["state"], jobs[0]["result"]["asked_by"]) == (
        "retrain by hand",
        "succeeded",
        "ada",
    )
    assert [job["job"] for job in once()[2]["jobs"]].count("retrain by hand") == 0


def test_each_exit_code_and_what_it_is_about(loop, once, run):
    code, state, model = once()
    assert (code, state, model["state"], model["incident"], model["approval"]) == (0, "ok", "ok", None, None)
    assert {job["state"] for job in model["jobs"]} == {"succeeded"}

    incident = degraded(loop)
    code, state, model = once("--model", "churn")
    assert (code, state, model["incident"]) == (3, "degraded", incident.incident_id), [
        job for job in model["jobs"] if job["cause"]
    ]

    approval = asked(loop)
    code, state, model = once()
    assert (code, state, model["approval"]) == (4, "approval_wanted", approval.approval_id)
    assert model["incident"] == incident.incident_id

    with loop.runner.leased("churn"):
        code, state, model = once()
    assert (code, state, [job["state"] for job in model["jobs"]]) == (1, "failed", ["refused"])
    assert "Another run is at work on churn" in model["jobs"][0]["cause"]

    code, out, _ = run("scheduler", "--once")
    assert code == 4
    assert out.splitlines()[-1] == (
        f"churn: a candidate waits for approval: feedback-loop approvals show {approval.approval_id}; "
        f"it is degraded: feedback-loop incidents show {incident.incident_id}"
    )


def test_what_can_not_run_at_all_is_one_too_and_still_one_object(loop, plain, monkeypatch):
    code, answer = plain("scheduler", "--once", "--model", "chrun")
    assert (code, "chrun" in answer["error"], "churn" in answer["cure"]) == (1, True, True)
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__OUTCOMES__FOLDER", "gone")
    monkeypatch.setenv("FEEDBACK_LOOP_REGISTRY__TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, turn = plain("scheduler", "--once")
    assert (code, turn["state"], turn["models"]["churn"]["state"]) == (1, "failed", "failed")


def test_a_job_that_runs_is_listed_and_asked_to_end_by_its_number(loop, run, plain):
    now = loop.clock()
    with loop.runner.leased("churn"):
        number = begin_run(loop.store, "retrain", "churn", now, loop.runner.holder, now)
        assert f"retrain (run {number}) for " in run("status")[1]
        code, out, _ = run("jobs", "cancel", number, "--reason", "it takes too long", "--by", "ada")
        words = f"Run {number} (retrain of churn) is asked to end; it does so at its next step.\n"
        assert (code, out) == (0, words)
        [row] = plain("jobs", "list", "churn")[1]
        assert (row["state"], row["cancel_asked_by"], row["cancel_reason"]) == ("running", "ada", "it takes too long")
        assert "asked to end" in run("jobs", "list")[1]
    for arguments, cause in (([number], "has died"), ([99], "no run of a job"), ([number, "--reason", " "], "empty")):
        code, _, err = run("jobs", "cancel", "--reason", "again", *arguments)
        assert (code, cause in err) == (1, True), err


def test_pages_at_an_address_that_is_taken_are_refused_in_one_line(loop, run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = run("dashboard", "--port", port)
    assert (code, out) == (1, "")
    assert f"Nothing can be served at 127.0.0.1:{port}: Address already in use. End the server" in err


def cron_line():
    return re.search(r"^\S+ \* \* \* \* +(.*)$", (EXAMPLES / "cron" / "crontab").read_text(), re.MULTILINE)[1]


def kubernetes_line():
    [turn] = list(yaml.safe_load_all((EXAMPLES / "kubernetes" / "cronjob.yaml").read_text()))
    [container] = turn["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["/bin/sh", "-c"]
    return container["args"][0]


def test_the_examples_of_cron_and_kubernetes_make_a_turn_and_fail_only_if_it_failed(loop, warm, tmp_path):
    paths = {"PATH": f"{warm}:{os.environ['PATH']}", "FEEDBACK_LOOP_CONFIG": str(tmp_path / "feedback_loop.toml")}

    def shell(line, **more):
        environment = {**os.environ, **paths, **more}
        command = ["/bin/sh", "-c", line]
        return subprocess.run(command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)

    asked(loop)
    done = shell(cron_line())
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert json.loads((tmp_path / "scheduler.log").read_text())["exit_code"] == 4
    done = shell(kubernetes_line())
    assert (done.returncode, json.loads(done.stdout)["state"]) == (0, "approval_wanted")
    gone = shell(cron_line(), FEEDBACK_LOOP_CONFIG="gone.toml")
    assert (gone.returncode, gone.stderr) == (1, "no turn of the loop\n")
    assert shell(kubernetes_line(), FEEDBACK_LOOP_CONFIG="gone.toml").returncode == 1
    for line in (cron_line(), kubernetes_line()):
        assert shell(line.replace("feedback-loop", "no-such-program", 1)).returncode == 1
