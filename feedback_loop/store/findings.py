"""What a run of the join finds odd: predictions whose outcomes conflict, outcomes that fit no prediction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, String, Table, and_, cast, exists, literal, select

from feedback_loop.schema import Contract
from feedback_loop.store import tables
from feedback_loop.store.accounts import CONFLICTING, UNMATCHED
from feedback_loop.store.labels import CONFLICT, is_known, same_key
from feedback_loop.store.model_tables import ModelTables
from feedback_loop.store.types import Moment


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
    table = tables.findings
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
    table, outcomes = tables.findings, found.outcomes
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
