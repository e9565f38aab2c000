"""What the incremental join has counted: coverage by window, version and segment, findings, reopened windows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import String, and_, cast, func, select

from feedback_loop.clock import Window
from feedback_loop.errors import NotFound
from feedback_loop.schema import Contract
from feedback_loop.store import tables
from feedback_loop.store.engine import Store
from feedback_loop.store.model_tables import find_tables

Finding = Literal["unmatched", "conflict"]
"""What may be odd: an outcome that no prediction fits, a prediction whose outcomes contradict each other."""

UNMATCHED: Finding = "unmatched"
CONFLICTING: Finding = "conflict"


@dataclass(frozen=True)
class Account:
    """Predictions of one version, role and segment (empty: all) in one window, and how many have an outcome."""

    window_start: datetime
    version: str
    role: str
    segment: str
    predictions: int
    labelled: int


def load_accounts(store: Store, model: str) -> tuple[list[Account], datetime | None]:
    """All accounts, oldest window first, and the watermark that they are as of (None: nothing was joined yet)."""
    table = tables.label_accounts
    columns = (
        table.c.bucket_start,
        table.c.version,
        table.c.role,
        table.c.segment,
        table.c.predictions,
        table.c.labelled,
    )
    with store.read() as connection:
        until = connection.execute(select(tables.joins.c.watermark).where(tables.joins.c.model == model)).scalar()
        rows = connection.execute(select(*columns).where(table.c.model == model).order_by(*columns[:4])).all()
    return [Account(*row) for row in rows if row.predictions], until


def load_findings(store: Store, contract: Contract, kind: Finding, most: int | None = None) -> list[dict[str, Any]]:
    """What is odd, oldest first: unmatched outcomes with their content, or predictions whose outcomes conflict."""
    table = tables.findings
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
        return [dict(row) for row in connection.execute(ordered).mappings()]


def count_findings(store: Store, model: str) -> dict[str, int]:
    """How many outcomes fit no prediction (they may be early), and how many predictions' outcomes conflict."""
    table = tables.findings
    counts = select(table.c.kind, func.count()).where(table.c.model == model).group_by(table.c.kind)
    with store.read() as connection:
        return {UNMATCHED: 0, CONFLICTING: 0} | {row[0]: row[1] for row in connection.execute(counts)}


def reopened_windows(store: Store, model: str, length: timedelta) -> list[Window]:
    """The windows of which something else is known than when they were last evaluated as matured, oldest first."""
    accounts, evaluated = tables.label_accounts, tables.evaluations
    start = evaluated.c.window_start
    newest = (
        select(start, evaluated.c.window_end, func.max(evaluated.c.as_of).label("as_of"))
        .where(evaluated.c.model == model, evaluated.c.matured)
        .group_by(start, evaluated.c.window_end)
        .subquery()
    )
    touched = (
        select(newest.c.window_start, newest.c.window_end)
        .join(accounts, accounts.c.bucket_start == newest.c.window_start)
        .where(accounts.c.model == model, accounts.c.changed_at > newest.c.as_of)
        .distinct()
    )
    with store.read() as connection:
        windows = [Window(*row) for row in connection.execute(touched)]
    return sorted(window for window in windows if window.end - window.start == length)
