"""Removes what is older than the configured retention: predictions, outcomes, and records of what ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column as SqlColumn
from sqlalchemy import ColumnElement, Connection, and_, delete, exists, false, func, or_, select, true

from feedback_loop.errors import NotFound
from feedback_loop.schema import JoinRule, Which
from feedback_loop.store.alerts import Alert, alerts
from feedback_loop.store.conclusions import Verdict, verdicts
from feedback_loop.store.coverage import subtract_outcomes
from feedback_loop.store.engine import Store
from feedback_loop.store.findings import prune_findings
from feedback_loop.store.incidents import incidents
from feedback_loop.store.join_query import matches
from feedback_loop.store.ledger import ENDED, JobRun, job_runs
from feedback_loop.store.model_tables import ModelTables, find_tables, retentions
from feedback_loop.store.partitions import drop_partition, partitions_before
from feedback_loop.store.records import remove, upsert

BATCH = 5000
"""Rows that one transaction deletes: other writers never wait long for it."""


@dataclass(frozen=True)
class Pruned:
    """How many records were removed."""

    job_runs: int = 0
    alerts: int = 0
    verdicts: int = 0


@dataclass(frozen=True)
class Retained:
    """How many rows were removed; `predictions` counts those of dropped `partitions` too."""

    kept_since: datetime
    predictions: int = 0
    partitions: int = 0
    outcomes: int = 0
    findings: int = 0


def kept_since(store: Store, model: str) -> datetime | None:
    """The moment since which a model's predictions are complete; None if retention has removed none."""
    with store.read() as connection:
        return connection.execute(
            select(retentions.c.kept_since).where(retentions.c.model == model)
        ).scalar_one_or_none()


def retain(store: Store, model: str, rule: JoinRule, since: datetime) -> Retained:
    """Removes a model's predictions from before `since`, and older outcomes that fit no prediction that stays.

    On PostgreSQL whole months are dropped as partitions; other rows are deleted in batches. `kept_since` is recorded
    first, so that windows from before it are refused from then on.
    """
    since = _record_kept_since(store, model, since)
    try:
        with store.read() as connection:
            tables = find_tables(connection, model)
    except NotFound:
        return Retained(since)
    outcomes = _delete_outcomes(store, tables, _belongs_to_removed(tables, rule, since))
    actions = tables.of_actions
    _delete_in_batches(store, tables.actions.c.outcome_id, _belongs_to_removed(actions, rule, since))
    predictions = partitions = 0
    for generation in tables.generations:
        with store.read() as connection:
            old = partitions_before(connection, generation.table, since)
        for part in old:
            with store.write() as connection:
                predictions += drop_partition(connection, part)
            partitions += 1
        table = generation.table
        predictions += _delete_in_batches(store, table.c.prediction_id, table.c.predicted_at < since)
    outcomes += _delete_outcomes(store, tables, _fits_none_left(tables, rule, since))
    _delete_in_batches(store, tables.actions.c.outcome_id, _fits_none_left(actions, rule, since))
    with store.write() as connection:
        findings = prune_findings(connection, tables)
    return Retained(since, predictions, partitions, outcomes, findings)


def prune_records(store: Store, model: str, before: datetime) -> Pruned:
    """Removes job runs, delivered alerts and verdicts that ended before a moment and that nothing refers to.

    Kept, however old: each job's newest run that ended, the newest verdict on each version (it holds the monitor's
    state), verdicts that an incident names, and all that is still open. An alert that is removed may be raised again.
    """
    runs = job_runs.c
    last_runs = (
        select(func.max(runs.scheduled_at)).where(runs.model == model, runs.state.in_(ENDED)).group_by(runs.job)
    )
    open_incidents = select(incidents.c.incident_id).where(incidents.c.closed_at.is_(None))
    is_free = or_(alerts.c.incident_id.is_(None), alerts.c.incident_id.not_in(open_incidents))
    newest = select(func.max(verdicts.c.verdict_id)).where(verdicts.c.model == model).group_by(verdicts.c.version)
    named = [
        select(column).where(incidents.c.model == model, column.is_not(None))
        for column in (incidents.c.verdict_id, incidents.c.closed_verdict_id)
    ]
    is_unused = [verdicts.c.verdict_id.not_in(ids) for ids in (newest, *named)]
    with store.write() as connection:
        return Pruned(
            remove(connection, JobRun, runs.finished_at < before, runs.scheduled_at.not_in(last_runs), model=model),
            remove(connection, Alert, alerts.c.state != "pending", alerts.c.next_attempt_at < before, is_free),
            remove(connection, Verdict, verdicts.c.decided_at < before, *is_unused, model=model),
        )


def _record_kept_since(store: Store, model: str, since: datetime) -> datetime:
    """Records the moment unless a later one is recorded; returns the recorded one."""
    with store.write() as connection:
        row = {"model": model, "kept_since": since}
        upsert(connection, retentions, [row], where=lambda new: retentions.c.kept_since < new.kept_since)
        recorded: datetime = connection.execute(
            select(retentions.c.kept_since).where(retentions.c.model == model)
        ).scalar_one()
    return recorded


def _belongs_to_removed(tables: ModelTables, rule: JoinRule, since: datetime) -> ColumnElement[bool]:
    """Outcomes of a key whose prediction goes, and that would fall to a later prediction if they stayed."""
    if rule.which is not Which.FIRST or not tables.key:
        return false()
    outcomes = tables.outcomes
    fits_removed = (
        exists().where(matches(tables, generation.table, outcomes, rule), generation.table.c.predicted_at < since)
        for generation in tables.generations
    )
    return and_(outcomes.c.prediction_id.is_(None), or_(*fits_removed))


def _fits_none_left(tables: ModelTables, rule: JoinRule, since: datetime) -> ColumnElement[bool]:
    """Old outcomes without a prediction. One whose subject has a newer revision is not old."""
    outcomes, newer = tables.outcomes, tables.outcomes.alias()
    same: ColumnElement[Any] = newer.c.prediction_id == outcomes.c.prediction_id
    if tables.key:
        fields = [*(column.stored for column in tables.key), "event_at"]
        same = or_(same, and_(*(newer.c[field] == outcomes.c[field] for field in fields)))
    return and_(
        outcomes.c.recorded_at < since,
        ~exists().where(same, newer.c.recorded_at >= since),
        *(~exists().where(matches(tables, generation.table, outcomes, rule)) for generation in tables.generations),
    )


def _delete_outcomes(store: Store, tables: ModelTables, where: ColumnElement[bool]) -> int:
    key = tables.outcomes.c.outcome_id
    return _delete_in_batches(
        store, key, where, lambda connection, batch: subtract_outcomes(connection, tables, batch)
    )


def _delete_in_batches(
    store: Store,
    key: SqlColumn[Any],
    where: ColumnElement[bool],
    before: Callable[[Connection, ColumnElement[bool]], None] = lambda *_: None,
) -> int:
    """Deletes the rows of the key's table that meet a condition, `BATCH` at a time, in the key's order.

    `before` is called with each batch, in the transaction that deletes it.
    """
    deleted, last = 0, None
    while True:
        with store.write() as connection:
            batch = select(key).where(where, key > last if last is not None else true())
            ids = connection.execute(batch.order_by(key).limit(BATCH)).scalars().all()
            if not ids:
                return deleted
            before(connection, key.in_(ids))
            connection.execute(delete(key.table).where(key.in_(ids)))
        deleted, last = deleted + len(ids), ids[-1]
