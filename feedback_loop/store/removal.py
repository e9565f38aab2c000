"""An erasure's rows taken out of the tables, and out of all that was counted of them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, Table, delete, exists, select

from feedback_loop.errors import NotFound
from feedback_loop.schema import Contract, segment_name
from feedback_loop.store import tables, watching_tables
from feedback_loop.store.engine import Store
from feedback_loop.store.erasure import Erased, Key, has_in, outcomes_of, remember_ids
from feedback_loop.store.joins import Fold, take_out
from feedback_loop.store.model_tables import ModelTables, find_tables
from feedback_loop.store.retention import prune_findings

_OF_EVALUATIONS = (watching_tables.metric_values, watching_tables.estimate_values, watching_tables.slice_values)

GONE = "(erased {})"
"""What takes the place of a value that nobody has any more, so that no other is counted by itself instead."""


def remove(store: Store, contract: Contract, key: Key, now: datetime, fold: Fold | None = None) -> Erased:
    """Removes the predictions with that key, all revisions of their outcomes, and findings about them.

    All at once: a reader sees all or nothing of it. Accounts go down with them, tallies too (by `fold`), and segments
    that were of nobody else go. Their ids are remembered as digests.
    """
    with store.write() as connection:
        try:
            found = find_tables(connection, contract.model)
        except NotFound:
            return Erased()
        ids = [
            identifier
            for table in (each.table for each in found.generations)
            for identifier in connection.execute(select(table.c.prediction_id).where(has_in(table, key))).scalars()
        ]
        remember_ids(connection, contract.model, ids, store.secret, now)
        values = take_out(connection, found, contract, ids, store.secret, fold) if ids else {}
        outcomes = connection.execute(delete(found.outcomes).where(outcomes_of(found, key))).rowcount
        predictions = sum(
            connection.execute(delete(each.table).where(has_in(each.table, key))).rowcount
            for each in found.generations
        )
        for name, those in values.items():
            _forget_segments(connection, found, contract, name, those)
        done = Erased(predictions, outcomes, prune_findings(connection, found))
    store.flush()
    return done


def _forget_segments(
    connection: Connection, found: ModelTables, contract: Contract, column: str, values: set[object]
) -> None:
    """Takes the values of a column away, wherever they name a segment, that no row of the log has any more."""
    stored = contract.column(column).stored
    holding = [each.table for each in found.generations if stored in each.table.c]
    gone = [value for value in values if not any(_has_value(connection, each, stored, value) for each in holding)]
    if not gone:
        return
    mine = tables.joins.c.model == contract.model
    named = dict(connection.execute(select(tables.joins.c.segments).where(mine)).scalar_one())
    for value in gone:
        segment = segment_name(column, str(value))
        own = watching_tables.evaluations
        evaluated = select(own.c.evaluation_id).where(own.c.model == contract.model)
        for table in _OF_EVALUATIONS:
            connection.execute(delete(table).where(table.c.segment == segment, table.c.evaluation_id.in_(evaluated)))
        for table in (tables.label_accounts, watching_tables.profiles):
            connection.execute(delete(table).where(table.c.segment == segment, table.c.model == contract.model))
        kept = list(named.get(column, ()))
        named[column] = [GONE.format(place) if each == str(value) else each for place, each in enumerate(kept)]
    connection.execute(tables.joins.update().where(mine).values(segments=named))


def _has_value(connection: Connection, table: Table, stored: str, value: object) -> bool:
    return bool(connection.execute(select(exists().where(table.c[stored] == value))).scalar_one())
