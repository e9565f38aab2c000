"""`feedback-loop adapter`: what answers have learned from outcomes between retrainings."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from feedback_loop.cli.options import ByOption, ModelArgument, Shell, group
from feedback_loop.cli.output import table

app = group("The adapter of a model: what its answers have learned from outcomes between retrainings.")

ReasonOption = Annotated[str, typer.Option(help="Why; it is kept in the history.")]


@app.command("history")
def history(
    shell: Shell,
    model: ModelArgument,
    newest: Annotated[int, typer.Option(help="So many revisions.", min=1)] = 30,
) -> None:
    """Lists revisions, newest first: what each was fed, what it made of it, and what holds it."""
    none = f"{model} has no adapter."
    shell.emit(shell.loop().adapter.history(model, newest), lambda rows: table(list(map(_row, rows)), none))


@app.command("replay")
def replay(shell: Shell, model: ModelArgument) -> None:
    """Makes each revision again from the log; exit code 1 where one comes out differently."""
    replayed = shell.loop().adapter.replay(model)
    shell.emit(replayed, _replay_words)
    if replayed.differs is not None:
        raise typer.Exit(1)


@app.command("hold")
def hold(shell: Shell, model: ModelArgument, reason: ReasonOption, by: ByOption = None) -> None:
    """Has it learn nothing until it is released; what it has learned goes on being served."""
    shell.emit(shell.loop().adapter.hold(model, reason=reason, by=by), _words("is held"))


@app.command("release")
def release(shell: Shell, model: ModelArgument, reason: ReasonOption, by: ByOption = None) -> None:
    """Ends what holds it, guards included: it learns on from what it holds."""
    shell.emit(shell.loop().adapter.release(model, reason=reason, by=by), _words("learns on"))


@app.command("reset")
def reset(shell: Shell, model: ModelArgument, reason: ReasonOption, by: ByOption = None) -> None:
    """Begins a new one, which has learned nothing, nor will of what was predicted before."""
    shell.emit(shell.loop().adapter.reset(model, reason=reason, by=by), _words("begins anew"))


def _words(what: str) -> Any:
    return lambda revision: f"The adapter of {revision['model']} {what}: revision {revision['revision']}."


def _row(revision: dict[str, Any]) -> dict[str, Any]:
    details = revision["details"]

    def shown(name: str, form: str) -> str:
        return format(details[name], form) if details.get(name) is not None else ""

    return {
        "revision": revision["revision"],
        "kind": revision["kind"],
        "cohort": (revision["cohort_start"] or "")[:10],
        "labelled": f"{revision['labelled']:,} of {revision['predicted']:,}" if revision["cohort_start"] else "",
        "surprise": shown("surprise", "+.1f"),
        "design effect": shown("design_effect", ".1f"),
        "trust": shown("trust", ".2f"),
        "raw loss": shown("loss_raw", ".4f"),
        "served": shown("loss_served", ".4f"),
        "covered": shown("coverage", ".0%"),
        "held by": ", ".join(revision["held_by"]),
        "because": details.get("reason", ""),
    }


def _replay_words(replayed: dict[str, Any]) -> str:
    since = f"from {replayed['since']} on" if replayed["since"] else "from its birth"
    same = f"{replayed['same']:,} of {replayed['revisions']:,} revisions come out the same"
    words = f"The adapter of {replayed['model']}, {since}: {same}."
    if replayed["differs"] is not None:
        words += f" Revision {replayed['differs']} does not: other versions of NumPy or of its libraries made it, "
        words += "or another machine."
    if replayed["gaps"]:
        words += f" {len(replayed['gaps']):,} can't be made again: rows of theirs, or their version, are gone."
    return words
