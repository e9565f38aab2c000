"""`mlflow deployments …`: servers of registered models, begun, changed, asked and ended by MLflow's own commands."""

import json
import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from feedback_loop.clock import ManualClock, Window
from feedback_loop.mlflow_plugin.explaining import explanation
from feedback_loop.mlflow_plugin.server_process import Deployment
from feedback_loop.registry import Registry
from feedback_loop.registry.client import Connection
from feedback_loop.store import incidents
from feedback_loop.store.conclusions import State, Verdict
from tests.builders import churn_loop
from tests.integration.processes import call, end, free_port, running, wait_until

ROW = {"customer": 7, "month": "2026-03", "age": 50.0, "plan": "basic"}
OF_CHURN = ["task=binary", "label=churned", "key=customer:long,month", "segment=plan"]


@pytest.fixture
def deployments(warm, registry_home):
    """Runs `mlflow deployments …` in the registry's folder; returns exit code, what it printed and complained."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{registry_home}/mlflow.db"}
    (registry_home / "rows.json").write_text(json.dumps([ROW]))

    def run(verb, *arguments):
        command = [warm / "mlflow", "deployments", verb, "-t", f"feedback-loop:{registry_home}", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=registry_home, env=environment, check=False, capture_output=True, text=True
        )
        return done.returncode, done.stdout, done.stderr

    yield run
    for name in ("leavers", "a", "b"):
        run("delete", "--name", name)
    (registry_home / "feedback_loop.toml").unlink(missing_ok=True)


def options(*given):
    """They, as MLflow's command takes them."""
    return [part for option in given for part in ("-C", option)]


def test_mlflows_deployment_commands_serve_a_registered_model_until_it_is_deleted(deployments, registry_home):
    port, leavers = free_port(), ("--name", "leavers")
    rows = ("-I", registry_home / "rows.json")
    created = deployments("create", *leavers, "-m", "models:/churn/1", *options(*OF_CHURN, f"port={port}"))
    assert (created[0], "python_function deployment leavers is created" in created[1]) == (0, True), created
    code, _, err = deployments("create", *leavers, "-m", "models:/churn/1")
    assert (code, err.strip().splitlines()[-1]) == (1, "Error: There is a deployment 'leavers' already.")
    assert "'state': 'running'" in deployments("list")[1]
    answer = json.loads(deployments("predict", *leavers, *rows)[1])
    assert (answer["model_version"], len(answer["prediction_ids"])) == ("1", 1)

    client = get_deploy_client(f"feedback-loop:{registry_home}")
    with pytest.raises(MlflowException, match=f"127.0.0.1:{port}: Address already in use"):
        client.create_deployment("others", "models:/churn/1", config={"port": port})  # leavers answers there
    assert [each["name"] for each in client.list_deployments()] == ["leavers"]

    place = registry_home / "deployments" / "leavers"
    (server,) = serving(place)
    server.send_signal(signal.SIGKILL)  # its supervisor lives, and starts another
    supervisor = psutil.Process(pid_of(deployments("get", *leavers)[1]))
    wait_until(lambda: serving(place) != [server] and ready(port) == "1", Running(supervisor), place / "server.log")

    assert deployments("update", *leavers, "-m", "models:/churn/2")[0] == 0
    answer = json.loads(deployments("predict", *leavers, *rows)[1])
    assert answer["model_version"] == "2"
    misnamed = registry_home / "misnamed.json"
    misnamed.write_text(json.dumps([{"customer": 7, "month": "2026-03", "alter": 50.0, "plan": "basic"}]))
    code, out, err = deployments("predict", *leavers, "-I", misnamed)
    assert (code, out, "Traceback" in err) == (1, "", False)
    assert "Error: The server refused (400): age: is missing. Model is missing inputs ['age']. Note that" in err
    assert "extra inputs: ['alter']." in err
    explained = json.loads(deployments("explain", *leavers, *rows)[1])
    assert (explained["verdict"], explained["summary"]) == (None, "nothing has been judged yet")
    assert deployments("delete", *leavers)[0] == 0
    assert (place.exists(), serving(place), command_line(supervisor)) == (False, [], [])
    code, _, err = deployments("get", *leavers)
    assert (code, "There is no deployment 'leavers'. There are: none." in err) == (1, True)


def test_models_of_a_run_and_behind_an_alias_are_deployed_and_start_again_after_a_reboot(deployments, registry_home):
    port, other, rows = free_port(), free_port(), ("-I", registry_home / "rows.json")
    registry = Registry(Connection(f"sqlite:///{registry_home}/mlflow.db", "", registry_home / "mlartifacts", "x"))
    registry.set_alias("churn", "best", "2")
    count, trained = len(registry.versions("churn")), registry.versions("churn")[0].run_id
    of_run = ("-m", f"runs:/{trained}/churn")
    created = deployments("create", "--name", "a", "-m", "models:/churn@best", *options(*OF_CHURN, f"port={port}"))
    assert created[0] == 0, created
    assert answering(deployments, "a", rows) == "2"
    code, _, err = deployments("update", "--name", "a", "-m", f"runs:/{trained}/model")
    assert (code, f"There is no model 'runs:/{trained}/model'. That run has: runs:/{trained}/churn." in err) == (
        1,
        True,
    )
    code, _, err = deployments("create", "--name", "b", "-m", f"runs:/{trained}/model", *options("model=churn"))
    assert (code, len(registry.versions("churn"))) == (1, count), err

    assert deployments("update", "--name", "a", *of_run, *options(f"port={other}"))[0] == 0
    assert f"url: http://127.0.0.1:{other}" in deployments("get", "--name", "a")[1]
    assert answering(deployments, "a", rows) == "1"
    assert len(registry.versions("churn")) == count  # the same files are the same version
    with pytest.raises(ConnectionRefusedError):
        call(port, "GET", "/ready")

    place = registry_home / "deployments" / "a"
    os.killpg(
        pid_of(deployments("get", "--name", "a")[1]), signal.SIGKILL
    )  # as the machine does that loses its power
    assert "state: stopped" in deployments("get", "--name", "a")[1]
    start = f"mlflow deployments update -t feedback-loop:{registry_home} --name a"
    for verb, more in (("predict", rows), ("create", of_run)):
        code, _, err = deployments(verb, "--name", "a", *more)
        assert (code, start in err, "Traceback" in err) == (1, True, False), err
    assert deployments("update", "--name", "a")[0] == 0
    assert answering(deployments, "a", rows) == "1"
    assert len(serving(place)) == 1


def answering(deployments, name, rows):
    return json.loads(deployments("predict", "--name", name, *rows)[1])["model_version"]


def test_run_local_serves_a_model_of_a_run_in_the_foreground_until_ctrl_c(warm, registry_home, tmp_path):
    registry = Registry(Connection(f"sqlite:///{registry_home}/mlflow.db", "", registry_home / "mlartifacts", "x"))
    port, log, trained = free_port(), tmp_path / "log", registry.versions("churn")[0].run_id
    config = tmp_path / "feedback_loop.toml"
    command = [warm / "mlflow", "deployments", "run-local", "-t", "feedback-loop", "--name", "here"]
    command += ["-m", f"runs:/{trained}/churn", *options(*OF_CHURN, f"port={port}", "model=churn")]
    variables = {"MLFLOW_TRACKING_URI": f"sqlite:///{registry_home}/mlflow.db", "FEEDBACK_LOOP_CONFIG": str(config)}
    with running([str(word) for word in command], log, **variables) as process:
        wait_until(lambda: call(port, "GET", "/ready")[0] == 200, process, log)
        status, body, _ = call(port, "POST", "/invocations", {"dataframe_records": [ROW]})
        assert (status, body["model_version"]) == (200, "1")
        assert end(process, signal.SIGINT) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert [one for one in psutil.process_iter() if {"serve", str(config)} <= set(command_line(one))] == []
    assert not (tmp_path / "deployments").exists()


def test_an_explanation_has_the_verdict_with_its_evidence_and_no_state_of_monitors(tmp_path):
    now = datetime.now(UTC)
    loop = churn_loop(tmp_path, ManualClock(now))
    window = Window(now - timedelta(days=2), now - timedelta(days=1))
    evidence, monitor = {"labels": 500}, {"pairs": [{"monitors": {"change": {"edges": list(range(999))}}}]}
    verdict = Verdict("churn", "1", now, window, State.DEGRADED, "brier .1 → .3", evidence, monitor)
    incident = incidents.record_verdict(loop.store, verdict, ["log"])[1]
    loop.close()
    config = tmp_path / "feedback_loop.toml"
    explained = explanation(config, Deployment("leavers", "churn", str(config), "127.0.0.1", 5001, 1, ""))
    assert (explained["summary"], explained["incident"]["incident_id"]) == ("brier .1 → .3", incident.incident_id)
    assert (explained["verdict"]["evidence"], "monitor" in explained["verdict"]) == (evidence, False)


def serving(place):
    """The servers of a deployment, by their command line."""
    config = str(place.parent.parent / "feedback_loop.toml")
    return [one for one in psutil.process_iter() if {"serve", config} <= set(command_line(one))]


def command_line(process):
    try:
        return process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
    except psutil.NoSuchProcess:
        return []


def ready(port):
    status, body, _ = call(port, "GET", "/ready")
    return status == 200 and body["models"]["churn"]


def pid_of(described):
    return int(dict(line.split(": ", 1) for line in described.splitlines() if ": " in line)["pid"])


class Running:
    """A process that is not our child, for `wait_until`."""

    def __init__(self, process):
        self.args, self._process = process.pid, process

    def poll(self):
        return None if self._process.is_running() else 1


def test_an_option_that_is_none_and_a_model_that_is_not_there_are_told_in_one_line(deployments, registry_home):
    code, out, err = deployments("create", "--name", "a", "-m", "models:/churn/1", "-C", "lable=churned")
    assert (code, out) == (1, "")
    assert "Error: lable: is no option here. There are: " in err
    assert "Traceback" not in err
    code, _, err = deployments("create", "--name", "a", "-m", "models:/nobody/1", "-C", "task=binary")
    assert (code, "nobody" in err, "Traceback" in err) == (1, True, False)
    assert "-C name=value" in deployments("help")[1]
