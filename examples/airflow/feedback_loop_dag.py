"""A turn of the loop for each model, as an Airflow DAG.

Feedback-loop is in an environment of its own: the task starts its command line. Variables: FEEDBACK_LOOP_CONFIG
(the configuration's path), LOOP_MODELS (names with commas) and, where it is not on the PATH, LOOP_PROGRAM.
"""

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, task

MODELS = os.environ.get("LOOP_MODELS", "churn").split(",")
WAITS = {0, 3, 4}  # ok, degraded, approval wanted: the turn was made, and alerts say the rest


@dag(schedule="*/15 * * * *", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, max_active_runs=1)
def feedback_loop() -> None:
    """A task for each model."""

    @task(retries=2, retry_delay=timedelta(minutes=1))
    def turn(model: str) -> dict:
        """One turn; its state and what is open are the task's XCom."""
        program = os.environ.get("LOOP_PROGRAM", "feedback-loop")
        command = [program, "scheduler", "--once", "--model", model, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
        if done.returncode not in WAITS:
            raise RuntimeError(done.stdout)
        result = json.loads(done.stdout)["models"][model]
        return {name: result[name] for name in ("state", "verdict", "incident", "approval")}

    turn.expand(model=MODELS)


loop = feedback_loop()

if __name__ == "__main__":
    run = loop.test()
    raise SystemExit(run.state != "success")
