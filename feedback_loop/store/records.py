"""Reads and writes records (frozen dataclasses) of the tables declared with `shared_table`.

`add`, `one`, `many`, `change`, `put` and `remove` take a store, and then run in a transaction of their own, or the
connection of a transaction that has begun. Windows, enumerations and moments are converted here and by the columns'
types, nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Insert, Select, Table, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from feedback_loop.clock import Window
from feedback_loop.store.engine import Store
from feedback_loop.store.schema import table_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from sqlalchemy import Row

    RecordT = TypeVar("RecordT", bound=DataclassInstance)

ValueT = TypeVar("ValueT")

Source = Store | Connection
"""A store, or the connection of a transaction that has begun."""

NewRow = ReadOnlyColumnCollection[str, Any]
"""The columns of a row that conflicts with one that is stored."""


PAGE = 500
"""So many values stand in one statement: both databases bound its parameters."""


def pages(values: Iterable[ValueT]) -> Iterator[list[ValueT]]:
    """Values that may be many, in parts that one statement takes (`column.in_(page)`)."""
    rest = iter(values)
    while page := list(islice(rest, PAGE)):
        yield page


def one(source: Source, record: type[RecordT], /, *where: ColumnElement[bool], **equal: Any) -> RecordT | None:
    """The one record that meets the conditions and has these values in these columns; None if there is none."""
    with transaction(source) as connection:
        row = connection.execute(_select(record, where, equal)).one_or_none()
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
    """All records that meet the conditions, in that order; with `newest` only the first so many."""
    order = order_by if isinstance(order_by, tuple) else (order_by,)
    with transaction(source) as connection:
        rows = connection.execute(_select(record, where, equal).order_by(*order).limit(newest)).all()
    return [as_record(record, row) for row in rows]


def add(source: Source, record: DataclassInstance, /, **more: Any) -> int:
    """Inserts a record, and `more` columns that it has no field for; returns the new row's integer id."""
    with transaction(source, writes=True) as connection:
        return insert_one(connection, table_of(type(record)).insert().values(**as_row(record), **more))


def change(
    source: Source, record: type, values: Mapping[str, Any], /, *where: ColumnElement[bool], **equal: Any
) -> int:
    """Sets columns of the rows that meet the conditions; returns how many rows those are."""
    table = table_of(record)
    statement = table.update().where(*where, *_equal(table, equal)).values(**values)
    with transaction(source, writes=True) as connection:
        return connection.execute(statement).rowcount


def put(source: Source, record: DataclassInstance, /, **more: Any) -> None:
    """Inserts a record, or replaces the one with the same primary key; `more` columns have no field in the record."""
    with transaction(source, writes=True) as connection:
        upsert(connection, table_of(type(record)), [{**as_row(record), **more}])


def remove(source: Source, record: type, /, *where: ColumnElement[bool], **equal: Any) -> int:
    """Deletes the rows that meet the conditions; returns how many those were."""
    table = table_of(record)
    with transaction(source, writes=True) as connection:
        return connection.execute(table.delete().where(*where, *_equal(table, equal))).rowcount


def insert_one(connection: Connection, insert: Insert) -> int:
    """Inserts one row; returns its new integer id."""
    key = connection.execute(insert).inserted_primary_key
    assert key is not None  # of a single row it always is
    return int(key[0])


def insert_if_new(
    connection: Connection,
    table: Table,
    values: Mapping[str, Any],
    *unique: str,
    where: ColumnElement[bool] | None = None,
) -> Any:
    """Inserts one row and returns its primary key, or None if there is a row with the same `unique` columns.

    `where` is the condition of a partial unique index. Any other violated constraint is an error. Of two transactions
    that insert the same row the second waits for the first.
    """
    insert = dialect_insert(connection, table).values(**values)
    insert = insert.on_conflict_do_nothing(index_elements=list(unique), index_where=where)
    return connection.execute(insert.returning(*table.primary_key.columns)).scalar_one_or_none()


def insert_new(connection: Connection, table: Table, values: Mapping[str, Any], *unique: str) -> bool:
    """Inserts one row unless there is one with the same `unique` columns (default: primary key); whether it did."""
    insert = dialect_insert(connection, table).values(**values)
    insert = insert.on_conflict_do_nothing(index_elements=list(unique) or table.primary_key)
    return bool(connection.execute(insert.execution_options(preserve_rowcount=True)).rowcount)


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    changes: Callable[[NewRow], Mapping[str, Any]] | None = None,
    where: Callable[[NewRow], ColumnElement[bool]] | None = None,
) -> int:
    """Inserts rows of the same columns; a row that has the same primary key is changed, if `where` holds for it.

    By default the row's columns are replaced; `changes` says other values. Both are given the columns of the row that
    was to be inserted. Returns how many rows were inserted or changed.
    """
    if not rows:
        return 0
    insert = dialect_insert(connection, table)
    new = insert.excluded
    others = {name: new[name] for name in rows[0] if name not in table.primary_key.columns}
    statement = insert.on_conflict_do_update(
        index_elements=table.primary_key,
        set_=changes(new) if changes is not None else others,
        where=where(new) if where is not None else None,
    )
    return connection.execute(statement.execution_options(preserve_rowcount=True), rows).rowcount


def dialect_insert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """The insert of the connection's database, which has `ON CONFLICT`."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def as_record(record: type[RecordT], row: Row[Any]) -> RecordT:
    """A row as a record; a field without a column in the row keeps its default."""
    values = row._mapping  # noqa: SLF001 (public in SQLAlchemy)
    return record(
        **{
            name: values[name] if not is_window else Window(values[f"{name}_start"], values[f"{name}_end"])
            for name, is_window in _fields(record)
            if is_window or name in values
        }
    )


def as_row(record: DataclassInstance) -> dict[str, Any]:
    """A record's values by column; without the id that the database is to make."""
    row: dict[str, Any] = {}
    for name, is_window in _fields(type(record)):
        value = getattr(record, name)
        row |= {f"{name}_start": value.start, f"{name}_end": value.end} if is_window else {name: value}
    table = table_of(type(record))
    generated = table.autoincrement_column
    return {n: value for n, value in row.items() if n in table.c and (table.c[n] is not generated or value)}


@cache
def _fields(record: Any) -> tuple[tuple[str, bool], ...]:
    """The names of a record's fields, and whether each is a `Window`, which has two columns."""
    return tuple((field.name, field.type in ("Window", Window)) for field in fields(record))


def _select(record: type, where: tuple[ColumnElement[bool], ...], equal: Mapping[str, Any]) -> Select[Any]:
    table = table_of(record)
    return select(table).where(*where, *_equal(table, equal))


def _equal(table: Table, values: Mapping[str, Any]) -> Iterator[ColumnElement[bool]]:
    return (table.c[name] == value for name, value in values.items())


@contextmanager
def transaction(source: Source, *, writes: bool = False) -> Iterator[Connection]:
    """The transaction that has begun, or a store's new one."""
    if isinstance(source, Connection):
        yield source
    else:
        with source.write() if writes else source.read() as connection:
            yield connection
