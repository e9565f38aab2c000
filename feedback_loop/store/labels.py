"""The join of predictions and outcomes, as one statement: now, or as it was known at a moment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

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
    select,
    true,
)
from sqlalchemy.schema import CreateView, DropView

from feedback_loop.schema import Column


def labelled_select(
    predictions: Table, outcomes: Table, key: Sequence[Column], label: Column, as_of: datetime | None = None
) -> Select[tuple[object, ...]]:
    """Each prediction with its newest outcome, or with nulls where there is none: no row twice, none left out.

    An outcome that names the prediction itself comes before one that names its key. With `as_of`, outcomes that
    were recorded later count as unknown.
    """
    by_id = outcomes.alias("by_id")
    by_key = outcomes.alias("by_key")
    keys = [column.stored for column in key]
    joined: FromClause = predictions.outerjoin(by_id, _newest(predictions, by_id, outcomes, ["prediction_id"], as_of))
    sources = [by_id]
    if keys:
        joined = joined.outerjoin(by_key, _newest(predictions, by_key, outcomes, keys, as_of))
        sources.append(by_key)
    return select(
        *predictions.c,
        *(_first(sources, field).label(field) for field in ("occurred_at", "recorded_at", "revision", label.stored)),
    ).select_from(joined)


def create_view(
    connection: Connection, name: str, predictions: Table, outcomes: Table, key: Sequence[Column], label: Column
) -> None:
    """Makes (or makes anew) the view in which people find predictions and outcomes side by side."""
    view = CreateView(labelled_select(predictions, outcomes, key, label), name, metadata=MetaData())
    connection.execute(DropView(view.table, if_exists=True))
    connection.execute(view)


def _newest(
    predictions: Table, outcome: FromClause, outcomes: Table, fields: Sequence[str], as_of: datetime | None
) -> ColumnElement[bool]:
    newer = outcomes.alias()
    same_subject = and_(*(newer.c[field] == outcome.c[field] for field in fields))
    newer_known = newer.c.recorded_at <= as_of if as_of is not None else true()
    return and_(
        *(outcome.c[field] == predictions.c[field] for field in fields),
        outcome.c.recorded_at <= as_of if as_of is not None else true(),
        ~exists().where(same_subject, newer.c.revision > outcome.c.revision, newer_known),
    )


def _first(sources: Sequence[FromClause], field: str) -> ColumnElement[object]:
    found: ColumnElement[object] = sources[-1].c[field]
    for source in reversed(sources[:-1]):
        found = case((source.c.outcome_id.is_not(None), source.c[field]), else_=found)
    return found
