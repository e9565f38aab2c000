"""Each model's own tables, typed from its contract: made, grown, and renewed as a new generation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, MetaData, Table, exc, select

from feedback_loop.errors import ContractError, NotFound
from feedback_loop.schema import Column, ColumnType, Contract, table_name
from feedback_loop.store import tables
from feedback_loop.store.engine import Store
from feedback_loop.store.types import Identifier, Moment, sql_type


@dataclass(frozen=True)
class Generation:
    """One table of predictions: a change of a column's type starts the next."""

    number: int
    columns: tuple[Column, ...]
    table: Table

    def fits(self, columns: Iterable[Column]) -> bool:
        """Whether rows with these columns can be kept here, if need be after adding some."""
        here = {column.stored: _identity(column) for column in self.columns}
        return all(here.get(column.stored, _identity(column)) == _identity(column) for column in columns)

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
    label: Column

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
    rows = connection.execute(
        select(tables.models).where(tables.models.c.name == model).order_by(tables.models.c.generation)
    ).all()
    if not rows:
        raise NotFound("table of predictions for the model", model, cure="It gets one with its first prediction.")
    key = tuple(_column(spec) for spec in rows[-1].key)
    label = _column(rows[-1].label)
    generations = tuple(
        Generation(row.generation, columns, _prediction_table(model, row.generation, columns, key))
        for row in rows
        for columns in [tuple(_column(spec) for spec in row.columns)]
    )
    return ModelTables(model, generations, _outcome_table(model, key, label), key, label)


def ensure_tables(store: Store, contract: Contract, now: datetime) -> ModelTables:
    """The model's tables, made or grown so that the contract's predictions and outcomes fit.

    Raises ContractError where the key or the label is another than before: outcomes could no longer be joined.
    """
    columns = prediction_columns(contract)
    try:
        with store.read() as connection:
            found = find_tables(connection, contract.model)
        _refuse_other_key_or_label(found, contract)
        if found.generation_for(columns):
            return found
    except NotFound:
        pass
    try:
        with store.write() as connection:
            return _change(connection, contract, columns, now)
    except exc.IntegrityError:  # another process made the same change first
        return ensure_tables(store, contract, now)


def _change(connection: Connection, contract: Contract, columns: tuple[Column, ...], now: datetime) -> ModelTables:
    try:
        found = find_tables(connection, contract.model)
    except NotFound:
        outcomes = _outcome_table(contract.model, contract.key, contract.label)
        _create_generation(connection, contract, 1, columns, now)
        outcomes.create(connection)
    else:
        fitting = [generation for generation in found.generations if generation.fits(columns)]
        if not fitting:
            _create_generation(connection, contract, found.generations[-1].number + 1, columns, now)
        else:
            _grow(connection, contract.model, fitting[-1], columns)
    changed = find_tables(connection, contract.model)
    generation = changed.generation_for(columns)
    if generation is not None:
        from feedback_loop.store.labels import create_view  # which knows these tables

        name = table_name("labelled", contract.model, generation.number)
        create_view(connection, name, changed, generation.table, contract.join)
    return changed


def _create_generation(
    connection: Connection, contract: Contract, number: int, columns: tuple[Column, ...], now: datetime
) -> None:
    connection.execute(
        tables.models.insert().values(
            name=contract.model,
            generation=number,
            columns=[_spec(column) for column in columns],
            key=[_spec(column) for column in contract.key],
            label=_spec(contract.label),
            created_at=now,
        )
    )
    _prediction_table(contract.model, number, columns, contract.key).create(connection)


def _grow(connection: Connection, model: str, generation: Generation, columns: tuple[Column, ...]) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    missing = generation.lacks(columns)
    operations = Operations(MigrationContext.configure(connection))
    for column in missing:
        operations.add_column(generation.table.name, sa.Column(column.stored, sql_type(column.type)))
    where = (tables.models.c.name == model) & (tables.models.c.generation == generation.number)
    grown = [_spec(column) for column in (*generation.columns, *missing)]
    connection.execute(tables.models.update().where(where).values(columns=grown))


def _prediction_table(model: str, generation: int, columns: Iterable[Column], key: tuple[Column, ...]) -> Table:
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


def _outcome_table(model: str, key: tuple[Column, ...], label: Column) -> Table:
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
        sa.Column(label.stored, sql_type(label.type), nullable=False),
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


def _refuse_other_key_or_label(found: ModelTables, contract: Contract) -> None:
    for what, before, after in (("key", found.key, contract.key), ("label", (found.label,), (contract.label,))):
        if [(_identity(each), each.stored) for each in before] != [(_identity(each), each.stored) for each in after]:
            raise ContractError(
                f"The {what} of {contract.model!r} was {_words(before)}; it can't become {_words(after)}.",
                cure="Outcomes of both could not be joined: set it back, or register the model under another name.",
                model=contract.model,
                field=what,
            )


def _identity(column: Column) -> tuple[str, ColumnType, str]:
    """What values of a column must share to stand below each other."""
    return column.name, column.type, column.hashed


def _words(columns: Iterable[Column]) -> str:
    kinds = ((each.name, f"hashed by key {each.hashed}" if each.hashed else str(each.type)) for each in columns)
    return ", ".join(f"{name} ({kind})" for name, kind in kinds) or "nothing"


def _spec(column: Column) -> dict[str, Any]:
    spec = {"name": column.name, "type": str(column.type), "required": column.required, "field": column.stored}
    return {**spec, "hashed": column.hashed} if column.hashed else spec


def _column(spec: dict[str, Any]) -> Column:
    kind = ColumnType(spec["type"])
    return Column(spec["name"], kind, spec["required"], spec["field"], spec.get("hashed", ""))
