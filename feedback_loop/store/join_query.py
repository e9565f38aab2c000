"""The join of predictions and outcomes as one SQL statement: now, or as of a moment."""

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
from feedback_loop.store.model_tables import TABLES_CACHED, ModelTables
from feedback_loop.store.schema import Moment

CONFLICT = "is_conflict"
"""The column that says whether the outcomes by id and by key have different labels (the one by id counts)."""


def labelled_select(
    tables: ModelTables, predictions: Table, rule: JoinRule, as_of: datetime | None = None
) -> Select[tuple[object, ...]]:
    """Each prediction of a table exactly once, with its newest outcome, or with nulls if it has none.

    An outcome with the prediction's id counts before one with its key. With `as_of`, rows recorded later are ignored.
    The label that `absent_means` gives is not filled in: see `predictions.with_absent`. Where an outcome needs an
    action, the newest report of that is joined alike: `fl_acted`, and `fl_propensity` if it came with one.
    """
    joined, sources = _with_newest(predictions, tables, predictions, rule, as_of, ("by_id", "by_key"))
    conflict: ColumnElement[Any] = literal(False)
    if tables.key:
        by_id, by_key = sources
        differ = (by_id.c[label.stored] != by_key.c[label.stored] for label in tables.labels)
        conflict = func.coalesce(or_(*differ), False)
    fields = ("occurred_at", "recorded_at", "revision", *(label.stored for label in tables.labels))
    columns = [_first(sources, field).label(field) for field in fields]
    if rule.needs_action:
        names = ("acted_by_id", "acted_by_key")
        joined, sources = _with_newest(joined, tables.of_actions, predictions, rule, as_of, names)
        columns += [_first(sources, column.stored).label(column.stored) for column in tables.of_actions.labels]
    return select(*predictions.c, *columns, conflict.label(CONFLICT)).select_from(joined)


def _with_newest(
    joined: FromClause,
    tables: ModelTables,
    predictions: Table,
    rule: JoinRule,
    as_of: datetime | None,
    names: tuple[str, str],
) -> tuple[FromClause, list[FromClause]]:
    """Predictions joined with their newest outcome by id, and by key if the model has one, under these names."""
    by_id, by_key = (_aliased(tables.outcomes, name) for name in names)
    has_id = and_(
        by_id.c.prediction_id == predictions.c.prediction_id, _is_newest(tables, by_id, ["prediction_id"], as_of)
    )
    joined = joined.outerjoin(by_id, has_id)
    if not tables.key:
        return joined, [by_id]
    return joined.outerjoin(by_key, _has_key(tables, predictions, by_key, rule, as_of)), [by_id, by_key]


def matches(tables: ModelTables, predictions: FromClause, outcome: FromClause, rule: JoinRule) -> ColumnElement[bool]:
    """Whether an outcome has a prediction's id or fits its key; of several predictions of a key, it fits each."""
    by_id = outcome.c.prediction_id == predictions.c.prediction_id
    return or_(by_id, same_key(tables, predictions, outcome, rule)) if tables.key else by_id


def create_view(connection: Connection, name: str, tables: ModelTables, predictions: Table, rule: JoinRule) -> None:
    """Creates (or replaces) the view of predictions with their outcomes, for people's own queries."""
    view = CreateView(labelled_select(tables, predictions, rule), name, metadata=MetaData())
    connection.execute(DropView(view.table, if_exists=True))
    connection.execute(view)


def _has_key(
    tables: ModelTables, predictions: Table, outcome: FromClause, rule: JoinRule, as_of: datetime | None
) -> ColumnElement[bool]:
    keys = [column.stored for column in tables.key]
    conditions = [same_key(tables, predictions, outcome, rule)]
    if rule.horizon is None:
        conditions.append(_is_newest(tables, outcome, keys, as_of))
    else:
        conditions.append(_is_newest(tables, outcome, [*keys, "event_at"], as_of))
        earlier = _aliased(tables.outcomes, "earlier")  # of several events, the first within the horizon
        conditions.append(
            ~exists().where(
                *(earlier.c[field] == predictions.c[field] for field in keys),
                earlier.c.event_at >= predictions.c.predicted_at,
                earlier.c.event_at < outcome.c.event_at,
                is_known(earlier.c.recorded_at, as_of),
            )
        )
    if rule.which is not Which.ALL:
        for generation in tables.generations:
            rival = _aliased(generation.table, "rival")
            conditions.append(~exists().where(_is_preferred(tables, rival, predictions, outcome, rule, as_of)))
    return and_(*conditions)


def same_key(
    tables: ModelTables, predictions: FromClause, outcome: FromClause, rule: JoinRule
) -> ColumnElement[bool]:
    """Whether an outcome has a prediction's key and occurred within the horizon; it may fit several predictions."""
    same = [outcome.c[column.stored] == predictions.c[column.stored] for column in tables.key]
    if rule.horizon is not None:
        same.append(outcome.c.event_at >= predictions.c.predicted_at)
        same.append(outcome.c.event_at < _Later(predictions.c.predicted_at, rule.horizon))
    return and_(*same)


def _is_preferred(
    tables: ModelTables,
    rival: FromClause,
    predictions: Table,
    outcome: FromClause,
    rule: JoinRule,
    as_of: datetime | None,
) -> ColumnElement[bool]:
    """Whether the outcome belongs to the rival, another prediction of its key, rather than to this one."""
    order, own = (tuple_(table.c.predicted_at, table.c.prediction_id) for table in (rival, predictions))
    return and_(
        same_key(tables, rival, outcome, rule),
        rival.c.role == predictions.c.role,
        order > own if rule.which is Which.LAST else order < own,
        is_known(rival.c.logged_at, as_of),
    )


def _is_newest(
    tables: ModelTables, outcome: FromClause, fields: Sequence[str], as_of: datetime | None
) -> ColumnElement[bool]:
    newer = _aliased(tables.outcomes, "newer")
    return and_(
        is_known(outcome.c.recorded_at, as_of),
        ~exists().where(
            *(newer.c[field] == outcome.c[field] for field in fields),
            tuple_(newer.c.event_at, newer.c.revision) > tuple_(outcome.c.event_at, outcome.c.revision),
            is_known(newer.c.recorded_at, as_of),
        ),
    )


@lru_cache(TABLES_CACHED)
def _aliased(table: Table, name: str) -> FromClause:
    """A table under another name; cached, since SQLAlchemy copies all of its columns for an alias."""
    return table.alias(name)


def is_known(recorded_at: ColumnElement[Any], as_of: datetime | None) -> ColumnElement[bool]:
    """Whether a row was recorded by a moment; written so that no index is used for it.

    Nearly all rows meet it. A planner with old statistics would take the index on it, and read most of the table for
    each of the few rows that the other conditions find.
    """
    return _Unindexed(recorded_at) <= as_of if as_of is not None else true()


def _first(sources: Sequence[FromClause], field: str) -> ColumnElement[object]:
    """The field of the first source that has an outcome."""
    value: ColumnElement[object] = sources[-1].c[field]
    for source in reversed(sources[:-1]):
        value = case((source.c.outcome_id.is_not(None), source.c[field]), else_=value)
    return value


class _Unindexed(FunctionElement[datetime]):
    """A moment in an expression that no index covers."""

    type = Moment()
    inherit_cache = True


@compiles(_Unindexed, "postgresql")
def _unindexed_postgresql(element: _Unindexed, compiler: Any, **options: Any) -> str:
    return f"({compiler.process(element.clauses, **options)} + INTERVAL '0')"


@compiles(_Unindexed, "sqlite")
def _unindexed_sqlite(element: _Unindexed, compiler: Any, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"


class _Later(FunctionElement[datetime]):
    """A moment and a whole number of seconds after it."""

    type = Moment()
    inherit_cache = True

    def __init__(self, moment: ColumnElement[Any], by: timedelta) -> None:
        super().__init__(moment, literal(int(by.total_seconds())))


@compiles(_Later, "postgresql")
def _later_postgresql(element: _Later, compiler: Any, **options: Any) -> str:
    moment, seconds = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({moment} + {seconds} * INTERVAL '1 second')"


@compiles(_Later, "sqlite")
def _later_sqlite(element: _Later, compiler: Any, **options: Any) -> str:
    moment, seconds = (compiler.process(clause, **options) for clause in element.clauses)
    # SQLite's time has milliseconds: the part below the second is kept as it is written.
    whole = f"strftime('%Y-%m-%d %H:%M:%S', substr({moment}, 1, 19), {seconds} || ' seconds')"
    return f"({whole} || substr({moment}, 20))"
