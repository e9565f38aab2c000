"""`feedback-loop retrain`: a search for a better version, by hand."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from feedback_loop.cli.options import ModelArgument, Shell
from feedback_loop.cli.output import table


def retrain(
    shell: Shell,
    model: ModelArgument,
    promote: Annotated[bool, typer.Option(help="Make a candidate that passes the gate the champion.")] = True,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Search although the diagnosis speaks against it.")
    ] = False,
) -> None:
    """Trains candidates on the labelled log, gates the best one and promotes it.

    While the open incident's diagnosis is a feed to repair, or could not be made yet, it asks first.
    """
    loop = shell.loop()
    held = "" if yes else loop.held_by_diagnosis(model)
    if held and not shell.as_json and sys.stdin.isatty():
        yes = typer.confirm(f"{held}\nSearch all the same?")
    with loop.runner.leased(model):
        loop.reconcile(model)
        result = loop.retrain(model, promotes=promote, despite_diagnosis=yes)
    shell.emit(result, _words)


def _words(result: dict[str, Any]) -> str:
    trials = [
        {
            "window": trial["name"],
            "rows": f"{trial['rows']:,}",
            "loss": "–" if trial["loss"] is None else f"{trial['loss']:.4f}",
            "": "chosen" if trial["chosen"] else trial["cause"] or "",
        }
        for trial in result["trials"]
    ]
    candidate = f" (version {result['candidate']})" if result["candidate"] else ""
    head = f"{result['state']}{candidate}: {result['summary']}"
    return "\n".join([head, table(trials, "")]).rstrip()
