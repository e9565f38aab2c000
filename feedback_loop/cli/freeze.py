"""`feedback-loop freeze` and `unfreeze`: nothing changes by itself, nor by hand, until somebody lifts it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from feedback_loop.cli.options import ByOption, Shell

WhichModel = Annotated[str | None, typer.Argument(help="Only this model; default: all of them.")]


def freeze(
    shell: Shell,
    reason: Annotated[str, typer.Option(help="Why; it is kept, and shown by status.")],
    model: WhichModel = None,
    by: ByOption = None,
) -> None:
    """Stops retraining, promotion, rollback and adapters until `unfreeze`. Serving and logging go on."""
    shell.emit(shell.loop().freeze(model, reason=reason, by=by), _words)


def unfreeze(
    shell: Shell,
    model: WhichModel = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept.")] = "by hand",
    by: ByOption = None,
) -> None:
    """Lifts a freeze: that of a model, or that of all."""
    shell.emit(shell.loop().unfreeze(model, reason=reason, by=by), _words)


def _words(freeze: dict[str, Any]) -> str:
    what = freeze["model"] or "everything"
    if freeze["lifted_at"]:
        return f"The freeze of {what} is lifted by {freeze['lifted_by']}: {freeze['lifted_because']}."
    return f"The freeze of {what} stands, by {freeze['frozen_by']}: {freeze['reason']}."
