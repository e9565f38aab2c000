"""The examples of orchestrators, run by their own test modes, each in an environment of its own: `make compat`."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.store.ledger import load_runs
from tests.builders import churn_loop

ROOT = Path(__file__).parents[2]
UV = ROOT / ".tools" / "bin" / "uv"

EXAMPLES = {
    "apache-airflow==3.3.2": "airflow/feedback_loop_dag.py",  # its dag.test()
    "dagster==1.13.29": "dagster/feedback_loop_job.py",  # its execute_in_process()
    "prefect==3.9.1": "prefect/feedback_loop_flow.py",  # the flow, with a server of its own for as long
}

QUIET = {
    "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "examples" / "airflow"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    "DO_NOT_TRACK": "1",
}


def installed(requirement):
    """The Python of an environment with it."""
    place = ROOT / "build" / "compat" / requirement.replace("==", "-")
    subprocess.run([UV, "venv", "--quiet", "--allow-existing", "--python", sys.executable, place], check=True)
    python = place / "bin" / "python"
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, requirement], check=True)
    return python


@pytest.mark.parametrize("requirement", EXAMPLES)
def test_a_turn_of_the_loop_is_made_by(requirement, tmp_path):
    loop = churn_loop(tmp_path, ManualClock(datetime.now(UTC)))
    places = {f"{name}_HOME": str(tmp_path / "home") for name in ("AIRFLOW", "DAGSTER", "PREFECT")}
    (tmp_path / "home").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "FEEDBACK_LOOP_CONFIG": str(tmp_path / "feedback_loop.toml"),
        "LOOP_PROGRAM": str(ROOT / ".venv" / "bin" / "feedback-loop"),
        "LOOP_MODELS": "churn",
        **places,
        **QUIET,
    }
    python = installed(requirement)
    if "airflow" in requirement:
        subprocess.run(
            [python.with_name("airflow"), "db", "migrate"], check=True, env=environment, capture_output=True
        )
    command = [python, ROOT / "examples" / EXAMPLES[requirement]]
    done = subprocess.run(command, check=False, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs = load_runs(loop.store, "churn")
    assert len(runs) == 15
    assert {run.state for run in runs} == {"succeeded"}
    loop.close()
