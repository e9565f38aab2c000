"""`feedback-loop policy`: what a policy should say."""

from __future__ import annotations

from feedback_loop.cli.options import ModelArgument, Shell, group

app = group("What counts as worse, and what may follow from it.")


@app.command("suggest")
def suggest(shell: Shell, model: ModelArgument) -> None:
    """Suggests maturity, units, cycle, tolerance, reference and an adapter from the model's log, with reasons.

    What is printed is ready for feedback_loop.toml. Nothing is changed.
    """
    from feedback_loop.decisions import policy_toml

    suggestions = shell.loop().suggest_policy(model)
    result = {"model": model, "suggestions": suggestions}
    shell.emit(result, lambda _: policy_toml(model, suggestions))
