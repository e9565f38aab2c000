"""`feedback-loop outcomes`: what really happened, brought in."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from feedback_loop.cli.output import ConfigOption, JsonOption, ModelArgument, emit, open_loop

app = typer.Typer(help="Outcomes: what really happened.", no_args_is_help=True)


class OnErrorChoice(StrEnum):
    """What a bad row does."""

    REFUSE = "refuse"
    SKIP = "skip"


@app.callback()
def _group() -> None:
    """Outcomes: what really happened."""


@app.command("load")
def load(
    model: ModelArgument,
    file: Annotated[Path, typer.Argument(help="Parquet or CSV: prediction_id or the key, the label, occurred_at.")],
    on_error: Annotated[
        OnErrorChoice, typer.Option(help="What a bad row does: all are refused, or it is left out.")
    ] = OnErrorChoice.REFUSE,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Takes a file of outcomes in. Loaded twice, it changes nothing; another value is a correction."""
    from feedback_loop.outcomes import read_outcomes

    table, is_text = read_outcomes(file)
    loop = open_loop(config, as_json=as_json)
    result = loop.record_outcomes(
        model, table, source=file.name, on_error="skip" if on_error is OnErrorChoice.SKIP else "refuse", text=is_text
    )
    if not as_json:
        for problem in result.skipped:
            print(f"left out: {problem}", file=sys.stderr)
    plain = {**asdict(result.counts), "skipped": [asdict(problem) for problem in result.skipped]}
    emit(plain, as_json=as_json, words=_words)


def _words(result: dict[str, Any]) -> str:
    skipped = f", {len(result['skipped']):,} left out" if result["skipped"] else ""
    return (
        f"{result['received']:,} outcomes: {result['new']:,} new, {result['corrected']:,} corrected, "
        f"{result['unchanged']:,} unchanged, {result['unmatched']:,} without a prediction yet{skipped}."
    )
