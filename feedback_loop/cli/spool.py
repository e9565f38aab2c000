"""`feedback-loop spool`: what the servers made durable on their own disks, and how it gets into the store."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from feedback_loop.cli.options import Shell, group
from feedback_loop.cli.output import configure_logging, table

app = group("The servers' spools: predictions on their way to the store.")


@app.command("status")
def status(shell: Shell) -> None:
    """Shows what became of the rows of every server; without the store, of those on this host."""
    from feedback_loop.config import load_settings
    from feedback_loop.errors import Unavailable
    from feedback_loop.loop import FeedbackLoop
    from feedback_loop.views.status import spool_status

    configure_logging()
    loop = FeedbackLoop(load_settings(shell.config))
    try:
        state = {"store": loop.store.name, **spool_status(loop, loop.accounts())}
    except Unavailable as error:
        state = {"store": f"away: {error.cause}", **spool_status(loop, loop.predictions.local_accounts())}
    shell.emit(state, _words)


@app.command("drain")
def drain(
    shell: Shell,
    rejected: Annotated[bool, typer.Option("--rejected", help="Also what the store refused before.")] = False,
) -> None:
    """Moves what waits in this host's spools to the store, whoever wrote it and whether they live."""
    shell.emit(shell.loop().forward(rejected=rejected), _drained)


def _words(state: dict[str, Any]) -> str:
    counts = ("answered", "spooled", "stored", "waiting", "rejected", "refused", "dropped", "unsampled")
    rows = [{name: row[name] for name in ("spool", "model", "state", *counts)} for row in state["processes"]]
    lines = [f"store {state['store']}", table(rows, "No server has spooled anything yet.")]
    return "\n".join([*lines, *(f"DIFFERENCE {difference}" for difference in state["differences"])])


def _drained(done: dict[str, Any]) -> str:
    words = f"{done['spools']} spools: {done['stored']:,} rows stored, {done['rejected']:,} rejected"
    damaged = f"; damaged: {', '.join(done['damaged'])}" if done["damaged"] else ""
    return f"{words}, {len(done['ended'])} ended{damaged}."
