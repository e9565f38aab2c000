"""`feedback-loop scheduler`: the loop, turning by itself."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feedback_loop.cli.options import Shell
from feedback_loop.cli.output import table
from feedback_loop.errors import Refused

if TYPE_CHECKING:
    from feedback_loop.loop import FeedbackLoop


def scheduler(
    shell: Shell,
    once: Annotated[bool, typer.Option("--once", help="Run every model's cycle now, once, and end.")] = False,
) -> None:
    """Runs every model's jobs by its schedule until it is stopped; missed runs are caught up once."""
    from feedback_loop.cycle import make_scheduler
    from feedback_loop.scheduling import Outcome

    loop = shell.loop()
    if not once:
        if not make_scheduler(loop).serve():
            os._exit(0)  # a job that does not end would keep the process from ending
        return
    rows = [row for model in loop.settings.models for row in _cycle(loop, model)]
    rows.append({"model": "", **asdict(Outcome("alerts", "succeeded", asdict(loop.deliver_alerts())))})
    shell.emit(rows, _words)
    if any(row["state"] in ("failed", "refused") for row in rows):
        raise typer.Exit(1)


def _cycle(loop: FeedbackLoop, model: str) -> list[dict[str, Any]]:
    """The outcomes of a model's cycle; that another run is at work on it keeps no other model waiting."""
    from feedback_loop.cycle import run_cycle

    try:
        return [{"model": model, **asdict(outcome)} for outcome in run_cycle(loop, model)]
    except Refused as error:
        return [{"model": model, "job": "cycle", "state": "refused", "result": None, "cause": str(error)}]


def in_words(value: Any) -> str:
    """What a job returned, without what is empty or none of it."""
    if isinstance(value, dict):
        named = {name.replace("_", " "): inner for name, inner in value.items() if inner or inner is False}
        return ", ".join(_named(name, inner) for name, inner in named.items() if in_words(inner))
    if isinstance(value, list | tuple):
        return "; ".join(map(in_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _named(name: str, value: Any) -> str:
    return f"{name} ({in_words(value)})" if isinstance(value, dict) else f"{name}: {in_words(value)}"


def _words(rows: list[dict[str, Any]]) -> str:
    short = [
        {"model": row["model"], "job": row["job"], "state": row["state"], "": row["cause"] or in_words(row["result"])}
        for row in rows
    ]
    return table(short, "No model is configured.")
