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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say the rows, the trials and about how long it takes; train none.")
    ] = False,
) -> None:
    """Trains candidates on the labelled log, gates the best one and promotes it.

    While the open incident's diagnosis is a feed to repair, or could not be made yet, it asks first.
    """
    loop = shell.loop()
    if dry_run:
        shell.emit(loop.outline_retraining(model), _outlined_words)
        return
    held = "" if yes else loop.held_by_diagnosis(model)
    if held and not shell.as_json and sys.stdin.isatty():
        yes = typer.confirm(f"{held}\nSearch all the same?")
    with loop.runner.leased(model):
        loop.reconcile(model)
        result = loop.retrain(model, promotes=promote, despite_diagnosis=yes)
    shell.emit(result, _words)


def gate_words(gate: dict[str, Any]) -> str:
    """One gate's answer, a line."""
    return f"gate {gate['name']}: {'passed' if gate['passed'] else 'FAILED'}. {gate['summary']}"


def trial_table(made: list[dict[str, Any]]) -> str:
    """The trials of a search as a table, the best first."""
    best_first = sorted(made, key=lambda trial: (trial["loss"] is None, trial["loss"] or 0.0))
    trials = [
        {
            "recipe": trial["recipe"],
            "window": trial["name"],
            "rows": f"{trial['rows']:,}",
            "loss": "–" if trial["loss"] is None else f"{trial['loss']:.4f}",
            "seconds": "–" if trial["seconds"] is None else f"{trial['seconds']:.1f}",
            "": "; ".join(filter(None, ("chosen" if trial["chosen"] else trial["cause"], trial["why"]))),
        }
        for trial in best_first
    ]
    return table(trials, "")


def _words(result: dict[str, Any]) -> str:
    candidate = f" (version {result['candidate']})" if result["candidate"] else ""
    head = f"{result['state']}{candidate}: {result['summary']}"
    gates = [gate_words(gate) for gate in result["gates"]]
    return "\n".join([head, trial_table(result["trials"]), *gates]).rstrip()


def _outlined_words(outlined: dict[str, Any]) -> str:
    trials = [
        {
            "recipe": trial["recipe"],
            "window": trial["window"],
            "rows": f"{trial['rows']:,}",
            "seconds": "–" if trial["seconds"] is None else f"{trial['seconds']:.1f}",
            "": trial["why"] if trial["seconds"] is not None else "not made: too few rows, or those of another",
        }
        for trial in outlined["trials"]
    ]
    head = (
        f"{outlined['rows']:,} rows to learn from, and {outlined['held_out']:,} from {outlined['held_out_from']} on "
        f"to compare on: about {outlined['seconds']:.0f} s in {outlined['processes']} process(es)."
    )
    return "\n".join([" ".join([head, *outlined["notes"]]), table(trials, "")]).rstrip()
