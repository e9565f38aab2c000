"""`feedback-loop demo`: the loop closes on real flights."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from feedback_loop.cli.options import Printer
from feedback_loop.cli.output import configure_logging


def demo(
    printer: Printer,
    months: Annotated[int, typer.Option(min=1, max=11, help="How many months to play; 11 are the year.")] = 2,
    begin: Annotated[
        datetime,
        typer.Option("--from", formats=["%Y-%m-%d"], help="The first day to play; what is before it is known."),
    ] = datetime(2013, 2, 1),  # noqa: DTZ001 (a day)
    fast: Annotated[bool, typer.Option("--fast", help="Fewer flights and reports, for the impatient.")] = False,
    seed: Annotated[int, typer.Option(help="What is random depends on this only.")] = 0,
    folder: Annotated[Path, typer.Option(help="Where everything is left; an earlier demo there is replaced.")] = Path(
        "demo"
    ),
) -> None:
    """Plays 2013's flights out of New York: predicts, learns what happened, judges, retrains, promotes."""
    import sys

    from feedback_loop.demo import DemoOptions, Screen, closing_words, fresh_folder, play

    options = DemoOptions(folder=folder, months=months, fast=fast, seed=seed, begin=f"{begin:%Y-%m-%d}")
    with (fresh_folder(options) / "log.jsonl").open("a") as log:
        configure_logging(log)
        result = play(options, Screen(live=not printer.as_json and sys.stderr.isatty()))
    printer.emit(result, lambda result: closing_words(result, folder))
