"""The command line: one module per group of commands, each a thin layer over `FeedbackLoop`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from feedback_loop.cli import (
    adapter,
    alerts,
    approvals,
    backtest,
    backup,
    config,
    dashboard,
    db,
    demo,
    diagnose,
    erase,
    freeze,
    imports,
    incidents,
    init,
    jobs,
    keys,
    models,
    monitor,
    outcomes,
    policy,
    predict,
    rehearse,
    retrain,
    retrainings,
    scheduler,
    serve,
    spool,
    status,
    up,
    webhooks,
)
from feedback_loop.cli.options import Commands
from feedback_loop.cli.output import fail
from feedback_loop.errors import FeedbackLoopError
from feedback_loop.private import OTHERS

app = Commands(
    name="feedback-loop",
    help="Closes the loop a deployed MLflow model leaves open: log, join, judge, retrain, promote, roll back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from feedback_loop import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", hidden=True, help="End when standard input does: of `up`.")
    ] = False,
) -> None:
    """Closes the loop a deployed MLflow model leaves open: log, join, judge, retrain, promote, roll back."""
    del version
    if with_parent:
        up.end_with_parent()


app.command("init")(init.init)
app.command("demo")(demo.demo)
app.command("dashboard")(dashboard.dashboard)
app.command("up")(up.up)
app.command("serve")(serve.serve)
app.command("stage", hidden=True)(serve.stage)
app.command("predict")(predict.predict)
app.add_typer(outcomes.app, name="outcomes")
app.add_typer(outcomes.actions_app, name="actions")
app.add_typer(imports.app, name="import")
app.command("evaluate")(monitor.evaluate)
app.command("report")(monitor.report)
app.command("decide")(monitor.decide)
app.command("diagnose")(diagnose.diagnose)
app.add_typer(policy.app, name="policy")
app.command("backtest")(backtest.backtest)
app.command("rehearse")(rehearse.rehearse)
app.add_typer(incidents.app, name="incidents")
app.add_typer(alerts.app, name="alerts")
app.command("erase")(erase.erase)
app.command("retrain")(retrain.retrain)
app.add_typer(retrainings.app, name="retrainings")
app.add_typer(models.app, name="models")
app.add_typer(adapter.app, name="adapter")
app.add_typer(approvals.app, name="approvals")
app.command("freeze")(freeze.freeze)
app.command("unfreeze")(freeze.unfreeze)
app.command("scheduler")(scheduler.scheduler)
app.add_typer(jobs.app, name="jobs")
app.add_typer(db.app, name="db")
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.add_typer(config.app, name="config")
app.add_typer(spool.app, name="spool")
app.add_typer(keys.app, name="keys")
app.add_typer(webhooks.app, name="webhooks")
app.command("status")(status.status)
app.command("doctor")(status.doctor)


def main() -> None:
    """The console script: exit code 0 done, 1 refused or failed (with cause and cure), 2 bad usage."""
    # Threads of a fit that wait for each other by spinning are the slower the busier the machine is: beside two busy
    # processes on two cores 27 to 168 s instead of 1. Libraries read this when they are loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.umask(OTHERS)  # what commands, and the processes that they start, write holds callers' data
    try:
        app()
    except FeedbackLoopError as error:
        sys.exit(fail(error, as_json="--json" in sys.argv))
