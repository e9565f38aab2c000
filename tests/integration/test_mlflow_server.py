"""A real MLflow server with our application in it, and with webhooks that lead to a server of ours."""

import json
from datetime import UTC, datetime

import pytest

from feedback_loop.clock import ManualClock
from tests.builders import churn_loop, register_churn
from tests.integration.processes import call, free_port, running, server, wait_until

OURS = {"FEEDBACK_LOOP_SERVING__WEBHOOK_SECRET": "known to both", "FEEDBACK_LOOP_SERVING__POLL_ALIAS": "1h"}
LOCAL = {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}


class Place:
    """A folder with a registry of two versions, and MLflow's server before it."""

    def __init__(self, folder, config, port, process, log):
        self.folder, self.config, self.port, self.process, self.log = folder, config, port, process, log

    def get(self, path):
        return call(self.port, "GET", path)


@pytest.fixture(scope="module")
def mlflow_server(warm, tmp_path_factory):
    """It is begun where there is no configuration yet."""
    folder = tmp_path_factory.mktemp("mlflow")
    clock, port, log = ManualClock(datetime.now(UTC)), free_port(), folder / "mlflow.log"
    loop = churn_loop(folder, clock)
    register_churn(loop.registry, clock(), seed=4)
    loop.close()
    config = folder / "feedback_loop.toml"
    text = config.read_text()
    config.unlink()
    command = [warm / "mlflow", "server", "--app-name", "feedback-loop", "--port", port, "--workers", 1]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "FEEDBACK_LOOP_CONFIG": str(config), **LOCAL}
    with running([str(word) for word in command], log, **variables) as process:
        wait_until(lambda: call(port, "GET", "/health")[0] == 200, process, log)
        yield Place(folder, text, port, process, log)


def test_mlflows_server_has_the_pages_and_works_without_a_configuration(mlflow_server):
    config = mlflow_server.folder / "feedback_loop.toml"
    status, body, _ = mlflow_server.get("/feedback-loop/")
    assert (status, b"There is no configuration" in body, b"feedback-loop init" in body) == (503, True, True)
    assert mlflow_server.get("/")[0] == 200
    assert "churn" in json.dumps(mlflow_server.get("/api/2.0/mlflow/registered-models/get?name=churn")[1])
    config.write_text(mlflow_server.config)
    status, body, _ = mlflow_server.get("/feedback-loop/")
    assert (status, b'href="/feedback-loop/models/churn"' in body) == (200, True)
    status, _, headers = mlflow_server.get("/feedback-loop")
    assert (status, headers["location"]) == (307, "/feedback-loop/")


def test_mlflow_tells_a_server_of_ours_that_an_alias_was_moved(mlflow_server, warm, plain, monkeypatch):
    own = mlflow_server.folder / "own.toml"
    own.write_text(mlflow_server.config.replace("sqlite:///mlflow.db", f"http://127.0.0.1:{mlflow_server.port}"))
    for name, value in OURS.items():
        monkeypatch.setenv(name, value)
    with server(own, log=mlflow_server.folder / "server.log", warm=warm) as (port, process):
        code, said = plain("doctor", "--config", own)
        webhook = next(check for check in said if check["name"] == "webhook")
        assert (code, webhook["cure"]) == (1, "Make it: feedback-loop webhooks add URL.")
        code, said = plain("webhooks", "add", f"http://127.0.0.1:{port}", "--config", own)
        assert (code, said["url"], said["cause"]) == (0, f"http://127.0.0.1:{port}/webhooks/mlflow", "")
        assert plain("webhooks", "list", "--config", own)[1][0]["answer"] == "taken"
        body = {"name": "churn", "alias": "champion", "version": "2"}
        assert call(mlflow_server.port, "POST", "/api/2.0/mlflow/registered-models/alias", body)[0] == 200
        wait_until(lambda: call(port, "GET", "/ready")[1]["models"] == {"churn": "2"}, process, mlflow_server.log)
        code, promoted = plain("models", "promote", "churn", "1", "--force", "--config", own)  # MLflow prints no more
        assert (code, promoted["from_version"]) == (0, "2")
        with monkeypatch.context() as other:
            other.setenv("FEEDBACK_LOOP_SERVING__WEBHOOK_SECRET", "another")
            said = plain("webhooks", "add", f"http://127.0.0.1:{port}", "--config", own)[1]
            assert said["cause"].startswith("401")
        assert plain("webhooks", "remove", f"http://127.0.0.1:{port}", "--config", own)[0] == 0
        assert plain("webhooks", "list", "--config", own)[1] == []
