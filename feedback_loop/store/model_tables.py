"""The tables of one model: predictions by generation, and outcomes, typed from its contract."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, MetaData, Table, select

from feedback_loop.errors import NotFound
from feedback_loop.schema import ACTED, ACTION_PROPENSITY, Column, ColumnType, Contract, table_name
from feedback_loop.store.schema import Identifier, Json, Moment, shared_table, sql_type

TABLES_CACHED = 256
"""`Table` objects that are cached: SQLAlchemy compiles a statement once per object, not per name."""


models = shared_table(
    "models",
    None,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("columns", Json, nullable=False),  # of its predictions, see `spec_of`
    sa.Column("key", Json, nullable=False),
    sa.Column("label", Json, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
)

retentions = shared_table(
    "retentions",
    None,
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("kept_since", Moment, nullable=False),  # predictions from before were removed
)


@dataclass(frozen=True)
class Generation:
    """One table of predictions; a changed column type starts the next generation."""

    number: int
    columns: tuple[Column, ...]
    table: Table

    def fits(self, columns: Iterable[Column]) -> bool:
        """Whether rows with these columns can be stored here, perhaps after adding columns."""
        own = {column.stored: identity(column) for column in self.columns}
        return all(own.get(column.stored, identity(column)) == identity(column) for column in columns)

    def lacks(self, columns: Iterable[Column]) -> list[Column]:
        """The columns that this table does not have yet."""
        own = {column.stored for column in self.columns}
        return [column for column in columns if column.stored not in own]


ACTION_COLUMNS = (
    Column(ACTED, ColumnType.BOOLEAN),
    Column(ACTION_PROPENSITY, ColumnType.DOUBLE, required=False),
)
"""The value columns of an action."""


@dataclass(frozen=True)
class ModelTables:
    """All tables of one model: predictions (oldest generation first), outcomes, and what callers did."""

    model: str
    generations: tuple[Generation, ...]
    outcomes: Table
    actions: Table
    key: tuple[Column, ...]
    labels: tuple[Column, ...]

    @property
    def of_actions(self) -> ModelTables:
        """The same with what callers did in the place of outcomes."""
        return replace(self, outcomes=self.actions, labels=ACTION_COLUMNS)

    def generation_for(self, columns: Iterable[Column]) -> Generation | None:
        """The newest generation that has all these columns; None if there is none."""
        wanted = list(columns)
        fitting = [g for g in self.generations if g.fits(wanted) and not g.lacks(wanted)]
        return fitting[-1] if fitting else None


def prediction_columns(contract: Contract) -> tuple[Column, ...]:
    """A contract's columns of its predictions: key, outputs, features."""
    return (*contract.extra_key, *contract.outputs, *contract.features)


def table_columns(contract: Contract) -> tuple[Column, ...]:
    """All columns that a table of its predictions has beside the system's."""
    return (*prediction_columns(contract), *contract.log_columns)


def find_tables(connection: Connection, model: str) -> ModelTables:
    """A model's tables; raises NotFound if it has none yet."""
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
    outcomes, actions = outcome_table(model, key, labels), action_table(model, key)
    return ModelTables(model, generations, outcomes, actions, key, labels)


def model_keys(connection: Connection) -> list[tuple[str, tuple[Column, ...]]]:
    """Each model that has tables, with its key."""
    rows = connection.execute(select(models.c.name, models.c.key).order_by(models.c.name, models.c.generation))
    keys = {row.name: tuple(_column(spec) for spec in row.key) for row in rows}
    return list(keys.items())


@lru_cache(TABLES_CACHED)
def prediction_table(model: str, generation: int, columns: tuple[Column, ...], key: tuple[Column, ...]) -> Table:
    """One generation's table of predictions."""
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


def action_table(model: str, key: tuple[Column, ...]) -> Table:
    """A model's table of what callers did with its answers: kept like outcomes."""
    return outcome_table(model, key, ACTION_COLUMNS, "actions")


@lru_cache(TABLES_CACHED)
def outcome_table(model: str, key: tuple[Column, ...], labels: tuple[Column, ...], kind: str = "outcomes") -> Table:
    """A model's table of outcomes (or of another `kind` of reports)."""
    name = table_name(kind, model)
    table = Table(
        name,
        MetaData(),
        sa.Column("outcome_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("prediction_id", Identifier),
        *(sa.Column(column.stored, sql_type(column.type)) for column in key),
        sa.Column("event_at", Moment, nullable=False),  # which event of its key; EPOCH if a key has only one
        sa.Column("occurred_at", Moment, nullable=False),
        sa.Column("recorded_at", Moment, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        *(sa.Column(label.stored, sql_type(label.type), nullable=not label.required) for label in labels),
    )
    _unique(f"{name}_prediction", [table.c.prediction_id, table.c.revision])
    sa.Index(table_name("ix", f"{name}_recorded_at"), table.c.recorded_at)
    if key:
        columns = [table.c[column.stored] for column in key]
        _unique(f"{name}_key", [*columns, table.c.event_at, table.c.revision])
    return table


def _unique(name: str, columns: list[sa.Column[Any]]) -> None:
    """A unique index of the rows that refer to their prediction by these columns.

    Rows with null in them are left out: a planner would think that the index is useless if one value had most rows.
    """
    named = columns[0].is_not(None)
    sa.Index(table_name("uq", name), *columns, unique=True, sqlite_where=named, postgresql_where=named)


def identity(column: Column) -> tuple[str, ColumnType, str]:
    """What two columns must have in common for their values to be in one table column."""
    return column.name, column.type, column.hashed


def spec_of(column: Column) -> dict[str, Any]:
    """A column as JSON, for the table `models`."""
    spec = {"name": column.name, "type": str(column.type), "required": column.required, "field": column.stored}
    return {**spec, "hashed": column.hashed} if column.hashed else spec


def _column(spec: dict[str, Any]) -> Column:
    kind = ColumnType(spec["type"])
    return Column(spec["name"], kind, spec["required"], spec["field"], spec.get("hashed", ""))
