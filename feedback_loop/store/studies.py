"""Where Optuna keeps its studies: with our data, and apart from everybody's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, CreateEnginePlugin, Engine, MetaData, event, inspect, text
from sqlalchemy.dialects import plugins

from feedback_loop.private import new_file
from feedback_loop.store.engine import UNPREPARED, Store

SCHEMA = "fl_optuna"


class InSchema(CreateEnginePlugin):
    """Has an engine that somebody else makes, of a URL with `plugin=fl_optuna`, work in that schema.

    With each transaction anew: a pooler gives each another connection, and refuses options of the URL.
    """

    def __init__(self, _url: URL, kwargs: dict[str, Any]) -> None:
        kwargs["connect_args"] = {**kwargs.get("connect_args", {}), **UNPREPARED}

    def update_url(self, url: URL) -> URL:
        """The URL as it is."""
        return url

    def engine_created(self, engine: Engine) -> None:
        """Listens for its transactions."""

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql(f"SET LOCAL search_path TO {SCHEMA}")


plugins.register(SCHEMA, __name__, InSchema.__name__)


def study_url(store: Store) -> str:
    """A database URL for Optuna's own tables: a schema in PostgreSQL, a file beside SQLite's.

    Optuna has a table `alembic_version`, and MLflow, whose database the store may be, has another one. Raises what
    `Store.write` raises.
    """
    if store.is_postgresql:
        with store.write() as connection:
            make_schema(connection)
        return store.url.update_query_dict({"plugin": SCHEMA}).render_as_string(hide_password=False)
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
