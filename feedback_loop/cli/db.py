"""`feedback-loop db`: the database's schema, and how long rows stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from feedback_loop.cli.options import Shell, group

if TYPE_CHECKING:
    from feedback_loop.store import Store

app = group("The database: its schema, and how long rows stay.")


@app.command("upgrade")
def upgrade(shell: Shell) -> None:
    """Brings the database's tables to this version."""
    from feedback_loop.store import migrate

    store = _store(shell)
    result = {"database": store.name, "before": migrate.current(store), "after": migrate.upgrade(store)}
    shell.emit(result, lambda result: "{database}: {} → {after}".format(result["before"] or "empty", **result))


@app.command("check")
def check(shell: Shell) -> None:
    """Says whether the database is at this version (exit code 1 if not)."""
    from feedback_loop.store import migrate

    store = _store(shell)
    result = {"database": store.name, "revision": migrate.current(store), "needed": migrate.head()}
    shell.emit(result, lambda _: f"{store.name} is at {result['revision'] or 'none'}; {result['needed']} is needed.")
    if result["revision"] != result["needed"]:
        raise typer.Exit(1)


def _store(shell: Shell) -> Store:
    from feedback_loop.config import load_settings
    from feedback_loop.store import Store

    settings = load_settings(shell.config)
    return Store(settings.url(settings.store.url))


@app.command("retain")
def retain(
    shell: Shell,
    model: Annotated[str | None, typer.Argument(help="The model's name in the configuration; default: all.")] = None,
) -> None:
    """Removes predictions (and outcomes) older than `log.retention`, records older than `store.history`."""
    from feedback_loop.cycle import retained

    loop = shell.loop()
    rows = []
    for name in [model] if model is not None else loop.settings.models:
        with loop.runner.leased(name):
            rows.append({"model": name, **retained(loop, name)})
    shell.emit(rows, lambda rows: "\n".join(map(_retained_words, rows)))


def _retained_words(row: dict[str, Any]) -> str:
    return f"{row['model']}: " + ", ".join(f"{name} {value}" for name, value in row.items() if name != "model")
