"""Where Optuna keeps its studies: with our data, and apart from everybody's tables."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import inspect, text

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
            if SCHEMA not in inspect(connection).get_schema_names():  # making it asks for a right, if it is there too
                connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        options = [*store.url.normalized_query.get("options", ()), f"-csearch_path={SCHEMA}"]
        url = store.url.update_query_dict({"options": " ".join(options)})
        return url.render_as_string(hide_password=False)
    assert store.url.database is not None  # a store is a file
    path = Path(f"{store.url.database}.optuna")
    new_file(path)
    return store.url.set(database=str(path)).render_as_string(hide_password=False)
