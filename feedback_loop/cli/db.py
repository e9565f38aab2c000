"""`feedback-loop db`: the database's schema."""

from __future__ import annotations

import typer

from feedback_loop.cli.output import ConfigOption, JsonOption, emit

app = typer.Typer(help="The database's schema.", no_args_is_help=True)


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
