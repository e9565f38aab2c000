"""Rows of a table as frozen records, where both name the same things."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Insert, Table
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from sqlalchemy import Row

    RecordT = TypeVar("RecordT", bound=DataclassInstance)


def insert_one(connection: Connection, insert: Insert) -> int:
    """Inserts one row; returns the id that the database gave it."""
    key = connection.execute(insert).inserted_primary_key
    assert key is not None  # of a single row it always is
    return int(key[0])


def insert_if_new(
    connection: Connection,
    table: Table,
    values: dict[str, Any],
    *unique: str,
    where: ColumnElement[bool] | None = None,
) -> Any:
    """Inserts one row; returns its key, or None where a row (among those `where` that holds) has the same `unique`.

    Only that is taken for "there already": any other constraint is an error. Who comes second waits for the first.
    """
    insert = insert_unless(connection, table).values(**values)
    insert = insert.on_conflict_do_nothing(index_elements=list(unique), index_where=where)
    return connection.execute(insert.returning(*table.primary_key.columns)).scalar_one_or_none()


def insert_unless(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """The database's own insert into a table, which knows what to do on a conflict."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def as_record(kind: type[RecordT], row: Row[Any]) -> RecordT:
    """The row's columns that are the record's fields, as that record."""
    values = row._mapping  # noqa: SLF001 (public in SQLAlchemy)
    return kind(**{name: values[name] for name in field_names(kind)})


@cache
def field_names(kind: Any) -> tuple[str, ...]:
    """The names of a record's fields, in their order."""
    return tuple(field.name for field in fields(kind))
