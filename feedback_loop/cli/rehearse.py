"""`feedback-loop rehearse`: what the loop would have done with a history, in a folder of its own."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from feedback_loop.cli.options import FromOption, ModelArgument, Shell, ToOption, duration_option
from feedback_loop.cli.output import configure_logging, table


def rehearse(
    shell: Shell,
    model: ModelArgument,
    predictions: Annotated[
        Path, typer.Option(help="Parquet or CSV: features, key, prediction and/or probabilities, predicted_at.")
    ],
    outcomes: Annotated[
        Path, typer.Option(help="Parquet or CSV: key or prediction_id, the label, recorded_at or occurred_at.")
    ],
    start: FromOption = None,
    end: ToOption = None,
    folder: Annotated[
        Path, typer.Option(help="Where it is played and left; an earlier rehearsal there is replaced.")
    ] = Path("rehearsal"),
    turn: Annotated[
        timedelta | None,
        duration_option(help="How far the clock is moved at a time, such as 1h; default: the window, at most a day."),
    ] = None,
    store: Annotated[
        str, typer.Option(help="The URL of an empty database to play it in; default: SQLite in the folder.")
    ] = "",
) -> None:
    """Plays the loop over a history: alarms, diagnoses, retrainings, promotions, losses. Nothing of yours changes."""
    from feedback_loop.rehearsal import closing_words, fresh_folder, load_history
    from feedback_loop.rehearsal import rehearse as play

    loop = shell.loop()
    history = load_history(loop, model, predictions, outcomes, start, end)
    folder = fresh_folder(folder)  # only now: an earlier rehearsal there is not lost to files that can't be played
    with (folder / "log.jsonl").open("a") as log:
        configure_logging(log)  # what the loop logs of simulated days is no news
        result = play(loop, history, folder, turn=turn, store=store)
    shell.emit(result, lambda result: closing_words(result, _strategies(result)))


def _strategies(result: dict[str, Any]) -> str:
    return table([_row(strategy, result["loss"]) for strategy in result["strategies"]], "")


def _row(strategy: dict[str, Any], loss: str) -> dict[str, Any]:
    change = strategy[f"{loss}_change"]
    others = {
        name.replace("_", " "): f"{value:.4f}"
        for name, value in strategy.items()
        if isinstance(value, float) and name not in (loss, f"{loss}_change")
    }
    return {
        "": strategy["strategy"],
        loss.replace("_", " "): f"{strategy[loss]:.4f}",
        "change": f"{change:+.1%}" if change else "–",
        **others,
        "retrainings": strategy["retrainings"],
        "promotions": strategy["promotions"],
    }
