"""A turn of the loop for each model, as a Dagster job with its schedule.

Feedback-loop is in an environment of its own: the op starts its command line. Variables: FEEDBACK_LOOP_CONFIG
(the configuration's path), LOOP_MODELS (names with commas) and, where it is not on the PATH, LOOP_PROGRAM.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator

import dagster as dg

MODELS = os.environ.get("LOOP_MODELS", "churn").split(",")
WAITS = {0, 3, 4}  # ok, degraded, approval wanted: the turn was made, and alerts say the rest


@dg.op(out=dg.DynamicOut(str))
def models() -> Iterator[dg.DynamicOutput]:
    """Each model's name."""
    for model in MODELS:
        yield dg.DynamicOutput(model, mapping_key=re.sub(r"\W", "_", model, flags=re.ASCII))


@dg.op(retry_policy=dg.RetryPolicy(max_retries=2, delay=60))
def turn(context: dg.OpExecutionContext, model: str) -> str:
    """One turn; its state and what is open are metadata of the output."""
    program = os.environ.get("LOOP_PROGRAM", "feedback-loop")
    command = [program, "scheduler", "--once", "--model", model, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode not in WAITS:
        raise dg.Failure(f"The turn of {model} failed.", metadata={"answer": done.stdout})
    result = json.loads(done.stdout)["models"][model]
    context.add_output_metadata({name: str(result[name]) for name in ("state", "verdict", "incident", "approval")})
    return result["state"]


@dg.job
def feedback_loop() -> None:
    """A turn of each model."""
    models().map(turn)


defs = dg.Definitions(
    jobs=[feedback_loop], schedules=[dg.ScheduleDefinition(job=feedback_loop, cron_schedule="*/15 * * * *")]
)

if __name__ == "__main__":
    raise SystemExit(not feedback_loop.execute_in_process().success)
