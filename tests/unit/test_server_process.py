"""A deployment's folder and processes, without a server."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import mlflow.deployments
import pytest

from feedback_loop.errors import Refused
from feedback_loop.mlflow_plugin import deployments, server_process
from feedback_loop.mlflow_plugin.calling import Server
from feedback_loop.mlflow_plugin.server_process import Deployment
from tests.integration.test_connections import certify


def test_of_two_that_make_a_deployment_at_once_one_has_it_and_the_other_ends_nothing_of_it(tmp_path, monkeypatch):
    """The other one finds the name taken only after it has looked: what the first has begun must stay."""
    client = deployments.FeedbackLoopDeployments(f"feedback-loop:{tmp_path}")
    refusals = []

    def prepared(config, name, wish):
        with pytest.raises(deployments.DeploymentError, match="There is a deployment 'a' already") as refused:
            client.create_deployment("a", "models:/churn/1")
        refusals.append(refused)
        assert (tmp_path / "deployments" / "a").is_dir()
        raise Refused("Enough.")

    monkeypatch.setattr(deployments, "_prepared", prepared)
    with pytest.raises(deployments.DeploymentError, match="Enough"):
        client.create_deployment("a", "models:/churn/1")
    assert len(refusals) == 1
    assert not (tmp_path / "deployments").exists()


def test_run_local_is_called_as_mlflow_calls_it():
    with pytest.raises(deployments.DeploymentError, match="The flavor is not chosen here: 'keras'"):
        mlflow.deployments.run_local("feedback-loop", "a", "models:/churn", "keras", {"port": 5977})


ENDS_SLOWLY = """
import os, signal, sys, time
def end(*_):
    time.sleep(0.6)
    os.write(1, b"answered what was in flight\\n")  # print refuses to while it is printing
    sys.exit(7)
signal.signal(signal.SIGINT, end)
os.write(1, b"ready\\n")
time.sleep(60)
"""


@pytest.mark.parametrize("reaches", [server_process._signal_group, os.kill], ids=["both", "its parent alone"])
def test_a_server_in_the_foreground_has_its_time_to_end_after_ctrl_c(reaches):
    caller = "import sys; from feedback_loop.mlflow_plugin.server_process import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", caller, sys.executable, "-c", ENDS_SLOWLY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "ready\n"
        reaches(process.pid, signal.SIGINT)  # a terminal sends it to both
        assert process.stdout.read() == "answered what was in flight\n"
    assert process.returncode == 7


class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"ready": True, "models": {"churn": "3"}}).encode())

    def log_message(self, *_):
        """Is quiet."""


def test_a_server_is_known_by_its_certificate_whatever_host_that_names(tmp_path):
    (own, key), (other, _) = (certify(tmp_path, name, "127.0.0.2") for name in ("own", "other"))
    server = HTTPServer(("127.0.0.1", 0), Ready)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # who does not trust it goes
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        url = f"https://127.0.0.1:{server.server_port}"
        assert Server("churn", url, own).version() == "3"
        assert Server("churn", url, other).version() is None
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_address_where_another_listens_or_that_nobody_knows_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for port, cause in ((taken.getsockname()[1], "in use"), (0, "serving.port is 0")):
            wanted = Deployment("a", "churn", "feedback_loop.toml", "127.0.0.1", port, 1, "")
            with pytest.raises(Refused, match=cause):
                deployments._check_address(wanted)


def test_an_option_that_can_not_be_is_refused_before_anything_is_done(tmp_path):
    client = deployments.FeedbackLoopDeployments(f"feedback-loop:{tmp_path}")
    for option, cause in (({"port": 70000}, "no number from 1 to 65535"), ({"timeout": "soon"}, "no number")):
        with pytest.raises(deployments.DeploymentError, match=cause):
            client.create_deployment("a", "models:/churn/1", config=option)
    assert list(tmp_path.iterdir()) == []
