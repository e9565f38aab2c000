"""`feedback-loop keys`: who may call the server."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from feedback_loop.cli.output import Commands, Shell, table
from feedback_loop.clock import format_moment

app = Commands(help="API keys: who may call the server.", no_args_is_help=True)


class ScopeChoice(StrEnum):
    """What a key may be used for."""

    PREDICT = "predict"
    OUTCOMES = "outcomes"
    READ = "read"
    ADMIN = "admin"


ScopeOption = Annotated[
    list[ScopeChoice] | None,
    typer.Option("--scope", help="What it may be used for; default: all but admin. Repeatable."),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", help="The model that it is for; default: all, also future ones. Repeatable."),
]
NameArgument = Annotated[str, typer.Argument(help="What the key is for; to know it again in the list.")]


@app.command("create")
def create(shell: Shell, name: NameArgument, scope: ScopeOption = None, model: ModelOption = None) -> None:
    """Makes a key and prints it: it can't be seen again."""
    from feedback_loop.store import keys

    loop = shell.loop()
    for each in model or ():
        loop.settings.model(each)  # a name that nobody configured is a mistake
    scopes = [keys.Scope(each) for each in scope] if scope else keys.USUAL_SCOPES
    made = {
        "name": name,
        "scopes": [each for each in keys.Scope if each in scopes],
        "models": sorted(set(model)) if model else None,
        "key": keys.create_key(loop.store, name, loop.clock(), scopes, set(model) if model else None),
    }
    shell.emit(made, lambda made: str(made["key"]))


@app.command("list")
def list_keys(shell: Shell) -> None:
    """Lists the keys by name."""
    from feedback_loop.store import keys

    rows = [asdict(each) for each in keys.load_keys(shell.loop().store)]
    for row in rows:
        row["scopes"] = row["scopes"] if shell.as_json else " ".join(row["scopes"])
        row["models"] = row["models"] if shell.as_json else " ".join(row["models"] or ["(all)"])
        row.update({name: format_moment(row[name]) if row[name] else None for name in ("created_at", "revoked_at")})
    shell.emit(rows, lambda rows: table(rows, "There are no keys."))


@app.command("revoke")
def revoke(shell: Shell, name: NameArgument) -> None:
    """Ends a key's validity; servers notice within serving.poll_alias."""
    from feedback_loop.store import keys

    loop = shell.loop()
    keys.revoke_key(loop.store, name, loop.clock())
    shell.emit({"name": name, "revoked": True}, lambda done: f"The key {done['name']} is revoked.")
