"""Reads the result of a user's SQL query from any database, a bounded number of rows at a time."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
from sqlalchemy import URL, NullPool, create_engine, exc, make_url, text

from feedback_loop.errors import BadInput, ConfigError, NotFound, Unavailable
from feedback_loop.safe_text import without_secrets
from feedback_loop.schema import as_table


@dataclass(frozen=True)
class Query:
    """A statement for any database that SQLAlchemy has a driver for."""

    url: str = field(repr=False)
    sql: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def chunks(self, rows: int) -> Generator[pa.Table]:
        """The result in tables of at most so many rows.

        Raises ConfigError (URL or driver), NotFound, Unavailable, BadInput.
        """
        engine = self._engine()
        try:
            with engine.connect() as connection:
                streaming = connection.execution_options(stream_results=True, max_row_buffer=rows)
                result = streaming.execute(text(self.sql), dict(self.parameters))
                names = list(result.keys())
                for part in result.partitions(rows):
                    yield _table(names, part)
        except exc.DBAPIError as error:
            message = str(error.orig).strip().splitlines()[0]
            name = without_secrets(engine.url.render_as_string(hide_password=False))
            raise Unavailable(
                "database",
                f"The database {name} refused: {message}.",
                cure="Check the URL and the query.",
            ) from error
        except exc.SQLAlchemyError as error:
            raise BadInput.of(
                "sql", str(error).splitlines()[0], cure="Give a statement that returns rows."
            ) from error

    def _engine(self) -> Any:
        try:
            url = make_url(self.url)
            if url.drivername == "postgresql":
                url = url.set(drivername="postgresql+psycopg")
            _refuse_missing(url)
            return create_engine(url, poolclass=NullPool)
        except (exc.ArgumentError, exc.NoSuchModuleError) as error:
            raise ConfigError(
                f"{self.url.partition('://')[0]!r} begins no database URL that is known.",
                cure="Write it as SQLAlchemy does: postgresql://user@host/name, sqlite:///file.db, …",
                key="url",
            ) from error
        except ImportError as error:
            raise ConfigError(
                f"The driver of {self.url.partition('://')[0]!r} is not installed: {error}.",
                cure="Install it beside this package.",
                key="url",
            ) from error


def _refuse_missing(url: URL) -> None:
    """Raises NotFound for a SQLite file that does not exist: SQLite would create it."""
    name = url.database or ":memory:"
    if url.get_backend_name() == "sqlite" and not name.startswith((":memory:", "file:")) and not Path(name).exists():
        raise NotFound("SQLite database", name, cure="Correct the path in the URL.")


def _table(names: list[str], part: Any) -> pa.Table:
    columns = zip(names, zip(*part, strict=True), strict=True)
    return as_table({name: [_plain(value) for value in values] for name, values in columns})


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):  # stays exact: 2**53 + 1 is no float
        return value if value.is_finite() else float(value)
    return str(value) if isinstance(value, UUID) else value
