"""The compose file's own commands as processes: PostgreSQL, an MLflow server, our server, our scheduler."""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import psycopg
import pytest
import yaml

from feedback_loop.clock import system_clock
from feedback_loop.store import jobs, keys, predictions
from tests.builders import customers, open_loop, register_churn, write_config
from tests.integration.processes import call, end, free_port, running, wait_until

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"

ROWS = 20
"""A turn of the test predicts and tells the outcomes of so many customers."""

FAST = """
[models.churn.schedule]
cycle = "2s"
report = "never"
"""


@pytest.fixture
def databases(postgres):
    """The two databases that the compose file makes, under names of this test's own."""
    names = {name: f"{name}_{uuid.uuid4().hex}" for name in ("feedback_loop", "mlflow")}
    with psycopg.connect(postgres, autocommit=True) as connection:
        for name in names.values():
            connection.execute(f'CREATE DATABASE "{name}"')
        yield {name: postgres.replace("/postgres?", f"/{made}?") for name, made in names.items()}
        for name in names.values():
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_the_compose_file_follows_its_specification():
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Composed:
    """The compose file's services, with hosts, ports and folders of this machine."""

    def __init__(self, folder, databases):
        self.services = yaml.safe_load(COMPOSE.read_text())["services"]
        self.folder = folder
        self.ports = {"mlflow": free_port(), "server": free_port()}
        self.places = {
            "postgresql://postgres:${POSTGRES_PASSWORD:?set it}@postgres:5432/feedback_loop": databases[
                "feedback_loop"
            ],
            "postgresql://postgres:${POSTGRES_PASSWORD:?set it}@postgres:5432/mlflow": databases["mlflow"],
            "mlflow:5000": f"127.0.0.1:{self.ports['mlflow']}",
            "/mlartifacts": str(folder / "mlartifacts"),
            "/work/feedback_loop.toml": str(folder / "feedback_loop.toml"),
            "${MODEL:?set it}": "churn",
            "0.0.0.0": "127.0.0.1",  # noqa: S104 (it is what is replaced)
        }

    def here(self, text):
        for before, after in self.places.items():
            text = text.replace(before, after)
        return text

    def start(self, name):
        service = self.services[name]
        command = [self.here(part) for part in service["command"]]
        if name in self.ports:
            command[command.index("--port") + 1] = str(self.ports[name])
        command[0] = str(Path(sys.executable).parent / command[0])
        environment = {key: self.here(value) for key, value in service.get("environment", {}).items()}
        log = self.folder / f"{name}.log"
        return running(command, log, **environment), log


def test_the_loop_turns_through_the_very_commands_of_the_compose_file(databases, tmp_path, monkeypatch):
    composed = Composed(tmp_path, databases)
    write_config(tmp_path, more=FAST)
    _history(tmp_path)
    changes = {
        "STORE__URL": databases["feedback_loop"],
        "REGISTRY__TRACKING_URI": f"http://127.0.0.1:{composed.ports['mlflow']}",
        "SERVING__POLL_ALIAS": "1s",
        "SERVING__REQUIRE_KEY": "always",
        "MODELS__CHURN__MATURITY": "1s",
        "MODELS__CHURN__WINDOW": "2s",
        "MODELS__CHURN__RETRAINING__HISTORY": "history.parquet",
        "MODELS__CHURN__RETRAINING__HOLDOUT": "0.4",
        "MODELS__CHURN__POLICY__REFRESH": "10s",
        "MODELS__CHURN__POLICY__COOLDOWN": "1h",
    }
    for name, value in changes.items():
        monkeypatch.setenv(f"FEEDBACK_LOOP_{name}", value)
    mlflow, mlflow_log = composed.start("mlflow")
    with mlflow as process:
        wait_until(lambda: call(composed.ports["mlflow"], "GET", "/health")[0] == 200, process, mlflow_log)
        with closing(open_loop(tmp_path / "feedback_loop.toml", system_clock)) as loop:
            loop.promote("churn", register_churn(loop.registry, datetime.now(UTC)).version, reason="first")
            key = keys.create_key(loop.store, "test", datetime.now(UTC))
            server, server_log = composed.start("server")
            with server as serving:
                wait_until(lambda: call(composed.ports["server"], "GET", "/health")[0] == 200, serving, server_log)
                scheduler, scheduler_log = composed.start("scheduler")
                with scheduler as scheduling:
                    answers = _live(composed.ports["server"], key, scheduling, scheduler_log)
                    assert end(scheduling) == 0
                assert end(serving) == 0
            _all_is_accounted_for(loop, answers, tmp_path, scheduler_log)


def _history(folder):
    """Labelled rows of the ten days before the log began."""
    parts = []
    for day in range(1, 11):
        rows = pd.DataFrame(customers(600, 500 + day))[["age", "plan", "churned"]]
        parts.append(rows.assign(predicted_at=pd.Timestamp(datetime.now(UTC) - timedelta(days=day))))
    pd.concat(parts).to_parquet(folder / "history.parquet")


def _live(port, key, scheduling, log):
    """Predicts and tells outcomes until the scheduler has retrained and the server answers with the new version."""
    headers = {"authorization": f"Bearer {key}"}
    answers = []

    def turn():
        time.sleep(0.2)  # the ten days of history must remain the most of what is learned from
        rows = pd.DataFrame(customers(ROWS, len(answers), month=f"turn {len(answers)}"))
        records = json.loads(rows[["customer", "month", "age", "plan"]].to_json(orient="records"))
        status, answer, _ = call(port, "POST", "/invocations", {"dataframe_records": records}, headers)
        assert status == 200
        answers.append(answer)
        outcomes = json.loads(rows[["customer", "month", "churned"]].to_json(orient="records"))
        status, taken, _ = call(port, "POST", "/models/churn/outcomes", {"outcomes": outcomes}, headers)
        assert (status, taken["new"]) == (200, ROWS)
        return answer["model_version"] == "2"

    wait_until(turn, scheduling, log, seconds=120)
    return answers


def _all_is_accounted_for(loop, answers, folder, log):
    loop.forward()
    loop.join("churn")
    counts = predictions.count_predictions(loop.store, "churn")
    answered = {version: sum(ROWS for each in answers if each["model_version"] == version) for version in ("1", "2")}
    assert {version: rows for (version, _, _), rows in counts.items()} == answered
    failed = [(run.job, run.cause) for run in jobs.load_runs(loop.store, "churn") if run.state == "failed"]
    assert failed == []
    command = [str(Path(sys.executable).parent / "feedback-loop"), "status", "--json", "--config"]
    done = subprocess.run(
        [*command, str(folder / "feedback_loop.toml")], capture_output=True, text=True, check=True, env=os.environ
    )
    state = json.loads(done.stdout)["models"]["churn"]
    assert state["champion"] == "2"
    assert state["predictions"] == state["outcomes"] == ROWS * len(answers)
    assert state["unmatched_outcomes"] == 0
    assert state["last_retraining"]["state"] == "promoted"
    assert state["verdict"]["state"] in ("ok", "warning", "insufficient_data")
    lines = [json.loads(line) for line in log.read_text().splitlines() if re.match(r"\{.*\}$", line)]
    assert {"scheduler started", "chain", "scheduler stopped"} <= {line["event"] for line in lines}
