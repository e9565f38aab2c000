"""Findings of the join: predictions whose outcomes conflict, and outcomes that fit no prediction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    String,
    Table,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
)

from feedback_loop.errors import NotFound
from feedback_loop.schema import Contract, shown_names
from feedback_loop.store.engine import Store
from feedback_loop.store.join_query import CONFLICT, is_known, same_key
from feedback_loop.store.model_tables import ModelTables, find_tables
from feedback_loop.store.schema import Identifier, Moment, shared_table

Finding = Literal["unmatched", "conflict"]
"""`unmatched`: an outcome that fits no prediction; `conflict`: a prediction whose outcomes contradict each other."""

UNMATCHED: Finding = "unmatched"
CONFLICTING: Finding = "conflict"


findings = shared_table(
    "findings",
    None,
    Column("model", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("subject", String, primary_key=True),  # the outcome's or the prediction's id
    Column("since", Moment, nullable=False),
)


@dataclass(frozen=True)
class Span:
    """What was recorded after `since` and by `until`."""

    since: datetime
    until: datetime

    def holds(self, recorded_at: ColumnElement[Any]) -> ColumnElement[bool]:
        """Whether a row was recorded in the span."""
        return and_(recorded_at > self.since, recorded_at <= self.until)


def note_conflicts(
    connection: Connection, model: str, affected: Table, rows: list[dict[str, Any]], since: datetime
) -> None:
    """Records which of the affected predictions have outcomes that contradict each other, and removes the others."""
    ids = select(cast(affected.c.prediction_id, String))
    of_kind = and_(findings.c.model == model, findings.c.kind == CONFLICTING)
    connection.execute(findings.delete().where(of_kind, findings.c.subject.in_(ids)))
    conflicts = [
        {"model": model, "kind": CONFLICTING, "subject": row["prediction_id"], "since": since}
        for row in rows
        if row[CONFLICT]
    ]
    if conflicts:
        connection.execute(findings.insert(), conflicts)


def note_unmatched(connection: Connection, tables: ModelTables, contract: Contract, span: Span) -> None:
    """Records new outcomes that fit no prediction, and removes those that a new prediction fits."""
    outcomes = tables.outcomes
    of_kind = and_(findings.c.model == contract.model, findings.c.kind == UNMATCHED)
    if connection.execute(select(exists().where(of_kind))).scalar_one():
        for generation in tables.generations:
            for fits in _fits(tables, generation.table, contract):
                matched = select(cast(outcomes.c.outcome_id, String)).join(generation.table, fits)
                matched = matched.where(span.holds(generation.table.c.logged_at))
                connection.execute(findings.delete().where(of_kind, findings.c.subject.in_(matched)))
    fits_any = [
        exists().where(fits, is_known(generation.table.c.logged_at, span.until))
        for generation in tables.generations
        for fits in _fits(tables, generation.table, contract)
    ]
    subject = cast(outcomes.c.outcome_id, String)
    new = select(literal(contract.model), literal(UNMATCHED), subject, literal(span.until, Moment()))
    new = new.where(span.holds(outcomes.c.recorded_at), outcomes.c.revision == 1, *(~fits for fits in fits_any))
    connection.execute(findings.insert().from_select(["model", "kind", "subject", "since"], new))


def _fits(tables: ModelTables, predictions: Table, contract: Contract) -> Iterator[ColumnElement[bool]]:
    """Conditions of an outcome being about a prediction: by id, by key. Two queries, so that each uses its index."""
    yield tables.outcomes.c.prediction_id == predictions.c.prediction_id
    if tables.key:
        yield same_key(tables, predictions, tables.outcomes, contract.join)


def load_findings(store: Store, contract: Contract, kind: Finding, most: int | None = None) -> list[dict[str, Any]]:
    """The findings of one kind, oldest first, at `most` so many.

    Unmatched outcomes with their content, or the ids of predictions whose outcomes conflict. Columns have the model's
    names.
    """
    of_kind = and_(findings.c.model == contract.model, findings.c.kind == kind)
    with store.read() as connection:
        try:
            tables = find_tables(connection, contract.model)
        except NotFound:
            return []
        if kind == CONFLICTING:
            statement = select(findings.c.subject.label("prediction_id"), findings.c.since).where(of_kind)
        else:
            outcomes = tables.outcomes
            shown = [column for column in outcomes.c if column.name != "event_at"]
            statement = (
                select(*shown)
                .join(findings, findings.c.subject == cast(outcomes.c.outcome_id, String))
                .where(of_kind)
            )
        ordered = statement.order_by(findings.c.since, findings.c.subject).limit(most)
        names = shown_names((*contract.key, *contract.labels))
        names = {stored: name for stored, name in names.items() if name not in tables.outcomes.c}
        rows = connection.execute(ordered).mappings()
        return [{names.get(column, column): value for column, value in row.items()} for row in rows]


def count_findings(store: Store, model: str) -> dict[str, int]:
    """The number of unmatched outcomes (they may be early) and of predictions whose outcomes conflict."""
    counts = select(findings.c.kind, func.count()).where(findings.c.model == model).group_by(findings.c.kind)
    with store.read() as connection:
        return {UNMATCHED: 0, CONFLICTING: 0} | {row[0]: row[1] for row in connection.execute(counts)}


def prune_findings(connection: Connection, tables: ModelTables) -> int:
    """Removes the findings about rows that are gone; returns how many."""
    # In a CASE: the subject of a finding of the other kind could not be cast.
    outcome = case((findings.c.kind == UNMATCHED, cast(findings.c.subject, BigInteger)))
    prediction = case((findings.c.kind == CONFLICTING, cast(findings.c.subject, Identifier)))
    exists_still: ColumnElement[bool] = exists().where(tables.outcomes.c.outcome_id == outcome)
    for generation in tables.generations:
        exists_still = or_(exists_still, exists().where(generation.table.c.prediction_id == prediction))
    return connection.execute(delete(findings).where(findings.c.model == tables.model, ~exists_still)).rowcount
