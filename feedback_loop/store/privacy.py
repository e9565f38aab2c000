"""Rows that go for good, out of the tables and out of all that was counted of them: by retention, by an erasure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column as SqlColumn
from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    case,
    cast,
    delete,
    exists,
    false,
    func,
    or_,
    select,
    true,
)
from sqlalchemy.types import BigInteger

from feedback_loop.errors import NotFound
from feedback_loop.schema import Contract, JoinRule, Which, segment_name
from feedback_loop.store.alerts import Alert, alerts
from feedback_loop.store.conclusions import Verdict, verdicts
from feedback_loop.store.coverage import counted, joins
from feedback_loop.store.engine import Store
from feedback_loop.store.erasure import Erased, Key, has_in, outcomes_of, remember_ids
from feedback_loop.store.evaluations import forget_segments
from feedback_loop.store.findings import findings
from feedback_loop.store.incidents import incidents
from feedback_loop.store.joins import Fold, take_out
from feedback_loop.store.labels import matches
from feedback_loop.store.ledger import JobRun, job_runs
from feedback_loop.store.model_tables import ModelTables, drop_partition, find_tables, partitions_before, retentions
from feedback_loop.store.profiles import profiles
from feedback_loop.store.records import insert_unless
from feedback_loop.store.records import remove as remove_rows
from feedback_loop.store.schema import Identifier

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
    mine = joins.c.model == contract.model
    named = dict(connection.execute(select(joins.c.segments).where(mine)).scalar_one())
    forget_segments(connection, contract.model, {segment_name(column, str(value)) for value in gone})
    for value in gone:
        segment = segment_name(column, str(value))
        for table in (counted, profiles):
            connection.execute(delete(table).where(table.c.segment == segment, table.c.model == contract.model))
        kept = list(named.get(column, ()))
        named[column] = [GONE.format(place) if each == str(value) else each for place, each in enumerate(kept)]
    connection.execute(joins.update().where(mine).values(segments=named))


def _has_value(connection: Connection, table: Table, stored: str, value: object) -> bool:
    return bool(connection.execute(select(exists().where(table.c[stored] == value))).scalar_one())


BATCH = 5000
"""Rows that one transaction deletes: nobody waits long behind it."""


@dataclass(frozen=True)
class Pruned:
    """What a run removed of the records."""

    job_runs: int = 0
    alerts: int = 0
    verdicts: int = 0


@dataclass(frozen=True)
class Retained:
    """What a run removed: `predictions` counts the rows of dropped `partitions` too."""

    kept_since: datetime
    predictions: int = 0
    partitions: int = 0
    outcomes: int = 0
    findings: int = 0


def kept_since(store: Store, model: str) -> datetime | None:
    """From when on a model's predictions are all there; None: retention has removed nothing."""
    table = retentions.c
    with store.read() as connection:
        since: datetime | None = connection.execute(
            select(table.kept_since).where(table.model == model)
        ).scalar_one_or_none()
    return since


def retain(store: Store, model: str, rule: JoinRule, since: datetime) -> Retained:
    """Removes the model's predictions from before a moment, and outcomes recorded before it that fit none that stays.

    PostgreSQL's months that are wholly before it are dropped, other rows deleted in batches. That they go is on
    record first: whoever asks about a window from before it is refused from then on.
    """
    since = _remember(store, model, since)
    try:
        with store.read() as connection:
            found = find_tables(connection, model)
    except NotFound:
        return Retained(since)
    outcomes = _delete_in_batches(store, found.outcomes.c.outcome_id, _belongs_to_what_goes(found, rule, since))
    predictions = partitions = 0
    for generation in found.generations:
        with store.read() as connection:
            old = partitions_before(connection, generation.table, since)
        for part in old:
            with store.write() as connection:
                predictions += drop_partition(connection, part)
            partitions += 1
        table = generation.table
        predictions += _delete_in_batches(store, table.c.prediction_id, table.c.predicted_at < since)
    outcomes += _delete_in_batches(store, found.outcomes.c.outcome_id, _is_left_over(found, rule, since))
    with store.write() as connection:
        findings = prune_findings(connection, found)
    return Retained(since, predictions, partitions, outcomes, findings)


def prune_findings(connection: Connection, found: ModelTables) -> int:
    """Removes the findings about rows that are gone; returns how many."""
    finding = findings
    # In a CASE: a subject of the other kind could not be cast.
    outcome = case((finding.c.kind == "unmatched", cast(finding.c.subject, BigInteger)))
    prediction = case((finding.c.kind == "conflict", cast(finding.c.subject, Identifier)))
    kept: ColumnElement[bool] = exists().where(found.outcomes.c.outcome_id == outcome)
    for generation in found.generations:
        kept = or_(kept, exists().where(generation.table.c.prediction_id == prediction))
    return connection.execute(delete(finding).where(finding.c.model == found.model, ~kept)).rowcount


def prune_records(store: Store, model: str, before: datetime) -> Pruned:
    """Removes what ended before a moment and nothing goes on from: runs, alerts that were told, verdicts.

    What stays, however old: the newest run that came to an end of each job, the newest verdict on each version with
    its monitors, whatever an incident names, and all that is open. An alert that is gone may be told anew.
    """
    runs, said = job_runs, verdicts
    mine = runs.c.model == model
    ended = runs.c.state.in_(["succeeded", "failed"])
    last = select(func.max(runs.c.scheduled_at)).where(mine, ended).group_by(runs.c.job)
    open_ones = select(incidents.c.incident_id).where(incidents.c.closed_at.is_(None))
    newest = select(func.max(said.c.verdict_id)).where(said.c.model == model).group_by(said.c.version)
    named = [
        select(column).where(incidents.c.model == model, column.is_not(None))
        for column in (incidents.c.verdict_id, incidents.c.closed_verdict_id)
    ]
    is_free = or_(alerts.c.incident_id.is_(None), alerts.c.incident_id.not_in(open_ones))
    kept = (said.c.verdict_id.not_in(each) for each in (newest, *named))
    with store.write() as connection:
        return Pruned(
            remove_rows(
                connection, JobRun, runs.c.finished_at < before, runs.c.scheduled_at.not_in(last), model=model
            ),
            remove_rows(connection, Alert, alerts.c.state != "pending", alerts.c.next_attempt_at < before, is_free),
            remove_rows(connection, Verdict, said.c.decided_at < before, *kept, model=model),
        )


def _remember(store: Store, model: str, since: datetime) -> datetime:
    table = retentions
    with store.write() as connection:
        insert = insert_unless(connection, table).values(model=model, kept_since=since)
        later = insert.on_conflict_do_update(
            index_elements=table.primary_key, set_={"kept_since": since}, where=table.c.kept_since < since
        )
        connection.execute(later)
        kept: datetime = connection.execute(select(table.c.kept_since).where(table.c.model == model)).scalar_one()
    return kept


def _belongs_to_what_goes(found: ModelTables, rule: JoinRule, since: datetime) -> ColumnElement[bool]:
    """Outcomes of a key that belong to a prediction that goes, and would fall to a later one if they stayed."""
    if rule.which is not Which.FIRST or not found.key:
        return false()
    outcome = found.outcomes
    return and_(
        outcome.c.prediction_id.is_(None),
        or_(
            *(
                exists().where(matches(found, each.table, outcome, rule), each.table.c.predicted_at < since)
                for each in found.generations
            )
        ),
    )


def _is_left_over(found: ModelTables, rule: JoinRule, since: datetime) -> ColumnElement[bool]:
    """Old outcomes without a prediction. One whose subject has a newer revision is not old."""
    outcome, newer = found.outcomes, found.outcomes.alias()
    same: ColumnElement[Any] = newer.c.prediction_id == outcome.c.prediction_id
    if found.key:
        fields = [*(column.stored for column in found.key), "event_at"]
        same = or_(same, and_(*(newer.c[field] == outcome.c[field] for field in fields)))
    return and_(
        outcome.c.recorded_at < since,
        ~exists().where(same, newer.c.recorded_at >= since),
        *(~exists().where(matches(found, each.table, outcome, rule)) for each in found.generations),
    )


def _delete_in_batches(store: Store, key: SqlColumn[Any], where: ColumnElement[bool]) -> int:
    """Deletes a table's rows, a bounded number at a time, in the order of their key."""
    deleted, last = 0, None
    while True:
        with store.write() as connection:
            chosen = select(key).where(where, key > last if last is not None else true())
            ids = connection.execute(chosen.order_by(key).limit(BATCH)).scalars().all()
            if not ids:
                return deleted
            connection.execute(delete(key.table).where(key.in_(ids)))
        deleted, last = deleted + len(ids), ids[-1]
