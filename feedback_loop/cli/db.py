"""`feedback-loop db`: the database's schema."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from feedback_loop.cli.output import Commands, Shell

app = Commands(help="The database: its schema, and how long rows stay.", no_args_is_help=True)


@app.command("upgrade")
def upgrade(shell: Shell) -> None:
    """Brings the database's tables to this version."""
    from feedback_loop.config import load_settings
    from feedback_loop.store import Store, migrate

    settings = load_settings(shell.config)
    store = Store(settings.url(settings.store.url))
    before, after = migrate.current(store), migrate.upgrade(store)
    plain = {"database": store.name, "before": before, "after": after}
    shell.emit(
        plain,
        lambda done: f"{done['database']}: {done['before'] or 'empty'} → {done['after']}",
    )


@app.command("check")
def check(shell: Shell) -> None:
    """Says whether the database is at this version (exit code 1 if not)."""
    from feedback_loop.config import load_settings
    from feedback_loop.store import Store, migrate

    settings = load_settings(shell.config)
    store = Store(settings.url(settings.store.url))
    plain = {"database": store.name, "revision": migrate.current(store), "needed": migrate.head()}
    shell.emit(
        plain,
        lambda now: f"{now['database']} is at {now['revision'] or 'none'}; {now['needed']} is needed.",
    )
    if plain["revision"] != plain["needed"]:
        raise typer.Exit(1)


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
    shell.emit(rows, _retained_words)


def _retained_words(rows: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"{row['model']}: " + ", ".join(f"{name} {value}" for name, value in row.items() if name != "model")
        for row in rows
    )
