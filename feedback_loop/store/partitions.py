"""PostgreSQL's partitions of a prediction table: one per month, by the time inside the prediction ids."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import Connection, MetaData, Table, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import DDLElement

from feedback_loop.schema import moment_of, prediction_id, table_name
from feedback_loop.store.schema import Moment

LOCK_SECONDS = 5
"""How long the drop of a partition waits for readers: writers wait behind it."""


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


def ensure_partitions(connection: Connection, table: Table, ids: pa.ChunkedArray, existing: set[str]) -> None:
    """Creates the partitions that these ids belong to, except the `existing` ones; adds their names to `existing`."""
    if connection.dialect.name != "postgresql":
        return
    texts = ids.to_pylist()
    # Ids sort by their time: if the least and the greatest are of one month, all are.
    months = {_month(moment_of(identifier)) for identifier in (min(texts), max(texts))} if texts else set()
    for month in sorted(months if len(months) < 2 else {_month(moment_of(identifier)) for identifier in texts}):
        name = _partition_name(table, month)
        if name in existing:
            continue
        # Of two writers that both need the month, the second waits here and then finds the first one's.
        connection.execute(select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(name))))
        if not sa.inspect(connection).has_table(name):
            create_partition(connection, table, month)
        existing.add(name)


def create_partition(connection: Connection, table: Table, month: datetime) -> None:
    """Creates the partition of the month that begins then."""
    bounds = _floor_id(month), _floor_id(_next_month(month))
    connection.execute(_CreatePartition(_partition_name(table, month), table.name, bounds))


def partition_months(connection: Connection, table: Table) -> list[datetime]:
    """The beginnings of the months that have a partition."""
    return [moment_of(bound.split("'", 2)[1]) for _, bound in _partitions(connection, table)]


def partitions_before(connection: Connection, table: Table, moment: datetime) -> list[Table]:
    """The partitions with only ids from before a moment and no row predicted since then.

    An id that a caller brings may be older than its prediction.
    """
    if connection.dialect.name != "postgresql":
        return []
    old = [name for name, bound in _partitions(connection, table) if moment_of(_ends(bound)) <= moment]
    parts = [Table(name, MetaData(), sa.Column("predicted_at", Moment)) for name in old]
    return [
        part
        for part in parts
        if not connection.execute(select(sa.exists().where(part.c.predicted_at >= moment))).scalar_one()
    ]


def drop_partition(connection: Connection, part: Table) -> int:
    """Drops a partition; returns how many rows it had. Raises Unavailable if readers hold it for LOCK_SECONDS."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
    rows: int = connection.execute(select(sa.func.count()).select_from(part)).scalar_one()
    part.drop(connection)
    return rows


def _partition_name(table: Table, month: datetime) -> str:
    return table_name("part", f"{table.name}_{month:%Y_%m}")


def _partitions(connection: Connection, table: Table) -> list[tuple[str, str]]:
    """Each partition of a table with its bounds, in order."""
    children: sa.ColumnElement[Any] = sa.column("oid")
    parent = sa.cast(sa.literal(table.fullname), postgresql.REGCLASS)
    bounds = sa.func.pg_get_expr(sa.column("relpartbound"), children)
    rows = connection.execute(
        select(sa.column("relname"), bounds)
        .select_from(sa.table("pg_class").join(sa.table("pg_inherits"), sa.column("inhrelid") == children))
        .where(sa.column("inhparent") == parent)
        .order_by(sa.column("relname"))
    )
    return [(name, bound) for name, bound in rows]


def _ends(bound: str) -> str:
    """The id at the end of a partition's bounds: `FOR VALUES FROM ('…') TO ('…')`."""
    return bound.rsplit("'", 2)[1]


def _month(moment: datetime) -> datetime:
    return datetime(moment.year, moment.month, 1, tzinfo=UTC)


def _next_month(month: datetime) -> datetime:
    return datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)


def _floor_id(moment: datetime) -> str:
    """The least UUID of a moment: no UUIDv7 from then on is below it."""
    head = prediction_id(moment, lambda _: 0).replace("-", "")[:12]
    return f"{head[:8]}-{head[8:]}-0000-0000-000000000000"
