"""Where Optuna keeps its studies: with our data, and apart from everybody's tables."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, MetaData, inspect, text

from feedback_loop.private import new_file
from feedback_loop.store.engine import Store

SCHEMA = "fl_optuna"


def study_url(store: Store) -> str:
    """A database URL for Optuna's own tables: a schema in PostgreSQL, a file beside SQLite's.

    Optuna has a table `alembic_version`, and MLflow, whose database the store may be, has another one. Raises what
    `Store.write` raises.
    """
    if store.is_postgresql:
        with store.write() as connection:
            make_schema(connection)
        options = [*store.url.normalized_query.get("options", ()), f"-csearch_path={SCHEMA}"]
        url = store.url.update_query_dict({"options": " ".join(options)})
        return url.render_as_string(hide_password=False)
    path = study_file(store)
    new_file(path)
    return store.url.set(database=str(path)).render_as_string(hide_password=False)


def make_schema(connection: Connection) -> None:
    """Makes PostgreSQL's schema of the studies, unless it is there."""
    if SCHEMA not in inspect(connection).get_schema_names():  # making it asks for a right, if it is there too
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))


def study_tables(connection: Connection) -> MetaData:
    """Optuna's tables as they are in PostgreSQL, whatever its version has made."""
    tables = MetaData(schema=SCHEMA)
    tables.reflect(connection)
    return tables


def study_file(store: Store) -> Path:
    """The file of the studies, beside SQLite's own."""
    assert store.url.database is not None  # a store is a file
    return Path(f"{store.url.database}.optuna")
