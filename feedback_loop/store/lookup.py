"""Predictions looked up by key or id, a few at a time: what was answered, and every outcome since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, or_, select

from feedback_loop.errors import NotFound
from feedback_loop.schema import ACTED, ACTION_PROPENSITY, Column, JoinRule, shown_names
from feedback_loop.schema.ids import SLACK
from feedback_loop.schema.names import OWN
from feedback_loop.store.engine import Store
from feedback_loop.store.join_query import CONFLICT, is_known, labelled_select
from feedback_loop.store.model_tables import ModelTables, find_tables

SYSTEM = (
    "prediction_id",
    "predicted_at",
    "logged_at",
    "model_version",
    "role",
    "source",
    "request_id",
    "latency_us",
    "sample_weight",
)


@dataclass(frozen=True)
class OutcomeRevision:
    """One revision of an outcome: what was learned when, and whether it named the prediction's `id` or its `key`."""

    revision: int
    named_by: str
    source: str
    occurred_at: datetime
    recorded_at: datetime
    labels: Mapping[str, Any]


@dataclass(frozen=True)
class LoggedPrediction:
    """One row of the log. `key`, `values` (outputs and features) and `labels` have the model's names of columns.

    `labels` are those of the outcome that the join gives it (None: it has none), `revisions` all outcomes that name
    its id or its key, oldest first. `is_conflict`: two of them contradict each other, and the one by id counts.
    """

    prediction_id: str
    predicted_at: datetime
    logged_at: datetime
    model_version: str
    role: str
    source: str
    request_id: str | None
    latency_us: int | None
    sample_weight: float
    key: Mapping[str, Any]
    values: Mapping[str, Any]
    labels: Mapping[str, Any] | None
    is_conflict: bool
    acted: bool | None = None
    propensity: float | None = None
    revisions: tuple[OutcomeRevision, ...] = field(default=())


def key_columns(store: Store, model: str) -> tuple[Column, ...]:
    """The columns of a model's key, as its tables have them; none before its first prediction."""
    with store.read() as connection:
        try:
            return find_tables(connection, model).key
        except NotFound:
            return ()


def look_up(
    store: Store,
    model: str,
    rule: JoinRule,
    *,
    key: Mapping[str, object] | None = None,
    prediction_id: str | None = None,
    as_of: datetime | None = None,
    newest: int = 50,
) -> list[LoggedPrediction]:
    """The newest predictions with that id and with those values (by stored name) in key columns, newest first.

    With what was recorded by `as_of` (default: all). What was erased is not in the store, whatever the moment.
    """
    with store.read() as connection:
        try:
            tables = find_tables(connection, model)
        except NotFound:
            return []
        rows: list[LoggedPrediction] = []
        for table, ids in _newest_ids(connection, tables, key or {}, prediction_id, as_of, newest):
            statement = labelled_select(tables, table, rule, as_of).where(table.c.prediction_id.in_(ids))
            rows += [_prediction(tables, table, dict(row)) for row in connection.execute(statement).mappings()]
        rows.sort(key=lambda row: (row.predicted_at, row.prediction_id), reverse=True)
        return _with_revisions(connection, tables, rows, as_of)


def _newest_ids(
    connection: Connection,
    tables: ModelTables,
    key: Mapping[str, object],
    prediction_id: str | None,
    as_of: datetime | None,
    newest: int,
) -> Iterator[tuple[Table, list[str]]]:
    """The ids of the newest rows of all generations together, by the table that they are in."""
    candidates: list[tuple[datetime, str, Table]] = []
    for generation in tables.generations:
        log = generation.table.c
        where = [log[name] == value for name, value in key.items()]
        where += [log.prediction_id == prediction_id] if prediction_id is not None else []
        if as_of is not None and not where:  # else all that came since would be passed over, one by one
            where += [log.predicted_at <= as_of + SLACK]
        statement = select(log.predicted_at, log.prediction_id).where(*where, is_known(log.logged_at, as_of))
        rows = connection.execute(statement.order_by(log.predicted_at.desc()).limit(newest))
        candidates += [(row.predicted_at, row.prediction_id, generation.table) for row in rows]
    candidates.sort(key=lambda candidate: candidate[:2], reverse=True)
    for generation in tables.generations:
        ids = [identifier for _, identifier, table in candidates[:newest] if table is generation.table]
        if ids:
            yield generation.table, ids


def _prediction(tables: ModelTables, table: Table, row: Mapping[str, Any]) -> LoggedPrediction:
    columns = next(generation.columns for generation in tables.generations if generation.table is table)
    key, labels = {column.stored for column in tables.key}, {label.stored for label in tables.labels}
    names = shown_names(columns)
    return LoggedPrediction(
        **{name: row[name] for name in SYSTEM},
        key={column.name: row[column.stored] for column in tables.key},
        values={
            names[column.stored]: row[column.stored]
            for column in columns
            if column.stored not in key | labels
            if row[column.stored] is not None or not column.name.startswith(OWN)  # most rows have none of ours
        },
        labels=_labels(tables, row) if row["revision"] is not None else None,
        is_conflict=bool(row[CONFLICT]),
        acted=row.get(ACTED),
        propensity=row.get(ACTION_PROPENSITY),
    )


def _labels(tables: ModelTables, row: Mapping[str, Any]) -> dict[str, Any]:
    return {label.name: row[label.stored] for label in tables.labels}


def _with_revisions(
    connection: Connection, tables: ModelTables, rows: Sequence[LoggedPrediction], as_of: datetime | None
) -> list[LoggedPrediction]:
    """The same predictions with all outcomes that name them."""
    if not rows:
        return []
    outcomes = tables.outcomes.c
    named: list[ColumnElement[bool]] = [outcomes.prediction_id.in_([row.prediction_id for row in rows])]
    keys = {tuple(row.key.values()) for row in rows if tables.key}
    key_fields = [outcomes[column.stored] for column in tables.key]
    whole = [key for key in keys if None not in key]
    if len(key_fields) == 1:  # one list is compiled far sooner than hundreds of conditions
        named.append(key_fields[0].in_([value for (value,) in whole]))
    else:
        named += [and_(*(field == value for field, value in zip(key_fields, key, strict=True))) for key in whole]
    statement = select(tables.outcomes).where(or_(*named), is_known(outcomes.recorded_at, as_of))
    by_id: dict[str, list[OutcomeRevision]] = {}
    by_key: dict[tuple[Any, ...], list[OutcomeRevision]] = {}
    for outcome in connection.execute(statement.order_by(outcomes.recorded_at, outcomes.outcome_id)).mappings():
        common = {name: outcome[name] for name in ("revision", "source", "occurred_at", "recorded_at")}
        identifier, labels = outcome["prediction_id"], _labels(tables, dict(outcome))
        if identifier is not None:
            by_id.setdefault(identifier, []).append(OutcomeRevision(named_by="id", labels=labels, **common))
        else:
            of_key = by_key.setdefault(tuple(outcome[column.stored] for column in tables.key), [])
            of_key.append(OutcomeRevision(named_by="key", labels=labels, **common))
    return [
        replace(row, revisions=tuple(by_id.get(row.prediction_id, []) + by_key.get(tuple(row.key.values()), [])))
        for row in rows
    ]
