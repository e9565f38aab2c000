"""The README's own lines, as they stand there, for a model that was logged with nothing of ours."""

import json
import re
import shlex
import subprocess
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from feedback_loop.cli import main
from feedback_loop.clock import system_clock
from tests.builders import copy_home, customers, open_loop
from tests.integration.churn_log import become_worse
from tests.integration.processes import call, free_port, running, wait_until
from tests.once import once

README = Path(__file__).parents[2] / "README.md"

LOG_MODEL = """
import mlflow, pandas as pd
from tests.builders import churn_pipeline, customers
known = pd.DataFrame(customers(500, 0))
model = churn_pipeline().fit(known[["age", "plan"]], known["churned"])
mlflow.set_tracking_uri("sqlite:///mlflow.db")
mlflow.sklearn.log_model(model, name="model", input_example=known[["age", "plan"]].head(3),
    registered_model_name="churn", serialization_format="cloudpickle")
"""


NOT_RUN_HERE = {
    "make": "the demo takes five minutes, and `make test` runs this very test",
    "pip": "the wheel is built and installed by test_wheel.py",
    "curl": "sent to the server by the test of one's own model",
}
"""Other tools that stand in console blocks."""

PLAYED = ["init", "models", "serve", "predict", "outcomes", "scheduler"]
"""Commands that the test of one's own model plays from nothing; of them `serve` and `scheduler` never end."""


def blocks(kind, text):
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def commands_of(block):
    """The commands of a console block, without comments; of curl, which goes over several lines, only its name."""
    started = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
    return [[line.split()[0]] if line.startswith("curl ") else shlex.split(line, comments=True) for line in started]


def lines_of(title):
    """The commands of the first console block under a heading."""
    section = README.read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    return commands_of(blocks("console", section)[0])


def sent_by_curl():
    """The path, the content type and the body of the README's request."""
    text = re.search(r"\$ curl (.*?)'\n\{\"predictions\"", README.read_text(), re.DOTALL).group(1) + "'"
    place, header, content_type, data, body = shlex.split(text)
    assert (header, data) == ("-H", "-d")
    return place.removeprefix("localhost:5001"), content_type.removeprefix("content-type: "), json.loads(body)


def test_the_readmes_way_to_ones_own_model_is_a_way(mlflow_uri, warm, tmp_path):
    def do(*command):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    do(warm / "python", "-c", f"import sys; sys.path.insert(0, {str(README.parent)!r})\n{LOG_MODEL}")
    rows = pd.DataFrame(customers(40, 3))
    rows.drop(columns="churned").to_parquet(tmp_path / "customers.parquet")
    rows[["customer", "month", "churned"]].to_csv(tmp_path / "what-happened.csv", index=False)
    install, *lines = lines_of("Your own model")
    assert install[:2] == ["pip", "install"]
    port = free_port()
    shown = []
    for _, command, *arguments in lines:
        if command == "serve":
            process = [str(warm / "feedback-loop"), command, *arguments, "--port", str(port)]
            log = tmp_path / "log"
            with running(process, log, FEEDBACK_LOOP_CONFIG=str(tmp_path / "feedback_loop.toml")) as server:
                wait_until(lambda: call(port, "GET", "/ping")[0] == 200, server, log)
                path, content_type, body = sent_by_curl()
                status, answer, _ = call(port, "POST", path, body, {"content-type": content_type})
            assert (status, answer["model_version"], len(answer["prediction_ids"])) == (200, "1", 1)
        elif command == "scheduler":
            process, log = [str(warm / "feedback-loop"), command, *arguments], tmp_path / "log"
            with running(process, log, FEEDBACK_LOOP_CONFIG=str(tmp_path / "feedback_loop.toml")) as scheduler:
                wait_until(lambda log=log: log.stat().st_size > 0, scheduler, log)
        else:
            shown.append(do(warm / "feedback-loop", command, *arguments))
    written, promoted, predicted, loaded, status = shown
    assert "Next: feedback-loop models promote churn 1" in written
    assert "Version 1 is the champion" in promoted
    assert "40" in predicted
    assert "40" in loaded
    assert "41" in status


@pytest.fixture
def degraded(tmp_path, monkeypatch):
    """A folder whose churn model became worse four days ago: an incident is open, nothing was retrained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__POLICY__MODE", "observe")
    copy_home(once("became-worse", become_worse), tmp_path)
    (tmp_path / "other.toml").write_text('[policy]\nrule = "harm"\n')
    with closing(open_loop(tmp_path / "feedback_loop.toml", system_clock)) as loop:
        [incident] = loop.incidents.list("churn")
    return incident


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command as its console script does; it is to end with 0 and to complain of nothing."""
    monkeypatch.setenv("COLUMNS", "200")  # tables fold in a narrow terminal

    def run(*words):
        monkeypatch.setattr("sys.argv", list(words))
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        printed = capsys.readouterr()
        assert (code, "Traceback" in printed.err) == (0, False), (words, printed)
        assert printed.out.strip()
        return printed.out

    return run


def test_every_command_of_a_console_block_is_run_by_a_test():
    everything = [words for block in blocks("console", README.read_text()) for words in commands_of(block)]
    assert len(everything) == len(re.findall(r"^\$ ", README.read_text(), re.MULTILINE))
    assert {words[0] for words in everything} == {"feedback-loop", *NOT_RUN_HERE}
    first = lines_of("Your own model")
    assert all(words in first for words in everything if words[0] == "feedback-loop" and words[1] in PLAYED)


def test_the_readmes_commands_of_a_model_that_became_worse_do_what_they_say(degraded, run):
    """Every other command of README's console blocks, in its order, on a store with a log and an open incident."""
    everything = [words for block in blocks("console", README.read_text()) for words in commands_of(block)]
    told = {
        " ".join(words[1:]): run(*words)
        for words in everything
        if words[0] == "feedback-loop" and words[1] not in PLAYED
    }
    assert set(told) >= {"status", "diagnose churn", "policy suggest churn", "backtest churn", "incidents list"}
    assert "verdict       degraded" in told["status"]
    assert "churn version 1 has become worse" in told["incidents list"]
    assert "opened" in told["incidents show churn"]
    assert "acknowledged by ada" in told["incidents ack churn --by ada"]
    assert "silenced until" in told["incidents silence churn --for 8h"]
    assert told["diagnose churn"].startswith("recent: ")
    assert "[models.churn.policy]" in told["policy suggest churn"]
    assert len(re.findall(r"^(?:configured|other) \(", told["backtest churn --policy other.toml"], re.MULTILINE)) == 2
    assert told["incidents close churn --because the feed is repaired"].endswith("closed.\n")
    story = json.loads(run("feedback-loop", "incidents", "show", str(degraded.incident_id), "--json"))
    assert (story["state"], story["acknowledged_by"], story["closed_because"]) == (
        *("closed", "ada", "the feed is repaired"),
    )


def test_what_the_readme_says_in_its_text_is_a_command(degraded, run):
    """`feedback-loop …` between words, with this model in the place of MODEL."""
    text = re.sub(r"```.*?```", "", README.read_text(), flags=re.DOTALL)
    found = [shlex.split(each.replace("MODEL", "churn")) for each in re.findall(r"`(feedback-loop [^`]+)`", text)]
    assert len(found) >= 3
    for words in found:
        run(*words, *(["--help"] if words[1] == "import" else []))  # which wants a file of predictions


def test_the_readmes_python_runs(degraded, warm, tmp_path):
    [code] = blocks("python", README.read_text())
    rows = pd.DataFrame(customers(300, 900, month="later"))
    rows.drop(columns="churned").to_parquet(tmp_path / "customers.parquet")
    rows[["customer", "month", "churned"]].to_parquet(tmp_path / "known.parquet")
    given = (
        "import pandas\ncustomers, what_happened = map(pandas.read_parquet, ('customers.parquet', 'known.parquet'))"
    )
    shown = "print(answers.num_rows, answers.column_names[0])"
    command = [warm / "python", "-c", f"{given}\n{code}\n{shown}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary, answers = done.stdout.splitlines()
    assert summary.startswith("brier ")
    assert answers == "300 prediction_id"
