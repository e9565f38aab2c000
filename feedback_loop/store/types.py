"""Column types that mean the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Boolean, Dialect, Double, Float, Integer, String, types
from sqlalchemy.dialects import postgresql

from feedback_loop.clock import as_utc
from feedback_loop.schema import ColumnType


class Json(types.TypeDecorator[Any]):
    """JSON, which has no word for infinity or for what is no number: null stands for both.

    SQLite would keep them, PostgreSQL refuse them, and nobody else could read them.
    """

    impl = JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Python to database."""
        del dialect
        return _finite(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Moment(types.TypeDecorator[datetime]):
    """A timezone-aware datetime: `timestamptz` on PostgreSQL, UTC text of fixed width on SQLite.

    Such as `2026-03-02 04:00:00.000000`: people can read it, SQLite's functions know it, and its order is time's.
    """

    impl = String(26)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> types.TypeEngine[Any]:
        """The database's own type."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True, precision=6))
        return dialect.type_descriptor(String(26))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Python to database; raises BadInput for a moment without a time zone, which each database would guess."""
        if value is None:
            return None
        moment = as_utc(value)
        return moment if dialect.name == "postgresql" else moment.replace(tzinfo=None).isoformat(" ", "microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Database to Python."""
        if value is None:
            return None
        if dialect.name == "postgresql":
            return as_utc(value)
        return datetime.fromisoformat(value).replace(tzinfo=UTC)  # a twentieth of what `strptime` costs


class Identifier(types.TypeDecorator[str]):
    """A UUID as text of 36 characters in Python and SQLite, `uuid` on PostgreSQL."""

    impl = String(36)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> types.TypeEngine[Any]:
        """The database's own type."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.UUID(as_uuid=False))
        return dialect.type_descriptor(String(36))

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Database to Python."""
        del dialect
        return str(value) if isinstance(value, UUID) else value


def sql_type(kind: ColumnType) -> types.TypeEngine[Any]:
    """The database type that a contract's column is stored in."""
    types_: dict[ColumnType, types.TypeEngine[Any]] = {
        ColumnType.BOOLEAN: Boolean(),
        ColumnType.INTEGER: Integer(),
        ColumnType.LONG: BigInteger(),
        ColumnType.FLOAT: Float(),
        ColumnType.DOUBLE: Double(),
        ColumnType.STRING: String(),
        ColumnType.DATETIME: Moment(),
    }
    return types_[kind]
