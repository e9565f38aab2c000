"""Each model's own tables made, grown, and renewed as a new generation, with the view on them."""

from __future__ import annotations

from collections.abc import Iterable
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
    find_tables,
    identity,
    models,
    outcome_table,
    prediction_columns,
    prediction_table,
    spec_of,
)
from feedback_loop.store.schema import sql_type

MOST_COLUMNS = {"sqlite": 2000, "postgresql": 1600}
"""Of one table, and of what one statement reads, by the database's own limits."""

MOST_ROW_BYTES = 8160
"""Of a row on PostgreSQL, beside long texts: it must fit onto one page."""

_WIDTHS = {ColumnType.BOOLEAN: 1, ColumnType.STRING: 1, ColumnType.INTEGER: 4}
"""Bytes that PostgreSQL needs at least for a value, which is also what it is aligned to; of the other types 8."""

_OF_OUTCOMES = 3
"""Columns of our own that an outcome has beside a prediction, where both are read together."""

_HEAD_BYTES = 23
"""Of such a row, and a bit for each column; on from there it is aligned to 8 bytes."""

_OWN_BYTES = 58
"""Our own columns of a row, with short words and without a request's id and time."""


def check_storable(store: Store, contract: Contract) -> None:
    """Raises ContractError where no row of the contract can ever be kept, Unavailable where that can't be seen."""
    refuse_too_wide(store, contract)
    with store.read() as connection:
        try:
            found = find_tables(connection, contract.model)
        except NotFound:
            return
    _refuse_other_key_or_label(found, contract)


def refuse_too_wide(store: Store, contract: Contract) -> None:
    """Raises ContractError where a row has more than the kind of database holds; asks no database."""
    columns = prediction_columns(contract)
    table = prediction_table(contract.model, 1, columns, contract.key)
    most, has = MOST_COLUMNS[store.url.get_backend_name()], len(table.c) + _OF_OUTCOMES + len(contract.labels)
    if has > most:
        raise _too_wide(contract, f"{has:,} columns, ours among them; {store.kind} reads at most {most:,}")
    least = _least_bytes(columns)
    if store.is_postgresql and least > MOST_ROW_BYTES:
        raise _too_wide(contract, f"at least {least:,} bytes; a row of PostgreSQL has at most {MOST_ROW_BYTES:,}")


def _least_bytes(columns: Iterable[Column]) -> int:
    columns = list(columns)
    end = _HEAD_BYTES + -(-len(columns) // 8)
    end += -end % 8 + _OWN_BYTES
    for column in columns:
        width = _WIDTHS.get(column.type, 8)
        end += -end % width + width
    return end


def _too_wide(contract: Contract, what: str) -> ContractError:
    return ContractError(
        f"No prediction of {contract.model!r} can be logged: each has {what}.",
        cure=f'Leave columns out (models.{contract.model}.log.columns: column = "drop"), log none '
        '(log.durability = "off"), or register a model of fewer columns.',
        model=contract.model,
    )


def ensure_tables(store: Store, contract: Contract, now: datetime) -> ModelTables:
    """The model's tables, made or grown so that the contract's predictions and outcomes fit.

    Raises ContractError where the key or the label is another than before (outcomes could no longer be joined), or
    the database can't have such a table.
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
        found = find_tables(connection, contract.model)
    except NotFound:
        outcomes = outcome_table(contract.model, contract.key, contract.labels)
        _create_generation(connection, contract, 1, columns, now)
        outcomes.create(connection)
    else:
        most = MOST_COLUMNS[connection.dialect.name]
        fitting = [each for each in found.generations if each.fits(columns) and _grown(each, columns) <= most]
        if not fitting:
            _create_generation(connection, contract, found.generations[-1].number + 1, columns, now)
        else:
            _grow(connection, contract.model, fitting[-1], columns)
    changed = find_tables(connection, contract.model)
    generation = changed.generation_for(columns)
    if generation is not None:
        name = table_name("labelled", contract.model, generation.number)
        create_view(connection, name, changed, generation.table, contract.join)
    return changed


def _grown(generation: Generation, columns: tuple[Column, ...]) -> int:
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
    grown = [spec_of(column) for column in (*generation.columns, *missing)]
    connection.execute(models.update().where(where).values(columns=grown))


def _refuse_other_key_or_label(found: ModelTables, contract: Contract) -> None:
    for what, before, after in (("key", found.key, contract.key), ("label", found.labels, contract.labels)):
        if [(identity(each), each.stored) for each in before] != [(identity(each), each.stored) for each in after]:
            raise ContractError(
                f"The {what} of {contract.model!r} was {_words(before)}; it can't become {_words(after)}.",
                cure="Outcomes of both could not be joined: set it back, or register the model under another name.",
                model=contract.model,
                field=what,
            )


def _words(columns: Iterable[Column]) -> str:
    kinds = ((each.name, f"hashed by key {each.hashed}" if each.hashed else str(each.type)) for each in columns)
    return ", ".join(f"{name} ({kind})" for name, kind in kinds) or "nothing"
