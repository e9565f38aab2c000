"""PostgreSQL's partitions of a table of predictions: one a month, by the time inside the prediction ids."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Table, func, inspect, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import DDLElement

from feedback_loop.schema import moment_of, prediction_id, table_name


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
    for month in sorted({_month(moment_of(identifier)) for identifier in ids}):
        name = table_name("part", f"{table.name}_{month:%Y_%m}")
        if name in known:
            continue
        # Of two writers that both miss the month, the second waits here and then sees the first one's.
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(name))))
        if not inspect(connection).has_table(name):
            bounds = _floor_id(month), _floor_id(_next_month(month))
            connection.execute(_CreatePartition(name, table.name, bounds))
        known.add(name)


def _month(moment: datetime) -> datetime:
    return datetime(moment.year, moment.month, 1, tzinfo=UTC)


def _next_month(month: datetime) -> datetime:
    return datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)


def _floor_id(moment: datetime) -> str:
    """The least UUID of that moment: all UUIDv7 of it and later are not below it."""
    head = prediction_id(moment, lambda _: 0).replace("-", "")[:12]
    return f"{head[:8]}-{head[8:]}-0000-0000-000000000000"
