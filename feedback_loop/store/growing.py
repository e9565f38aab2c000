"""Each model's own tables made, grown, and renewed as a new generation, with the view on them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, exc

from feedback_loop.errors import ContractError, NotFound
from feedback_loop.schema import Column, Contract, table_name
from feedback_loop.store import tables
from feedback_loop.store.engine import Store
from feedback_loop.store.labels import create_view
from feedback_loop.store.model_tables import (
    Generation,
    ModelTables,
    find_tables,
    identity,
    outcome_table,
    prediction_columns,
    prediction_table,
    spec_of,
)
from feedback_loop.store.types import sql_type


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
        outcomes = outcome_table(contract.model, contract.key, contract.labels)
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
    where = (tables.models.c.name == model) & (tables.models.c.generation == generation.number)
    grown = [spec_of(column) for column in (*generation.columns, *missing)]
    connection.execute(tables.models.update().where(where).values(columns=grown))


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
