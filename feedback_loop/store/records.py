"""Records into their tables and out of them: `add`, `one`, `many`, `change`, `put`, `remove`.

Each is done by a store in a transaction of its own, or by a connection within the transaction that it is in. Windows,
words of an enumeration and moments are mapped here and by the columns' types, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Insert, Select, Table, select
from sqlalchemy.dialects import postgresql, sqlite

from feedback_loop.clock import Window
from feedback_loop.store.engine import Store
from feedback_loop.store.schema import table_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from sqlalchemy import Row

    RecordT = TypeVar("RecordT", bound=DataclassInstance)

Source = Store | Connection
"""Where something is read or written: a store, or a transaction that has begun."""


def one(source: Source, record: type[RecordT], /, *where: ColumnElement[bool], **equal: Any) -> RecordT | None:
    """The one record that the conditions hold for, and whose columns have these values; None where there is none."""
    with _reading(source) as connection:
        row = connection.execute(_chosen(record, where, equal)).one_or_none()
    return as_record(record, row) if row is not None else None


def many(
    source: Source,
    record: type[RecordT],
    /,
    *where: ColumnElement[bool],
    order_by: Any = (),
    newest: int | None = None,
    **equal: Any,
) -> list[RecordT]:
    """All such records, in that order; `newest` limits them to the first so many of it."""
    order = order_by if isinstance(order_by, tuple) else (order_by,)
    with _reading(source) as connection:
        rows = connection.execute(_chosen(record, where, equal).order_by(*order).limit(newest)).all()
    return [as_record(record, row) for row in rows]


def add(source: Source, record: DataclassInstance, /, **more: Any) -> int:
    """Inserts a record, with more columns than it has; returns the id that the database gave it, if it gives one."""
    with _writing(source) as connection:
        return insert_one(connection, table_of(type(record)).insert().values(**as_row(record), **more))


def change(
    source: Source, record: type, values: Mapping[str, Any], /, *where: ColumnElement[bool], **equal: Any
) -> int:
    """Changes columns of the rows that the conditions hold for; returns how many those are."""
    table = table_of(record)
    statement = table.update().where(*where, *_equal(table, equal)).values(**values)
    with _writing(source) as connection:
        return connection.execute(statement).rowcount


def put(source: Source, record: DataclassInstance, /, **more: Any) -> None:
    """Inserts a record, or replaces the one that has its primary key."""
    table = table_of(type(record))
    values = {**as_row(record), **more}
    anew = {name: value for name, value in values.items() if name not in table.primary_key.columns}
    with _writing(source) as connection:
        insert = insert_unless(connection, table).values(**values)
        connection.execute(insert.on_conflict_do_update(index_elements=table.primary_key, set_=anew))


def remove(source: Source, record: type, /, *where: ColumnElement[bool], **equal: Any) -> int:
    """Deletes the rows that the conditions hold for; returns how many those were."""
    table = table_of(record)
    with _writing(source) as connection:
        return connection.execute(table.delete().where(*where, *_equal(table, equal))).rowcount


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


def insert_new(connection: Connection, table: Table, values: dict[str, Any], *unique: str) -> bool:
    """The same where the database makes no key: whether it was new by its `unique` (default: the primary key)."""
    insert = insert_unless(connection, table).values(**values)
    once = insert.on_conflict_do_nothing(index_elements=list(unique) or table.primary_key)
    return bool(connection.execute(once.execution_options(preserve_rowcount=True)).rowcount)


def insert_unless(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """The database's own insert into a table, which knows what to do on a conflict."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def as_record(record: type[RecordT], row: Row[Any]) -> RecordT:
    """The row's columns that are the record's fields, as that record; one that the row lacks keeps its default."""
    values = row._mapping  # noqa: SLF001 (public in SQLAlchemy)
    return record(
        **{
            name: values[name] if not is_window else Window(values[f"{name}_start"], values[f"{name}_end"])
            for name, is_window in _fields(record)
            if is_window or name in values
        }
    )


def as_row(record: DataclassInstance) -> dict[str, Any]:
    """A record's columns; without an id that the database is to give."""
    row: dict[str, Any] = {}
    for name, is_window in _fields(type(record)):
        value = getattr(record, name)
        row |= {f"{name}_start": value.start, f"{name}_end": value.end} if is_window else {name: value}
    table = table_of(type(record))
    given = table.autoincrement_column
    return {name: value for name, value in row.items() if name in table.c and (table.c[name] is not given or value)}


@cache
def _fields(record: Any) -> tuple[tuple[str, bool], ...]:
    """The names of a record's fields, and which are windows: those have two columns."""
    return tuple((field.name, field.type in ("Window", Window)) for field in fields(record))


def _chosen(record: type, where: tuple[ColumnElement[bool], ...], equal: Mapping[str, Any]) -> Select[Any]:
    table = table_of(record)
    return select(table).where(*where, *_equal(table, equal))


def _equal(table: Table, values: Mapping[str, Any]) -> Iterator[ColumnElement[bool]]:
    return (table.c[name] == value for name, value in values.items())


@contextmanager
def _reading(source: Source) -> Iterator[Connection]:
    if isinstance(source, Connection):
        yield source
    else:
        with source.read() as connection:
            yield connection


@contextmanager
def _writing(source: Source) -> Iterator[Connection]:
    if isinstance(source, Connection):
        yield source
    else:
        with source.write() as connection:
            yield connection
