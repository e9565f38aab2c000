"""Creates and upgrades the shared tables by Alembic's migrations, from the wheel or the checkout."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, column, func, inspect, select, table

from feedback_loop.errors import Unavailable
from feedback_loop.store.engine import Store
from feedback_loop.store.schema import PREFIX, metadata

if TYPE_CHECKING:
    from alembic.config import Config

CONNECTION = "connection"
"""The attribute in which `migrations/env.py` finds the connection to work on."""


def is_ours(name: str | None, kind: str, _: object) -> bool:
    """Whether Alembic compares an object of that name: the database may hold other programs' tables."""
    return kind != "table" or str(name).startswith(PREFIX)


VERSION_TABLE = f"{PREFIX}alembic_version"

OPTIONS = {"version_table": VERSION_TABLE, "include_name": is_ours}
"""Alembic's options: a version table of our own, and only our tables."""


def upgrade(store: Store) -> str:
    """Upgrades the shared tables to this package's revision, in one transaction; returns the revision."""
    with store.write() as connection:
        upgrade_within(connection)
    return head()


def upgrade_within(connection: Connection) -> None:
    """The same within a transaction that has begun."""
    from alembic import command

    if connection.dialect.name == "postgresql":  # SQLite's write lock already keeps a second upgrade waiting
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext("feedback_loop.migrations"))))
    config = _config()
    config.attributes[CONNECTION] = connection
    command.upgrade(config, "head")


def current(store: Store) -> str | None:
    """The revision that the database is at, or None for a database without our tables."""
    versions = table(VERSION_TABLE, column("version_num"))
    with store.read() as connection:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        revision: str | None = connection.execute(select(versions.c.version_num)).scalar_one_or_none()
    return revision


def head() -> str:
    """The revision that this version of the package needs: the number of the newest script."""
    return max(script.name.split("_")[0] for script in (_scripts() / "versions").glob("[0-9]*.py"))


def prepare(store: Store) -> str:
    """Creates the tables in an empty database; returns the revision. Raises Unavailable for another one."""
    revision = current(store)
    if revision == head():
        return revision
    with store.read() as connection:
        ours = set(inspect(connection).get_table_names()) & set(metadata.tables)
    if revision is None and not ours:
        return upgrade(store)
    by = "pg_dump" if store.is_postgresql else "feedback-loop backup"
    raise Unavailable(
        "database",
        f"The database {store.name} is at revision {revision or 'none'}; this version needs {head()}.",
        cure=f"Back it up ({by}), then: feedback-loop db upgrade.",
    )


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    return config


def _scripts() -> Path:
    """The folder of the migrations: in the wheel inside the package, in a checkout beside it."""
    package = Path(str(resources.files("feedback_loop")))
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
