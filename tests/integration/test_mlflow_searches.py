"""A search that was begun on the pages in MLflow's server, and whose server ends before it does."""

import re
import signal
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest

from feedback_loop.clock import ManualClock, Window
from feedback_loop.store import incidents
from feedback_loop.store.conclusions import State, Verdict
from feedback_loop.store.leases import holder_of
from feedback_loop.store.ledger import load_runs
from tests.builders import churn_loop, play_days
from tests.integration.processes import call, end, free_port, kill_all, running, wait_until

FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def degraded(tmp_path):
    """A loop with an incident and rows to learn from."""
    now = datetime.now(UTC).replace(microsecond=0)
    clock = ManualClock(now - timedelta(days=13))
    loop = churn_loop(tmp_path, clock)
    play_days(loop, clock, 12, per_day=100)
    window = Window(clock() - timedelta(days=1), clock())
    verdict = Verdict("churn", "1", clock(), window, State.DEGRADED, "worse", {"acts": [], "loss": "brier"}, {})
    incidents.record_verdict(loop.store, verdict, ["log"])
    yield loop
    loop.close()


def test_nothing_of_a_search_stays_running_whose_server_was_ended_or_killed(warm, degraded, tmp_path):
    loop, port, log = degraded, free_port(), tmp_path / "mlflow.log"
    command = [warm / "mlflow", "server", "--app-name", "feedback-loop", "--port", port, "--workers", 1]
    command = [str(word) for word in [*command, "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]]
    variables = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "FEEDBACK_LOOP_CONFIG": str(tmp_path / "feedback_loop.toml"),
        "FEEDBACK_LOOP_SCHEDULER__LEASE": "5s",
        "FEEDBACK_LOOP_MODELS__CHURN__RETRAINING__TRAINER": '["sleep", "120"]',
    }
    with running(command, log, **variables) as process:
        wait_until(lambda: call(port, "GET", "/health")[0] == 200, process, log)
        begin_search(port)
        wait_until(lambda: runs_that_run(loop), process, log)
        end(process, signal.SIGTERM)
    assert (runs_that_run(loop), state_of_search(loop), holder_of(loop.store, "model:churn")) == (
        [],
        "abandoned",
        None,
    )

    with running(command, log, **variables) as process:
        wait_until(lambda: call(port, "GET", "/health")[0] == 200, process, log)
        begin_search(port)
        wait_until(lambda: runs_that_run(loop), process, log)
        kill_all(process, log)
    assert (len(runs_that_run(loop)) > 0, state_of_search(loop)) == (True, "running")

    with running(command, log, **variables) as process:
        wait_until(lambda: call(port, "GET", "/feedback-loop/")[0] == 200, process, log)
        wait_until(lambda: (runs_that_run(loop), state_of_search(loop)) == ([], "abandoned"), process, log)


def begin_search(port, prefix="/feedback-loop"):
    """Presses the button on the incident's page."""
    page = call(port, "GET", f"{prefix}/incidents/1")[1].decode()
    csrf = re.search(r'name="csrf" value="([^"]+)"', page)[1]
    place, fields = f"{prefix}/incidents/1/retrain", urlencode({"csrf": csrf, "sure": "yes", "despite": "yes"})
    cookie = call(port, "GET", f"{prefix}/incidents/1")[2].get("set-cookie", "").partition(";")[0]
    status, body, _ = call(port, "POST", place, fields.encode(), {**FORM, "cookie": cookie})
    assert status == 303, body


def runs_that_run(loop):
    connection = loop.registry._mlflow
    return list(connection.client.search_runs([connection.experiment_id], "attributes.status = 'RUNNING'"))


def state_of_search(loop):
    return load_runs(loop.store, "churn", newest=1, job="retrain by hand")[0].state
