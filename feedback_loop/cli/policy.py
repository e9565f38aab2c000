"""`feedback-loop policy`: what a policy should say."""

from __future__ import annotations

from dataclasses import asdict

import typer

from feedback_loop.cli.output import ConfigOption, JsonOption, ModelArgument, emit, open_loop

app = typer.Typer(help="What counts as worse, and what may follow from it.", no_args_is_help=True)


@app.callback()
def policy() -> None:
    """What counts as worse, and what may follow from it."""


@app.command("suggest")
def suggest(model: ModelArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Suggests maturity, units, cycle, tolerance and reference from the model's own history, each with its reason.

    What is printed is ready for feedback_loop.toml. Nothing is changed.
    """
    from feedback_loop.decisions import policy_toml

    suggestions = open_loop(config, as_json=as_json).suggest_policy(model)
    plain = {"model": model, "suggestions": [asdict(each) for each in suggestions]}
    emit(plain, as_json=as_json, words=lambda _: policy_toml(model, suggestions))
