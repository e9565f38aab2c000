"""`feedback-loop retrain`: a search for a better version, by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from feedback_loop.cli.output import ConfigOption, JsonOption, ModelArgument, emit, open_loop, table


def retrain(
    model: ModelArgument,
    promote: Annotated[bool, typer.Option(help="Make a candidate that passes the gate the champion.")] = True,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trains candidates on the labelled log, gates the best one and promotes it."""
    loop = open_loop(config, as_json=as_json)
    with loop.runner.leased(model):
        loop.reconcile(model)
        result = loop.retrain(model, promotes=promote)
    emit(asdict(result), as_json=as_json, words=_words)


def _words(result: dict[str, Any]) -> str:
    trials = [
        {
            "window": each["name"],
            "rows": f"{each['rows']:,}",
            "loss": "–" if each["loss"] is None else f"{each['loss']:.4f}",
            "": "chosen" if each["chosen"] else each["cause"] or "",
        }
        for each in result["trials"]
    ]
    candidate = f" (version {result['candidate']})" if result["candidate"] else ""
    head = f"{result['state']}{candidate}: {result['summary']}"
    return "\n".join([head, table(trials, "")]).rstrip()
