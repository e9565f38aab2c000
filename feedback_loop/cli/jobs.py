"""`feedback-loop jobs`: how the runs of the loop's jobs ended, and the end of one that runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from feedback_loop.cli.options import ByOption, Shell, group
from feedback_loop.cli.output import table

app = group("Jobs: how their runs ended, and the end of one that runs.")


@app.command("list")
def list_jobs(
    shell: Shell,
    model: Annotated[str | None, typer.Argument(help="Only this model's.")] = None,
    newest: Annotated[int, typer.Option(help="So many of the newest.", min=1)] = 40,
) -> None:
    """Lists the newest runs of jobs."""
    shell.emit(
        shell.loop().jobs.list(model, newest=newest), lambda rows: table(list(map(_row, rows)), "None has run yet.")
    )


@app.command("cancel")
def cancel(
    shell: Shell,
    run: Annotated[int, typer.Argument(metavar="RUN", help="The run's number: see `jobs list` or `status`.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
    by: ByOption = None,
) -> None:
    """Asks a job that runs to end: it does so at its next access to the store. The turn's other jobs go on."""
    shell.emit(
        shell.loop().jobs.cancel(run, reason=reason, by=by),
        lambda row: "Run {run_id} ({job} of {model}) is asked to end; it does so at its next step.".format(**row),
    )


def _row(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": run["run_id"],
        "model": run["model"],
        "job": run["job"],
        "due": run["scheduled_at"],
        "started": run["started_at"],
        "finished": run["finished_at"] or "–",
        "state": run["state"] if run["state"] != "running" or not run["cancel_asked_at"] else "asked to end",
        "": run["cause"] or "",
    }
