"""Removes a key's rows from the model's tables and from everything that was counted of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, func, or_, select

from feedback_loop.errors import NotFound
from feedback_loop.schema import Contract, segment_name
from feedback_loop.store.coverage import coverage_counts, joins, subtract_outcomes
from feedback_loop.store.engine import Store
from feedback_loop.store.erased_keys import Key, record_predictions
from feedback_loop.store.evaluations import forget_segments
from feedback_loop.store.findings import prune_findings
from feedback_loop.store.joins import Fold, subtract_predictions
from feedback_loop.store.model_tables import ModelTables, find_tables
from feedback_loop.store.profiles import profiles
from feedback_loop.store.records import pages

GONE = "(erased {})"
"""Replaces an erased value in the list of segments, so that no other value moves up to its place."""


@dataclass(frozen=True)
class Erased:
    """How many rows were removed from each table (or would be)."""

    predictions: int = 0
    outcomes: int = 0
    findings: int = 0


def find_predictions(store: Store, model: str, key: Key) -> dict[str, datetime]:
    """The ids of the predictions with that key, and when each was made."""
    with store.read() as connection:
        try:
            return _predictions_with(connection, find_tables(connection, model), key)
        except NotFound:
            return {}


def count_rows(store: Store, model: str, key: Key) -> Erased:
    """What `erase_rows` would remove; findings are not counted."""
    with store.read() as connection:
        try:
            tables = find_tables(connection, model)
        except NotFound:
            return Erased()
        predictions = sum(
            _count(connection, generation.table, _has_key(generation.table, key)) for generation in tables.generations
        )
        return Erased(predictions, _count(connection, tables.outcomes, _outcomes_with(tables, key)))


def erase_rows(store: Store, contract: Contract, key: Key, now: datetime, fold: Fold | None = None) -> Erased:
    """Removes the predictions with that key, their outcomes and actions in all revisions, and findings about them.

    In one transaction, which also takes them out of the coverage counts and (by `fold`) out of the profiles, removes
    segments that only they had, and records the predictions' ids as digests.
    """
    with store.write() as connection:
        try:
            tables = find_tables(connection, contract.model)
        except NotFound:
            return Erased()
        ids = list(_predictions_with(connection, tables, key))
        record_predictions(connection, contract.model, ids, store.secret, now)
        values = subtract_predictions(connection, tables, contract, ids, store.secret, fold) if ids else {}
        subtract_outcomes(connection, tables, _outcomes_with(tables, key))
        outcomes = connection.execute(delete(tables.outcomes).where(_outcomes_with(tables, key))).rowcount
        connection.execute(delete(tables.actions).where(_outcomes_with(tables.of_actions, key)))
        predictions = sum(
            connection.execute(delete(generation.table).where(_has_key(generation.table, key))).rowcount
            for generation in tables.generations
        )
        for column, column_values in values.items():
            _forget_segments(connection, tables, contract, column, column_values)
        erased = Erased(predictions, outcomes, prune_findings(connection, tables))
    store.flush()
    return erased


def _forget_segments(
    connection: Connection, tables: ModelTables, contract: Contract, column: str, values: set[object]
) -> None:
    """Removes the segments of a column's values that no row of the log has any more, wherever they are named."""
    stored = contract.column(column).stored
    with_column = [generation.table for generation in tables.generations if stored in generation.table.c]
    gone = {
        str(value)
        for value in values
        if not any(_has_row(connection, table, table.c[stored] == value) for table in with_column)
    }
    if not gone:
        return
    segments = {segment_name(column, value) for value in gone}
    forget_segments(connection, contract.model, segments)
    for table in (coverage_counts, profiles):
        for page in pages(segments):
            connection.execute(delete(table).where(table.c.segment.in_(page), table.c.model == contract.model))
    of_model = joins.c.model == contract.model
    stored_values = dict(connection.execute(select(joins.c.segments).where(of_model)).scalar_one())
    stored_values[column] = [
        GONE.format(place) if value in gone else value for place, value in enumerate(stored_values.get(column, ()))
    ]
    connection.execute(joins.update().where(of_model).values(segments=stored_values))


def _predictions_with(connection: Connection, tables: ModelTables, key: Key) -> dict[str, datetime]:
    predicted_at: dict[str, datetime] = {}
    for generation in tables.generations:
        log = generation.table.c
        rows = connection.execute(select(log.prediction_id, log.predicted_at).where(_has_key(generation.table, key)))
        predicted_at |= {row.prediction_id: row.predicted_at for row in rows}
    return predicted_at


def _has_key(table: Table, key: Key) -> ColumnElement[bool]:
    return and_(*(table.c[name] == value for name, value in key.items()))


def _outcomes_with(tables: ModelTables, key: Key) -> ColumnElement[bool]:
    """Outcomes with that key, and outcomes that name a prediction with it."""
    outcomes = tables.outcomes
    by_id = (
        outcomes.c.prediction_id.in_(select(generation.table.c.prediction_id).where(_has_key(generation.table, key)))
        for generation in tables.generations
    )
    return or_(_has_key(outcomes, key), *by_id)


def _count(connection: Connection, table: Table, where: ColumnElement[bool]) -> int:
    return connection.execute(select(func.count()).select_from(table).where(where)).scalar_one()


def _has_row(connection: Connection, table: Table, where: ColumnElement[bool]) -> bool:
    return bool(connection.execute(select(exists().select_from(table).where(where))).scalar_one())
