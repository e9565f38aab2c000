"""What a run of the join finds odd: predictions whose outcomes conflict, outcomes that fit no prediction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Column, ColumnElement, Connection, String, Table, and_, cast, exists, func, literal, select

from feedback_loop.errors import NotFound
from feedback_loop.schema import Contract, shown_names
from feedback_loop.store.engine import Store
from feedback_loop.store.labels import CONFLICT, is_known, same_key
from feedback_loop.store.model_tables import ModelTables, find_tables
from feedback_loop.store.schema import Moment, shared_table

Finding = Literal["unmatched", "conflict"]
"""What may be odd: an outcome that no prediction fits, a prediction whose outcomes contradict each other."""

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
        """Whether a row was recorded in it."""
        return and_(recorded_at > self.since, recorded_at <= self.until)


def note_conflicts(
    connection: Connection, model: str, affected: Table, rows: list[dict[str, Any]], since: datetime
) -> None:
    """Notes which of the affected predictions have outcomes that contradict each other."""
    table = findings
    ids = select(cast(affected.c.prediction_id, String))
    mine = and_(table.c.model == model, table.c.kind == CONFLICTING)
    connection.execute(table.delete().where(mine, table.c.subject.in_(ids)))
    conflicts = [
        {"model": model, "kind": CONFLICTING, "subject": row["prediction_id"], "since": since}
        for row in rows
        if row[CONFLICT]
    ]
    if conflicts:
        connection.execute(table.insert(), conflicts)


def note_unmatched(connection: Connection, found: ModelTables, contract: Contract, span: Span) -> None:
    """Notes the new outcomes that fit no prediction, and strikes out those that a new prediction has come for."""
    table, outcomes = findings, found.outcomes
    mine = and_(table.c.model == contract.model, table.c.kind == UNMATCHED)
    if connection.execute(select(exists().where(mine))).scalar_one():
        for generation in found.generations:
            for fits in _fits(found, generation.table, contract):
                came = select(cast(outcomes.c.outcome_id, String)).join(generation.table, fits)
                came = came.where(span.holds(generation.table.c.logged_at))
                connection.execute(table.delete().where(mine, table.c.subject.in_(came)))
    fits_any = [
        exists().where(fits, is_known(generation.table.c.logged_at, span.until))
        for generation in found.generations
        for fits in _fits(found, generation.table, contract)
    ]
    subject = cast(outcomes.c.outcome_id, String)
    new = select(literal(contract.model), literal(UNMATCHED), subject, literal(span.until, Moment()))
    new = new.where(span.holds(outcomes.c.recorded_at), outcomes.c.revision == 1, *(~each for each in fits_any))
    connection.execute(table.insert().from_select(["model", "kind", "subject", "since"], new))


def _fits(found: ModelTables, predictions: Table, contract: Contract) -> Iterator[ColumnElement[bool]]:
    """Whether an outcome is about a prediction: by its id; by its key. Apart, so that each is found by its index."""
    yield found.outcomes.c.prediction_id == predictions.c.prediction_id
    if found.key:
        yield same_key(found, predictions, found.outcomes, contract.join)


def load_findings(store: Store, contract: Contract, kind: Finding, most: int | None = None) -> list[dict[str, Any]]:
    """What is odd, oldest first: unmatched outcomes with their content, or predictions whose outcomes conflict.

    Columns are called as the model calls them.
    """
    table = findings
    mine = and_(table.c.model == contract.model, table.c.kind == kind)
    with store.read() as connection:
        try:
            found = find_tables(connection, contract.model)
        except NotFound:
            return []
        if kind == CONFLICTING:
            statement = select(table.c.subject.label("prediction_id"), table.c.since).where(mine)
        else:
            outcomes = found.outcomes
            shown = [column for column in outcomes.c if column.name != "event_at"]
            statement = select(*shown).join(table, table.c.subject == cast(outcomes.c.outcome_id, String)).where(mine)
        ordered = statement.order_by(table.c.since, table.c.subject).limit(most)
        names = shown_names((*contract.key, *contract.labels))
        names = {stored: name for stored, name in names.items() if name not in found.outcomes.c}
        rows = connection.execute(ordered).mappings()
        return [{names.get(column, column): value for column, value in row.items()} for row in rows]


def count_findings(store: Store, model: str) -> dict[str, int]:
    """How many outcomes fit no prediction (they may be early), and how many predictions' outcomes conflict."""
    table = findings
    counts = select(table.c.kind, func.count()).where(table.c.model == model).group_by(table.c.kind)
    with store.read() as connection:
        return {UNMATCHED: 0, CONFLICTING: 0} | {row[0]: row[1] for row in connection.execute(counts)}
