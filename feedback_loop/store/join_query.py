"""The join of predictions and outcomes, as one statement: now, or as it was known at a moment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    MetaData,
    Select,
    Table,
    and_,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateView, DropView
from sqlalchemy.sql.functions import FunctionElement

from feedback_loop.schema import JoinRule, Which
from feedback_loop.store.model_tables import KEPT, ModelTables
from feedback_loop.store.schema import Moment

CONFLICT = "is_conflict"
"""Whether the outcome by id and the one by key say different things (the one by id counts)."""


def labelled_select(
    found: ModelTables, predictions: Table, rule: JoinRule, as_of: datetime | None = None
) -> Select[tuple[object, ...]]:
    """Each prediction of a table with its newest outcome, or with nulls for none: no row twice, none left out.

    An outcome that names the prediction itself comes before one that names its key. With `as_of`, what was recorded
    later counts as unknown. What `absent_means` is not said here: see `absent_after`.
    """
    by_id = _aliased(found.outcomes, "by_id")
    by_key = _aliased(found.outcomes, "by_key")
    named = and_(
        by_id.c.prediction_id == predictions.c.prediction_id, _is_newest(found, by_id, ["prediction_id"], as_of)
    )
    joined: FromClause = predictions.outerjoin(by_id, named)
    sources = [by_id]
    conflict: ColumnElement[Any] = literal(False)
    if found.key:
        joined = joined.outerjoin(by_key, _by_key(found, predictions, by_key, rule, as_of))
        sources.append(by_key)
        differ = (by_id.c[label.stored] != by_key.c[label.stored] for label in found.labels)
        conflict = func.coalesce(or_(*differ), False)
    fields = ("occurred_at", "recorded_at", "revision", *(label.stored for label in found.labels))
    columns = [_first(sources, field).label(field) for field in fields]
    return select(*predictions.c, *columns, conflict.label(CONFLICT)).select_from(joined)


def matches(found: ModelTables, predictions: FromClause, outcome: FromClause, rule: JoinRule) -> ColumnElement[bool]:
    """Whether an outcome is about a prediction, by its id or by its key (whichever of several it belongs to)."""
    by_id = outcome.c.prediction_id == predictions.c.prediction_id
    return or_(by_id, same_key(found, predictions, outcome, rule)) if found.key else by_id


def create_view(connection: Connection, name: str, found: ModelTables, predictions: Table, rule: JoinRule) -> None:
    """Makes (or makes anew) the view in which people find predictions and outcomes side by side."""
    view = CreateView(labelled_select(found, predictions, rule), name, metadata=MetaData())
    connection.execute(DropView(view.table, if_exists=True))
    connection.execute(view)


def _by_key(
    found: ModelTables, predictions: Table, outcome: FromClause, rule: JoinRule, as_of: datetime | None
) -> ColumnElement[bool]:
    keys = [column.stored for column in found.key]
    conditions = [same_key(found, predictions, outcome, rule)]
    if rule.horizon is None:
        conditions.append(_is_newest(found, outcome, keys, as_of))
    else:
        conditions.append(_is_newest(found, outcome, [*keys, "event_at"], as_of))
        earlier = _aliased(found.outcomes, "earlier")  # of several events, the first within the horizon
        conditions.append(
            ~exists().where(
                *(earlier.c[field] == predictions.c[field] for field in keys),
                earlier.c.event_at >= predictions.c.predicted_at,
                earlier.c.event_at < outcome.c.event_at,
                is_known(earlier.c.recorded_at, as_of),
            )
        )
    if rule.which is not Which.ALL:
        for generation in found.generations:
            rival = _aliased(generation.table, "rival")
            conditions.append(~exists().where(_is_preferred(found, rival, predictions, outcome, rule, as_of)))
    return and_(*conditions)


def same_key(found: ModelTables, predictions: FromClause, outcome: FromClause, rule: JoinRule) -> ColumnElement[bool]:
    """Whether an outcome is about a prediction's key (and within its horizon), whichever of several it belongs to."""
    same = [outcome.c[column.stored] == predictions.c[column.stored] for column in found.key]
    if rule.horizon is not None:
        same.append(outcome.c.event_at >= predictions.c.predicted_at)
        same.append(outcome.c.event_at < _Later(predictions.c.predicted_at, rule.horizon))
    return and_(*same)


def _is_preferred(
    found: ModelTables,
    rival: FromClause,
    predictions: Table,
    outcome: FromClause,
    rule: JoinRule,
    as_of: datetime | None,
) -> ColumnElement[bool]:
    """Whether the outcome belongs to another prediction of the key, rather than to this one."""
    order, own = (tuple_(table.c.predicted_at, table.c.prediction_id) for table in (rival, predictions))
    return and_(
        same_key(found, rival, outcome, rule),
        rival.c.role == predictions.c.role,
        order > own if rule.which is Which.LAST else order < own,
        is_known(rival.c.logged_at, as_of),
    )


def _is_newest(
    found: ModelTables, outcome: FromClause, fields: Sequence[str], as_of: datetime | None
) -> ColumnElement[bool]:
    newer = _aliased(found.outcomes, "newer")
    return and_(
        is_known(outcome.c.recorded_at, as_of),
        ~exists().where(
            *(newer.c[field] == outcome.c[field] for field in fields),
            tuple_(newer.c.event_at, newer.c.revision) > tuple_(outcome.c.event_at, outcome.c.revision),
            is_known(newer.c.recorded_at, as_of),
        ),
    )


@lru_cache(KEPT)
def _aliased(table: Table, name: str) -> FromClause:
    """A table under another name: SQLAlchemy makes all of its columns anew for each alias."""
    return table.alias(name)


def is_known(recorded_at: ColumnElement[Any], as_of: datetime | None) -> ColumnElement[bool]:
    """Whether a row was recorded by a moment: asked of rows that are found by another condition, and by no index.

    Most rows of a table were recorded by then: a planner that knows too little of a table that grows would look
    through all of them for each row's few.
    """
    return _Plain(recorded_at) <= as_of if as_of is not None else true()


def _first(sources: Sequence[FromClause], field: str) -> ColumnElement[object]:
    found: ColumnElement[object] = sources[-1].c[field]
    for source in reversed(sources[:-1]):
        found = case((source.c.outcome_id.is_not(None), source.c[field]), else_=found)
    return found


class _Plain(FunctionElement[datetime]):
    """A moment as no index knows it."""

    type = Moment()
    inherit_cache = True


@compiles(_Plain, "postgresql")
def _plain_postgresql(element: _Plain, compiler: Any, **options: Any) -> str:
    return f"({compiler.process(element.clauses, **options)} + INTERVAL '0')"


@compiles(_Plain, "sqlite")
def _plain_sqlite(element: _Plain, compiler: Any, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"


class _Later(FunctionElement[datetime]):
    """A moment and a whole number of seconds after it."""

    type = Moment()
    inherit_cache = True

    def __init__(self, moment: ColumnElement[Any], by: timedelta) -> None:
        super().__init__(moment, literal(int(by.total_seconds())))


@compiles(_Later, "postgresql")
def _later_postgresql(element: _Later, compiler: Any, **options: Any) -> str:
    moment, seconds = (compiler.process(each, **options) for each in element.clauses)
    return f"({moment} + {seconds} * INTERVAL '1 second')"


@compiles(_Later, "sqlite")
def _later_sqlite(element: _Later, compiler: Any, **options: Any) -> str:
    moment, seconds = (compiler.process(each, **options) for each in element.clauses)
    # SQLite's time has milliseconds: the part below the second is kept as it is written.
    whole = f"strftime('%Y-%m-%d %H:%M:%S', substr({moment}, 1, 19), {seconds} || ' seconds')"
    return f"({whole} || substr({moment}, 20))"
