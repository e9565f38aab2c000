"""Creates a model's tables and their view, adds columns to them, and starts new generations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from feedback_loop.errors import ContractError, NotFound, Refused
from feedback_loop.schema import Column, ColumnType, Contract, table_name
from feedback_loop.store.engine import ConstraintViolated, Store
from feedback_loop.store.join_query import create_view
from feedback_loop.store.model_tables import (
    Generation,
    ModelTables,
    action_table,
    find_tables,
    identity,
    models,
    outcome_table,
    prediction_table,
    spec_of,
    table_columns,
)
from feedback_loop.store.schema import sql_type

MOST_COLUMNS = {"sqlite": 2000, "postgresql": 1600}
"""The databases' limits for columns of a table and of a statement's result."""

MOST_ROW_BYTES = 8160
"""PostgreSQL's limit for a row, without long texts: it must fit onto one page."""

_WIDTHS = {ColumnType.BOOLEAN: 1, ColumnType.STRING: 1, ColumnType.INTEGER: 4}
"""The least bytes of a value on PostgreSQL, which is also its alignment; 8 for the other types."""

_OUTCOME_COLUMNS = 3
"""System columns of the outcome in a row of the join, beside the labels."""

_HEAD_BYTES = 23
"""The header of a PostgreSQL row; a bit per column follows, and then it is aligned to 8 bytes."""

_SYSTEM_BYTES = 58
"""The least bytes of the system columns: short texts, no request id and latency."""


def check_storable(store: Store, contract: Contract) -> None:
    """Raises ContractError if the contract's rows can't be stored, Unavailable if the database can't be asked."""
    refuse_too_wide(store, contract)
    with store.read() as connection:
        try:
            tables = find_tables(connection, contract.model)
        except NotFound:
            return
    _refuse_other_key_or_label(tables, contract)


def refuse_too_wide(store: Store, contract: Contract) -> None:
    """Raises ContractError if a row has more columns or bytes than this kind of database allows; asks no database."""
    columns = table_columns(contract)
    table = prediction_table(contract.model, 1, columns, contract.key)
    most, count = MOST_COLUMNS[store.url.get_backend_name()], len(table.c) + _OUTCOME_COLUMNS + len(contract.labels)
    if count > most:
        raise _too_wide(contract, f"{count:,} columns, ours among them; {store.kind} reads at most {most:,}")
    least = _least_bytes(columns, nulls=len(contract.log_columns))
    if store.is_postgresql and least > MOST_ROW_BYTES:
        raise _too_wide(contract, f"at least {least:,} bytes; a row of PostgreSQL has at most {MOST_ROW_BYTES:,}")


def _least_bytes(columns: Sequence[Column], nulls: int) -> int:
    """The least bytes of a row; the last columns, so many, may be null, which takes a bit each."""
    end = _HEAD_BYTES + -(-len(columns) // 8)
    end += -end % 8 + _SYSTEM_BYTES
    for column in columns[: len(columns) - nulls]:
        width = _WIDTHS.get(column.type, 8)
        end += -end % width + width
    return end


def _too_wide(contract: Contract, size: str) -> ContractError:
    return ContractError(
        f"No prediction of {contract.model!r} can be logged: each has {size}.",
        cure=f'Leave columns out (models.{contract.model}.log.columns: column = "drop"), log none '
        '(log.durability = "off"), or register a model of fewer columns.',
        model=contract.model,
    )


def ensure_tables(store: Store, contract: Contract, now: datetime) -> ModelTables:
    """The model's tables, created or changed so that the contract's predictions and outcomes fit.

    Raises ContractError if the key or the label is another than before (outcomes could no longer be joined), or if
    the database can't have such a table.
    """
    columns = table_columns(contract)
    try:
        with store.read() as connection:
            tables = find_tables(connection, contract.model)
        _refuse_other_key_or_label(tables, contract)
        if tables.generation_for(columns):
            return tables
    except NotFound:
        pass
    refuse_too_wide(store, contract)
    try:
        with store.write() as connection:
            return _change(connection, contract, columns, now)
    except Refused as error:
        if isinstance(error, ConstraintViolated) and error.is_unique:  # another process made the same change first
            return ensure_tables(store, contract, now)
        raise ContractError(error.cause, cure=error.cure, model=contract.model) from error


def _change(connection: Connection, contract: Contract, columns: tuple[Column, ...], now: datetime) -> ModelTables:
    try:
        tables = find_tables(connection, contract.model)
    except NotFound:
        outcomes = outcome_table(contract.model, contract.key, contract.labels)
        _create_generation(connection, contract, 1, columns, now)
        outcomes.create(connection)
        action_table(contract.model, contract.key).create(connection)
    else:
        most = MOST_COLUMNS[connection.dialect.name]
        fitting = [old for old in tables.generations if old.fits(columns) and _width_with(old, columns) <= most]
        if not fitting:
            _create_generation(connection, contract, tables.generations[-1].number + 1, columns, now)
        else:
            _grow(connection, contract.model, fitting[-1], columns)
    changed = find_tables(connection, contract.model)
    generation = changed.generation_for(columns)
    if generation is not None:
        name = table_name("labelled", contract.model, generation.number)
        create_view(connection, name, changed, generation.table, contract.join)
    return changed


def _width_with(generation: Generation, columns: tuple[Column, ...]) -> int:
    return len(generation.table.c) + len(generation.lacks(columns))


def _create_generation(
    connection: Connection, contract: Contract, number: int, columns: tuple[Column, ...], now: datetime
) -> None:
    connection.execute(
        models.insert().values(
            name=contract.model,
            generation=number,
            columns=[spec_of(column) for column in columns],
            key=[spec_of(column) for column in contract.key],
            label=_labels_spec(contract.labels),
            created_at=now,
        )
    )
    prediction_table(contract.model, number, columns, contract.key).create(connection)


def _labels_spec(labels: tuple[Column, ...]) -> dict[str, Any]:
    first, *more = map(spec_of, labels)
    return {**first, "more": more} if more else first


def _grow(connection: Connection, model: str, generation: Generation, columns: tuple[Column, ...]) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    missing = generation.lacks(columns)
    operations = Operations(MigrationContext.configure(connection))
    for column in missing:
        operations.add_column(generation.table.name, sa.Column(column.stored, sql_type(column.type)))
    where = (models.c.name == model) & (models.c.generation == generation.number)
    all_columns = [spec_of(column) for column in (*generation.columns, *missing)]
    connection.execute(models.update().where(where).values(columns=all_columns))


def _refuse_other_key_or_label(tables: ModelTables, contract: Contract) -> None:
    for field, before, after in (("key", tables.key, contract.key), ("label", tables.labels, contract.labels)):
        was, would_be = ([(identity(column), column.stored) for column in columns] for columns in (before, after))
        if was != would_be:
            raise ContractError(
                f"The {field} of {contract.model!r} was {_described(before)}; it can't become {_described(after)}.",
                cure="Outcomes of both could not be joined: set it back, or register the model under another name.",
                model=contract.model,
                field=field,
            )


def _described(columns: Iterable[Column]) -> str:
    types = ((c.name, f"hashed by key {c.hashed}" if c.hashed else str(c.type)) for c in columns)
    return ", ".join(f"{name} ({kind})" for name, kind in types) or "nothing"
