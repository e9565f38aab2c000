"""Rows of a table as frozen records, where both name the same things."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Insert, Table
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


def insert_unless(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """The database's own insert into a table, which knows what to do on a conflict."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def as_record(kind: type[RecordT], row: Row[Any]) -> RecordT:
    """The row's columns that are the record's fields, as that record."""
    return kind(**{field.name: row._mapping[field.name] for field in fields(kind)})  # noqa: SLF001 (public in SQLAlchemy)
