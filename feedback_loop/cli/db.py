"""`feedback-loop db`: the database's schema."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from feedback_loop.cli.output import ConfigOption, JsonOption, emit, open_loop

app = typer.Typer(help="The database: its schema, and how long rows stay.", no_args_is_help=True)


@app.command("upgrade")
def upgrade(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Brings the database's tables to this version."""
    from feedback_loop.config import load_settings
    from feedback_loop.store import Store, migrate

    settings = load_settings(config)
    store = Store(settings.url(settings.store.url))
    before, after = migrate.current(store), migrate.upgrade(store)
    plain = {"database": store.name, "before": before, "after": after}
    emit(
        plain,
        as_json=as_json,
        words=lambda done: f"{done['database']}: {done['before'] or 'empty'} → {done['after']}",
    )


@app.command("check")
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Says whether the database is at this version (exit code 1 if not)."""
    from feedback_loop.config import load_settings
    from feedback_loop.store import Store, migrate

    settings = load_settings(config)
    store = Store(settings.url(settings.store.url))
    plain = {"database": store.name, "revision": migrate.current(store), "needed": migrate.head()}
    emit(
        plain,
        as_json=as_json,
        words=lambda now: f"{now['database']} is at {now['revision'] or 'none'}; {now['needed']} is needed.",
    )
    if plain["revision"] != plain["needed"]:
        raise typer.Exit(1)


@app.command("retain")
def retain(
    model: Annotated[str | None, typer.Argument(help="The model's name in the configuration; default: all.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Removes predictions (and outcomes) older than `log.retention`, records older than `store.history`."""
    from feedback_loop.cycle import retained

    loop = open_loop(config, as_json=as_json)
    rows = []
    for name in [model] if model is not None else loop.settings.models:
        with loop.runner.leased(name):
            rows.append({"model": name, **retained(loop, name)})
    emit(rows, as_json=as_json, words=_retained_words)


def _retained_words(rows: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"{row['model']}: " + ", ".join(f"{name} {value}" for name, value in row.items() if name != "model")
        for row in rows
    )
