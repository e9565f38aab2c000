"""A turn of the loop for each model, as a Prefect flow.

Feedback-loop is in an environment of its own: the task starts its command line. Variables: FEEDBACK_LOOP_CONFIG
(the configuration's path), LOOP_MODELS (names with commas) and, where it is not on the PATH, LOOP_PROGRAM.
"""

import json
import os
import subprocess
import sys

from prefect import flow, task

MODELS = os.environ.get("LOOP_MODELS", "churn").split(",")
WAITS = {0, 3, 4}  # ok, degraded, approval wanted: the turn was made, and alerts say the rest


@task(retries=2, retry_delay_seconds=60)
def turn(model: str) -> dict:
    """One turn: its state, and what is open."""
    program = os.environ.get("LOOP_PROGRAM", "feedback-loop")
    command = [program, "scheduler", "--once", "--model", model, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode not in WAITS:
        raise RuntimeError(done.stdout)
    result = json.loads(done.stdout)["models"][model]
    return {name: result[name] for name in ("state", "verdict", "incident", "approval")}


@flow(name="feedback-loop")
def feedback_loop(models: list[str] = MODELS) -> list[dict]:
    """A turn of each model."""
    return [future.result() for future in turn.map(models)]


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        feedback_loop.serve(cron="*/15 * * * *")
    else:
        print(json.dumps(feedback_loop()))
