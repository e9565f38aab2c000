"""`feedback-loop keys`: who may call the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from feedback_loop.cli.options import Shell, group
from feedback_loop.cli.output import table

if TYPE_CHECKING:
    from feedback_loop.store.keys import Scope

app = group("API keys: who may call the server.")

NameArgument = Annotated[str, typer.Argument(help="What the key is for; to know it again in the list.")]


def _scope(text: str) -> Scope:
    from feedback_loop.store import keys

    return keys.Scope(text)  # Typer takes no list of literals, and tells a ValueError as bad usage


@app.command("create")
def create(
    shell: Shell,
    name: NameArgument,
    scope: Annotated[
        list[Any] | None,
        typer.Option(
            parser=_scope,
            metavar="[predict|outcomes|read|approve|admin]",
            help="What it may be used for; default: predict, outcomes. Repeatable.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="The model that it is for; default: all, also future ones. Repeatable.")
    ] = None,
) -> None:
    """Makes a key and prints it: it can't be seen again."""
    from feedback_loop.store import keys

    loop = shell.loop()
    for configured in model or ():
        loop.settings.model(configured)  # a name that nobody configured is a mistake
    scopes = scope or keys.USUAL_SCOPES
    made = {
        "name": name,
        "scopes": [scope for scope in keys.Scope if scope in scopes],
        "models": sorted(set(model)) if model else None,
        "key": keys.create_key(loop.store, name, loop.clock(), scopes, set(model) if model else None),
    }
    shell.emit(made, lambda made: str(made["key"]))


@app.command("list")
def list_keys(shell: Shell) -> None:
    """Lists the keys by name."""
    from feedback_loop.store import keys

    shell.emit(keys.load_keys(shell.loop().store), lambda rows: table(list(map(_row, rows)), "There are no keys."))


def _row(key: dict[str, Any]) -> dict[str, Any]:
    return {**key, "scopes": " ".join(key["scopes"]), "models": " ".join(key["models"] or ["(all)"])}


@app.command("revoke")
def revoke(shell: Shell, name: NameArgument) -> None:
    """Ends a key's validity; servers notice within serving.poll_alias."""
    from feedback_loop.store import keys

    loop = shell.loop()
    keys.revoke_key(loop.store, name, loop.clock())
    shell.emit({"name": name, "revoked": True}, lambda done: f"The key {done['name']} is revoked.")
