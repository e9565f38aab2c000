"""`feedback-loop scheduler`: the loop, turning by itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from feedback_loop.cli.output import ConfigOption, JsonOption, emit, open_loop, table


def scheduler(
    once: Annotated[bool, typer.Option("--once", help="Run every model's cycle now, once, and end.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Runs every model's jobs by its schedule until it is stopped; missed runs are caught up once."""
    from feedback_loop.jobs import make_scheduler, run_cycle

    loop = open_loop(config, as_json=as_json)
    if not once:
        make_scheduler(loop).serve()
        return
    rows = [{"model": model, **asdict(each)} for model in loop.settings.models for each in run_cycle(loop, model)]
    emit(rows, as_json=as_json, words=_words)
    if any(row["state"] == "failed" for row in rows):
        raise typer.Exit(1)


def _words(rows: list[dict[str, Any]]) -> str:
    short = [
        {"model": row["model"], "job": row["job"], "state": row["state"], "": row["cause"] or row["result"] or ""}
        for row in rows
    ]
    return table(short, "No model is configured.")
