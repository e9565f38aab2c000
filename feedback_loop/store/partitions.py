"""PostgreSQL's partitions of a table of predictions: one a month, by the time inside the prediction ids."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    MetaData,
    Table,
    cast,
    column,
    exists,
    func,
    inspect,
    literal,
    select,
)
from sqlalchemy import (
    table as sql_table,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import DDLElement

from feedback_loop.schema import moment_of, prediction_id, table_name
from feedback_loop.store.types import Moment

LOCK_SECONDS = 5
"""Whoever drops a partition waits so long for readers; writers queue behind it meanwhile."""


class _CreatePartition(DDLElement):
    def __init__(self, name: str, parent: str, bounds: tuple[str, str]) -> None:
        self.name = name
        self.parent = parent
        self.bounds = bounds


@compiles(_CreatePartition, "postgresql")
def _create_partition(element: _CreatePartition, compiler: Any, **_: object) -> str:
    quote = compiler.preparer.quote
    # Bounds are ids made here: 36 characters of hexadecimal digits and hyphens.
    values = "FROM ('{}') TO ('{}')".format(*element.bounds)
    return f"CREATE TABLE {quote(element.name)} PARTITION OF {quote(element.parent)} FOR VALUES {values}"


def ensure_partitions(connection: Connection, table: Table, ids: Iterable[str], known: set[str]) -> None:
    """Makes the months' partitions that these ids go to; `known` remembers those that are there."""
    if connection.dialect.name != "postgresql":
        return
    given = list(ids)
    # Ids sort by their time: where the least and the greatest are of one month, all are.
    ends = {_month(moment_of(identifier)) for identifier in (min(given), max(given))} if given else set()
    for month in sorted(ends if len(ends) < 2 else {_month(moment_of(identifier)) for identifier in given}):
        name = table_name("part", f"{table.name}_{month:%Y_%m}")
        if name in known:
            continue
        # Of two writers that both miss the month, the second waits here and then sees the first one's.
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(name))))
        if not inspect(connection).has_table(name):
            bounds = _floor_id(month), _floor_id(_next_month(month))
            connection.execute(_CreatePartition(name, table.name, bounds))
        known.add(name)


def partitions_before(connection: Connection, table: Table, moment: datetime) -> list[Table]:
    """The partitions whose ids are all of before that moment, and that hold no row predicted from then on.

    An id may be older than its prediction: a caller may bring one.
    """
    if connection.dialect.name != "postgresql":
        return []
    children: ColumnElement[Any] = column("oid")
    parent = cast(literal(table.fullname), postgresql.REGCLASS)
    bounds = func.pg_get_expr(column("relpartbound"), children)
    found = connection.execute(
        select(column("relname"), bounds)
        .select_from(sql_table("pg_class").join(sql_table("pg_inherits"), column("inhrelid") == children))
        .where(column("inhparent") == parent)
        .order_by(column("relname"))
    ).all()
    old = [name for name, bound in found if moment_of(_ends(bound)) <= moment]
    parts = [Table(name, MetaData(), Column("predicted_at", Moment)) for name in old]
    return [
        part
        for part in parts
        if not connection.execute(select(exists().where(part.c.predicted_at >= moment))).scalar_one()
    ]


def drop_partition(connection: Connection, part: Table) -> int:
    """Drops one partition; returns how many rows it had. Raises (a lock timeout) rather than keep writers waiting."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
    rows: int = connection.execute(select(func.count()).select_from(part)).scalar_one()
    part.drop(connection)
    return rows


def _ends(bound: str) -> str:
    """The id that a partition's bounds end at: `FOR VALUES FROM ('…') TO ('…')`."""
    return bound.rsplit("'", 2)[1]


def _month(moment: datetime) -> datetime:
    return datetime(moment.year, moment.month, 1, tzinfo=UTC)


def _next_month(month: datetime) -> datetime:
    return datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)


def _floor_id(moment: datetime) -> str:
    """The least UUID of that moment: all UUIDv7 of it and later are not below it."""
    head = prediction_id(moment, lambda _: 0).replace("-", "")[:12]
    return f"{head[:8]}-{head[8:]}-0000-0000-000000000000"
