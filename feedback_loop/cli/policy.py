"""`feedback-loop policy`: what a policy should say."""

from __future__ import annotations

from dataclasses import asdict

from feedback_loop.cli.output import Commands, ModelArgument, Shell

app = Commands(help="What counts as worse, and what may follow from it.", no_args_is_help=True)


@app.callback()
def policy() -> None:
    """What counts as worse, and what may follow from it."""


@app.command("suggest")
def suggest(shell: Shell, model: ModelArgument) -> None:
    """Suggests maturity, units, cycle, tolerance and reference from the model's own history, each with its reason.

    What is printed is ready for feedback_loop.toml. Nothing is changed.
    """
    from feedback_loop.decisions import policy_toml

    suggestions = shell.loop().suggest_policy(model)
    plain = {"model": model, "suggestions": [asdict(each) for each in suggestions]}
    shell.emit(plain, lambda _: policy_toml(model, suggestions))
