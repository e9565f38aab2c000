"""How shared tables are declared, each once and beside its record, and column types for SQLite and PostgreSQL.

Alembic's migration in `migrations/` creates exactly the declared tables (a test compares them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    types,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import SchemaItem

from feedback_loop.clock import Window, as_utc
from feedback_loop.schema import ColumnType

PREFIX = "fl_"
"""Prefix of all shared tables: the database may also be MLflow's or Optuna's."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Long = Annotated[int, BigInteger]
"""In a record: an integer that may need more than 32 bits."""

_RECORDS: dict[type, Table] = {}


def shared_table(
    name: str, record: type | None, *parts: SchemaItem, key: Iterable[str] = (), without: Iterable[str] = ()
) -> Table:
    """Declares a table for all models: a column for each field of the record except `without`, and more `parts`.

    A column has its field's name and type, and is nullable if the field may be None. A `Window` has two columns,
    `…_start` and `…_end`. `key` names the columns of the primary key, in order.
    """
    fields = _columns(record, {*key}, {*without}) if record is not None else ()
    keys = [PrimaryKeyConstraint(*key)] if key else []
    table = Table(f"{PREFIX}{name}", metadata, *fields, *parts, *keys)
    if record is not None:
        _RECORDS[record] = table
    return table


def table_of(record: type) -> Table:
    """The table that holds records of this kind."""
    return _RECORDS[record]


def _columns(record: type, keys: set[str], without: set[str]) -> Iterator[Column[Any]]:
    for name, hint in get_type_hints(record, include_extras=True).items():
        if name in without:
            continue
        kind, is_nullable = _plain(hint)
        if kind is Window:
            yield Column(f"{name}_start", Moment, nullable=False)
            yield Column(f"{name}_end", Moment, nullable=False)
        else:
            yield Column(name, _type_of(kind), nullable=is_nullable and name not in keys)


def _plain(hint: Any) -> tuple[Any, bool]:
    """A type hint without its `| None`, and whether it may be None; `Any` may."""
    if get_origin(hint) not in (Union, UnionType):
        return hint, hint is Any
    [kind] = [kind for kind in get_args(hint) if kind is not NoneType]
    return kind, True


def _type_of(kind: Any) -> types.TypeEngine[Any]:
    if get_origin(kind) is Annotated:
        column_type: types.TypeEngine[Any] = kind.__metadata__[0]()
        return column_type
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return Word(kind)
    if get_origin(kind) is tuple:
        return JsonTuple(get_args(kind)[0])
    plain: dict[Any, Callable[[], types.TypeEngine[Any]]] = {
        str: String,
        int: Integer,
        float: Double,
        bool: Boolean,
        bytes: LargeBinary,
        datetime: Moment,
    }
    return plain.get(kind, Json)()


class Json(types.TypeDecorator[Any]):
    """JSON in which null stands for NaN and infinity, which JSON has not.

    SQLite would store them, PostgreSQL refuses them.
    """

    impl = JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Python to database."""
        del dialect
        return _finite(value)


class JsonTuple(Json):
    """JSON of a tuple, which is read as a tuple again: of members of a `StrEnum`, or of plain values."""

    cache_ok = True

    def __init__(self, item: type = object) -> None:
        super().__init__()
        self.words = item if issubclass(item, StrEnum) else None

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Database to Python."""
        del dialect
        return tuple(map(self.words, value) if self.words else value) if value is not None else None


class Word(types.TypeDecorator[StrEnum]):
    """A member of a `StrEnum`, as text."""

    impl = String
    cache_ok = True

    def __init__(self, words: type[StrEnum]) -> None:
        super().__init__()
        self.words = words

    def process_bind_param(self, value: StrEnum | str | None, dialect: Dialect) -> str | None:
        """Python to database."""
        del dialect
        return str(value) if value is not None else None

    def process_result_value(self, value: Any, dialect: Dialect) -> StrEnum | None:
        """Database to Python."""
        del dialect
        return self.words(value) if value is not None else None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Moment(types.TypeDecorator[datetime]):
    """A timezone-aware datetime: `timestamptz` on PostgreSQL, UTC text of fixed width on SQLite.

    For example `2026-03-02 04:00:00.000000`: readable, understood by SQLite's functions, and sorted by time.
    """

    impl = String(26)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> types.TypeEngine[Any]:
        """The database's own type."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True, precision=6))
        return dialect.type_descriptor(String(26))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Python to database; raises BadInput for a moment without a time zone."""
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
        return datetime.fromisoformat(value).replace(tzinfo=UTC)  # 20 times as fast as `strptime`


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
    """The database type of a contract's column."""
    column_types: dict[ColumnType, types.TypeEngine[Any]] = {
        ColumnType.BOOLEAN: Boolean(),
        ColumnType.INTEGER: Integer(),
        ColumnType.LONG: BigInteger(),
        ColumnType.FLOAT: Float(),
        ColumnType.DOUBLE: Double(),
        ColumnType.STRING: String(),
        ColumnType.DATETIME: Moment(),
    }
    return column_types[kind]
