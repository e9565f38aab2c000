"""The outcomes' table: append-only, a correction is the next revision of its subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import Connection, MetaData, Table, and_, exc, exists, func, or_, select

from feedback_loop.errors import NotFound, Unavailable
from feedback_loop.schema import Contract
from feedback_loop.store import tables
from feedback_loop.store.engine import Store
from feedback_loop.store.model_tables import ModelTables, ensure_tables, find_tables
from feedback_loop.store.types import Identifier, sql_type

TRIES = 5
"""How often an intake is begun anew because another one wrote the same subject's revision first."""


@dataclass(frozen=True)
class Intake:
    """What became of outcomes: `received = new + corrected + unchanged`; `unmatched` are among these."""

    received: int = 0
    new: int = 0
    corrected: int = 0
    unchanged: int = 0
    unmatched: int = 0

    def __add__(self, other: Intake) -> Intake:
        return Intake(
            self.received + other.received,
            self.new + other.new,
            self.corrected + other.corrected,
            self.unchanged + other.unchanged,
            self.unmatched + other.unmatched,
        )


def append_outcomes(store: Store, contract: Contract, rows: pa.Table, now: datetime, *, timed: bool) -> Intake:
    """Stores outcomes in one transaction, each as its subject's next revision unless it says nothing new.

    `rows` holds `prediction_id` (or null), the key's and the label's stored columns, `occurred_at`, `recorded_at`
    and `source`. `timed` says that `occurred_at` came from the caller: only then does another time make another
    revision. Raises Unavailable where other writers kept getting in between.
    """
    found = ensure_tables(store, contract, now)
    for _ in range(TRIES):
        try:
            with store.write() as connection:
                return _append(connection, found, rows.to_pylist(), timed=timed)
        except exc.IntegrityError:
            continue
    raise Unavailable(
        "database", f"Other writers kept correcting the same outcomes of {contract.model!r}.", cure="Again."
    )


def count_outcomes(store: Store, model: str) -> tuple[int, int]:
    """How many subjects have an outcome, and how many of these match no prediction (they may be early)."""
    with store.read() as connection:
        try:
            found = find_tables(connection, model)
        except NotFound:
            return 0, 0
        first = found.outcomes.c.revision == 1
        total = connection.execute(select(func.count()).where(first)).scalar_one()
        matched = or_(*_matches(found, found.outcomes))
        unmatched = connection.execute(select(func.count()).where(first, ~matched)).scalar_one()
    return total, unmatched


def latest_as_of(store: Store, model: str) -> datetime | None:
    """The newest moment as of which the model has been evaluated."""
    evaluated = tables.evaluations.c
    newest = select(func.max(evaluated.as_of)).where(evaluated.model == model)
    with store.read() as connection:
        asked: datetime | None = connection.execute(newest).scalar_one()
    return asked


def _append(connection: Connection, found: ModelTables, rows: Sequence[dict[str, Any]], *, timed: bool) -> Intake:
    asked = _ask(connection, found, rows)
    newest = _newest_revisions(connection, found, asked)
    matched = set(connection.execute(select(asked.c.ordinal).where(or_(*_matches(found, asked)))).scalars())
    asked.drop(connection)
    key, label = [column.stored for column in found.key], found.label.stored
    known: dict[object, tuple[int, object, datetime]] = {}
    inserts: list[dict[str, Any]] = []
    counts = {"new": 0, "corrected": 0, "unchanged": 0}
    for ordinal, row in enumerate(rows):
        subject = row["prediction_id"] or tuple(row[field] for field in key)
        revision, value, occurred_at = known.get(subject) or newest.get(ordinal) or (0, None, None)
        if revision and value == row[label] and (occurred_at == row["occurred_at"] or not timed):
            counts["unchanged"] += 1
            continue
        counts["corrected" if revision else "new"] += 1
        known[subject] = (revision + 1, row[label], row["occurred_at"])
        inserts.append({**row, "revision": revision + 1})
    if inserts:
        connection.execute(found.outcomes.insert(), inserts)
    return Intake(received=len(rows), unmatched=len(rows) - len(matched), **counts)


def _ask(connection: Connection, found: ModelTables, rows: Sequence[dict[str, Any]]) -> Table:
    """The rows' subjects in a temporary table, so that the database can join them."""
    asked = Table(
        "asked_outcomes",
        MetaData(),
        sa.Column("ordinal", sa.Integer, primary_key=True),
        sa.Column("prediction_id", Identifier),
        *(sa.Column(column.stored, sql_type(column.type)) for column in found.key),
        prefixes=["TEMPORARY"],
    )
    asked.create(connection, checkfirst=False)
    subjects = [
        {"ordinal": ordinal, **{column.name: row[column.name] for column in asked.c if column.name != "ordinal"}}
        for ordinal, row in enumerate(rows)
    ]
    if subjects:
        connection.execute(asked.insert(), subjects)
    return asked


def _newest_revisions(connection: Connection, found: ModelTables, asked: Table) -> dict[int, Any]:
    outcomes, label = found.outcomes, found.label.stored
    newest: dict[int, Any] = {}
    for fields in (["prediction_id"], [column.stored for column in found.key]):
        if not fields:
            continue
        same = and_(*(outcomes.c[field] == asked.c[field] for field in fields))
        statement = select(asked.c.ordinal, outcomes.c.revision, outcomes.c[label], outcomes.c.occurred_at)
        rows = connection.execute(statement.join_from(asked, outcomes, same).order_by(outcomes.c.revision))
        newest.update({row[0]: tuple(row[1:]) for row in rows})
    return newest


def _matches(found: ModelTables, subjects: Table) -> list[sa.ColumnElement[bool]]:
    """Conditions, one of which holds for a subject that any prediction has."""
    conditions: list[sa.ColumnElement[bool]] = []
    for generation in found.generations:
        table = generation.table
        conditions.append(exists().where(table.c.prediction_id == subjects.c.prediction_id))
        if found.key:
            keys = [column.stored for column in found.key]
            conditions.append(exists().where(*(table.c[field] == subjects.c[field] for field in keys)))
    return conditions
