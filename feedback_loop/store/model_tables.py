"""Each model's own tables, typed from its contract: what they are, how they are found, and PostgreSQL's partitions.

Partitions are of a month each, by the time inside the prediction ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import Connection, MetaData, Table, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import DDLElement

from feedback_loop.errors import NotFound
from feedback_loop.schema import Column, ColumnType, Contract, moment_of, prediction_id, table_name
from feedback_loop.store.schema import Identifier, Json, Moment, shared_table, sql_type

KEPT = 256
"""So many tables are kept as they are: SQLAlchemy compiles a statement once for a table, and anew for its like."""


models = shared_table(
    "models",
    None,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("columns", Json, nullable=False),  # of its predictions: name, type, field
    sa.Column("key", Json, nullable=False),
    sa.Column("label", Json, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
)

retentions = shared_table(
    "retentions",
    None,
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("kept_since", Moment, nullable=False),  # predictions from before are gone
)


@dataclass(frozen=True)
class Generation:
    """One table of predictions: a change of a column's type starts the next."""

    number: int
    columns: tuple[Column, ...]
    table: Table

    def fits(self, columns: Iterable[Column]) -> bool:
        """Whether rows with these columns can be kept here, if need be after adding some."""
        here = {column.stored: identity(column) for column in self.columns}
        return all(here.get(column.stored, identity(column)) == identity(column) for column in columns)

    def lacks(self, columns: Iterable[Column]) -> list[Column]:
        """Those of the columns that this table does not have yet."""
        have = {column.stored for column in self.columns}
        return [column for column in columns if column.stored not in have]


@dataclass(frozen=True)
class ModelTables:
    """All tables of one model: predictions (oldest generation first) and outcomes."""

    model: str
    generations: tuple[Generation, ...]
    outcomes: Table
    key: tuple[Column, ...]
    labels: tuple[Column, ...]

    def generation_for(self, columns: Iterable[Column]) -> Generation | None:
        """The newest generation that rows with these columns go to as they are."""
        wanted = list(columns)
        fitting = [g for g in self.generations if g.fits(wanted) and not g.lacks(wanted)]
        return fitting[-1] if fitting else None


def prediction_columns(contract: Contract) -> tuple[Column, ...]:
    """The columns of a contract's predictions beside our own: key, outputs, features."""
    return (*contract.extra_key, *contract.outputs, *contract.features)


def find_tables(connection: Connection, model: str) -> ModelTables:
    """A model's tables; raises NotFound where it has none yet."""
    rows = connection.execute(select(models).where(models.c.name == model).order_by(models.c.generation)).all()
    if not rows:
        raise NotFound("table of predictions for the model", model, cure="It gets one with its first prediction.")
    key = tuple(_column(spec) for spec in rows[-1].key)
    labels = tuple(_column(spec) for spec in (rows[-1].label, *rows[-1].label.get("more", ())))
    generations = tuple(
        Generation(row.generation, columns, prediction_table(model, row.generation, columns, key))
        for row in rows
        for columns in [tuple(_column(spec) for spec in row.columns)]
    )
    return ModelTables(model, generations, outcome_table(model, key, labels), key, labels)


@lru_cache(KEPT)
def prediction_table(model: str, generation: int, columns: tuple[Column, ...], key: tuple[Column, ...]) -> Table:
    """One generation's table of predictions, as it is or will be in the database."""
    name = table_name("predictions", model, generation)
    table = Table(
        name,
        MetaData(),
        sa.Column("prediction_id", Identifier, primary_key=True),
        sa.Column("predicted_at", Moment, nullable=False),
        sa.Column("logged_at", Moment, nullable=False),
        sa.Column("sample_weight", sa.Double, nullable=False),
        sa.Column("model_version", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("request_id", sa.String),
        sa.Column("latency_us", sa.Integer),
        *(sa.Column(column.stored, sql_type(column.type)) for column in columns),
        # By id and not by time: the id holds the time, and a unique id across partitions must be their key.
        postgresql_partition_by="RANGE (prediction_id)",
    )
    sa.Index(table_name("ix", f"{name}_predicted_at"), table.c.predicted_at)
    sa.Index(table_name("ix", f"{name}_logged_at"), table.c.logged_at)
    if key:
        sa.Index(table_name("ix", f"{name}_key"), *(table.c[column.stored] for column in key))
    return table


@lru_cache(KEPT)
def outcome_table(model: str, key: tuple[Column, ...], labels: tuple[Column, ...]) -> Table:
    """A model's table of outcomes."""
    name = table_name("outcomes", model)
    table = Table(
        name,
        MetaData(),
        sa.Column("outcome_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("prediction_id", Identifier),
        *(sa.Column(column.stored, sql_type(column.type)) for column in key),
        sa.Column("event_at", Moment, nullable=False),  # which event of its key: EPOCH where a key has only one
        sa.Column("occurred_at", Moment, nullable=False),
        sa.Column("recorded_at", Moment, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        *(sa.Column(label.stored, sql_type(label.type), nullable=False) for label in labels),
    )
    _unique(f"{name}_prediction", [table.c.prediction_id, table.c.revision])
    sa.Index(table_name("ix", f"{name}_recorded_at"), table.c.recorded_at)
    if key:
        columns = [table.c[column.stored] for column in key]
        _unique(f"{name}_key", [*columns, table.c.event_at, table.c.revision])
    return table


def _unique(name: str, columns: list[sa.Column[Any]]) -> None:
    """A unique index of the rows that name their prediction in this way.

    Without the others, that it is empty for: a planner would take one value of so many rows for a useless index.
    """
    named = columns[0].is_not(None)
    sa.Index(table_name("uq", name), *columns, unique=True, sqlite_where=named, postgresql_where=named)


def identity(column: Column) -> tuple[str, ColumnType, str]:
    """What values of a column must share to stand below each other."""
    return column.name, column.type, column.hashed


def spec_of(column: Column) -> dict[str, Any]:
    """A column as it is written down beside the model's tables."""
    spec = {"name": column.name, "type": str(column.type), "required": column.required, "field": column.stored}
    return {**spec, "hashed": column.hashed} if column.hashed else spec


def _column(spec: dict[str, Any]) -> Column:
    kind = ColumnType(spec["type"])
    return Column(spec["name"], kind, spec["required"], spec["field"], spec.get("hashed", ""))


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


def ensure_partitions(connection: Connection, table: Table, ids: pa.ChunkedArray, known: set[str]) -> None:
    """Makes the months' partitions that these ids go to; `known` remembers those that are there."""
    if connection.dialect.name != "postgresql":
        return
    given = ids.to_pylist()
    # Ids sort by their time: where the least and the greatest are of one month, all are.
    ends = {_month(moment_of(identifier)) for identifier in (min(given), max(given))} if given else set()
    for month in sorted(ends if len(ends) < 2 else {_month(moment_of(identifier)) for identifier in given}):
        name = table_name("part", f"{table.name}_{month:%Y_%m}")
        if name in known:
            continue
        # Of two writers that both miss the month, the second waits here and then sees the first one's.
        connection.execute(select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(name))))
        if not sa.inspect(connection).has_table(name):
            bounds = _floor_id(month), _floor_id(_next_month(month))
            connection.execute(_CreatePartition(name, table.name, bounds))
        known.add(name)


def partitions_before(connection: Connection, table: Table, moment: datetime) -> list[Table]:
    """The partitions whose ids are all of before that moment, and that hold no row predicted from then on.

    An id may be older than its prediction: a caller may bring one.
    """
    if connection.dialect.name != "postgresql":
        return []
    children: sa.ColumnElement[Any] = sa.column("oid")
    parent = sa.cast(sa.literal(table.fullname), postgresql.REGCLASS)
    bounds = sa.func.pg_get_expr(sa.column("relpartbound"), children)
    found = connection.execute(
        select(sa.column("relname"), bounds)
        .select_from(sa.table("pg_class").join(sa.table("pg_inherits"), sa.column("inhrelid") == children))
        .where(sa.column("inhparent") == parent)
        .order_by(sa.column("relname"))
    ).all()
    old = [name for name, bound in found if moment_of(_ends(bound)) <= moment]
    parts = [Table(name, MetaData(), sa.Column("predicted_at", Moment)) for name in old]
    return [
        part
        for part in parts
        if not connection.execute(select(sa.exists().where(part.c.predicted_at >= moment))).scalar_one()
    ]


def drop_partition(connection: Connection, part: Table) -> int:
    """Drops one partition; returns how many rows it had. Raises (a lock timeout) rather than keep writers waiting."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
    rows: int = connection.execute(select(sa.func.count()).select_from(part)).scalar_one()
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
