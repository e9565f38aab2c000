"""Evaluations: what was computed for one window of a version as of one moment.

Metrics have a table of their own, for people's SQL; drift, quality, estimates and slices are JSON in the evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Any, get_type_hints

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    ForeignKey,
    Index,
    Row,
    String,
    Subquery,
    UniqueConstraint,
    cast,
    func,
    literal,
    select,
)

from feedback_loop.clock import Window
from feedback_loop.store.engine import Store
from feedback_loop.store.records import as_record, as_row, change, dialect_insert, pages, remove
from feedback_loop.store.schema import Json, shared_table

ALL_ROWS = ""
"""The name of the segment of all rows."""

COVERAGE = "coverage"
"""The metric that holds the weighted coverage, where rows stand for different numbers of predictions."""

EFFECTIVE = "effective_rows"
"""The metric that says how many rows of equal weight the labelled ones are worth, where outcomes need an action."""


@dataclass(frozen=True)
class MetricValue:
    """One metric of the labelled rows of one segment (`origin=JFK`; empty: all).

    `coverage` is the share of the segment's predictions that have an outcome. `least` and `most` bound the metric of
    all its predictions, whatever the missing outcomes are; None where there is no bound.
    """

    metric: str
    value: float
    rows: int
    standard_error: float | None = None
    segment: str = ALL_ROWS
    coverage: float | None = None
    least: float | None = None
    most: float | None = None


INSUFFICIENT = "insufficient_data"
"""Stands in place of a metric or a method: `value` more rows are needed before it can be computed."""


@dataclass(frozen=True)
class DriftValue:
    """How far one column is from the reference by one method, over the bins named by `binning`.

    `p_value` is None where the method is no test and decides without one. One value of each column `decides` whether
    the column counts as drifted; `is_default` marks the method that Evidently would choose.
    """

    column: str
    method: str
    value: float
    threshold: float
    p_value: float | None
    drifted: bool
    rows: int
    binning: str = ""
    decides: bool = False
    is_default: bool = False


@dataclass(frozen=True)
class QualityValue:
    """The result of one check of a column (empty: of whole rows), and what is expected by the reference."""

    column: str
    check: str
    value: float
    expected: float
    failed: bool
    rows: int


@dataclass(frozen=True)
class EstimateValue:
    """An estimate of a metric of all predictions before their outcomes are there, by `method`.

    `rows` is the number of those predictions, `calibrated_on` that of the labelled ones the method was fitted on.
    """

    metric: str
    value: float
    rows: int
    method: str
    calibrated_on: int
    standard_error: float | None = None
    segment: str = ALL_ROWS


@dataclass(frozen=True)
class SliceValue:
    """A slice with a worse metric than the `rest`, the worst of all slices that were `tried`.

    `p_value` is that of the worst of so many.
    """

    segment: str
    metric: str
    value: float
    rest: float
    rows: int
    p_value: float
    tried: int


@dataclass(frozen=True)
class Evaluation:
    """One version in one window, with what was recorded by `as_of`. Computed again, it is the same."""

    model: str
    version: str
    window: Window
    as_of: datetime
    matured: bool
    predictions: int
    labelled: int
    metrics: tuple[MetricValue, ...] = ()
    drift: tuple[DriftValue, ...] = ()
    quality: tuple[QualityValue, ...] = ()
    estimates: tuple[EstimateValue, ...] = ()
    slices: tuple[SliceValue, ...] = ()
    notes: tuple[str, ...] = ()  # what can't be judged yet, and why
    evaluation_id: int | None = None
    revision: int = 1  # of this window and version; an evaluation as of another moment is the next

    @property
    def coverage(self) -> float | None:
        """Labelled / predicted; None if nothing was predicted."""
        weighted = self.metric(COVERAGE)
        if weighted is not None:
            return weighted
        return self.labelled / self.predictions if self.predictions else None

    @property
    def drifted_share(self) -> float | None:
        """The share of columns that drifted; None if drift could not be computed."""
        decisive = [value.drifted for value in self.drift if value.decides]
        return sum(decisive) / len(decisive) if decisive else None

    def metric(self, name: str, segment: str = ALL_ROWS) -> float | None:
        """A metric's value; None if it was not computed."""
        return next((m.value for m in self.metrics if m.metric == name and m.segment == segment), None)


DETAILS: dict[str, type] = {
    "drift": DriftValue,
    "quality": QualityValue,
    "estimates": EstimateValue,
    "slices": SliceValue,
}
"""The fields of an evaluation that are stored as JSON in the column `details`."""

evaluations = shared_table(
    "evaluations",
    Evaluation,
    Column("details", Json, nullable=False),
    UniqueConstraint("model", "version", "window_start", "window_end", "as_of"),
    UniqueConstraint("model", "version", "window_start", "window_end", "revision"),
    Index(None, "model", "as_of"),
    key=["evaluation_id"],
    without=["metrics", *DETAILS],
)

metric_values = shared_table(
    "metric_values",
    MetricValue,
    Column("evaluation_id", ForeignKey(evaluations.c.evaluation_id), nullable=False),
    key=["evaluation_id", "segment", "metric"],
)


def save_evaluation(store: Store, evaluation: Evaluation) -> Evaluation:
    """Stores an evaluation, unless there is one of its version, window and `as_of`; returns it with its id."""
    table, row = evaluations, as_row(evaluation)
    row["details"] = {name: [vars(value) for value in getattr(evaluation, name)] for name in DETAILS}
    of_window = [table.c[name] == row[name] for name in ("model", "version", "window_start", "window_end")]
    stored = select(table.c.evaluation_id, table.c.revision).where(*of_window, table.c.as_of == evaluation.as_of)
    with store.write() as connection:
        while (existing := connection.execute(stored).one_or_none()) is None:
            newest = connection.execute(select(func.max(table.c.revision)).where(*of_window)).scalar()
            # Another process may just have stored the same moment or revision: the insert does nothing then.
            insert = dialect_insert(connection, table).values(**row | {"revision": (newest or 0) + 1})
            insert = insert.on_conflict_do_nothing()
            identifier = connection.execute(insert.returning(table.c.evaluation_id)).scalar_one_or_none()
            if identifier is not None and evaluation.metrics:
                rows = [{"evaluation_id": identifier, **vars(value)} for value in evaluation.metrics]
                connection.execute(metric_values.insert(), rows)
    return replace(evaluation, evaluation_id=existing.evaluation_id, revision=existing.revision)


def load_evaluations(
    store: Store,
    model: str,
    *,
    version: str | None = None,
    within: Window | None = None,
    matured: bool = False,
    newest: int | None = None,
    until: datetime | None = None,
    details: Collection[str] | None = None,
) -> list[Evaluation]:
    """Evaluations, oldest window first, and within a window oldest `as_of` first.

    Limited to one `version`, to windows `within` another, to `matured` ones, to `as_of` by `until`, and to the last
    `newest` of the order. Of `DETAILS` they have only these (default: all), for drift of many columns takes long.
    """
    table = evaluations
    where = [table.c.model == model, *([table.c.as_of <= until] if until is not None else [])]
    where += [table.c.version == version] if version is not None else []
    where += [table.c.matured] if matured else []
    if within is not None:
        where += [table.c.window_start >= within.start, table.c.window_end <= within.end]
    with store.read() as connection:
        statement = select(*_columns(connection, details)).where(*where)
        rows = connection.execute(statement.order_by(*_NEWEST_FIRST).limit(newest)).all()
        return _records(connection, rows[::-1])


def load_newest_evaluations(
    store: Store, model: str, newest: int, details: Collection[str] | None = None
) -> list[Evaluation]:
    """Of each version and window the evaluation with the newest `as_of`: the last `newest` of them, oldest first.

    With only these `details`, as in `load_evaluations`.
    """
    last = of_each_window(model)
    ids = select(last.c.evaluation_id).where(last.c.place == 1)
    with store.read() as connection:
        statement = select(*_columns(connection, details)).where(evaluations.c.evaluation_id.in_(ids))
        return _records(connection, connection.execute(statement.order_by(*_NEWEST_FIRST).limit(newest)).all()[::-1])


def with_details(store: Store, evaluation: Evaluation) -> Evaluation:
    """A stored evaluation with all its details."""
    table = evaluations.c
    with store.read() as connection:
        details = connection.execute(
            select(table.details).where(table.evaluation_id == evaluation.evaluation_id)
        ).scalar_one()
    read: dict[str, Any] = {name: _read_detail(details, name) for name in DETAILS}
    return replace(evaluation, **read)


def _columns(connection: Connection, details: Collection[str] | None) -> list[ColumnElement[Any]]:
    if details is None:
        return list(evaluations.c)
    others = [column for column in evaluations.c if column is not evaluations.c.details]
    return [*others, details_text(connection, *details).label("details")]


def details_text(connection: Connection, *names: str) -> ColumnElement[Any]:
    """Some of `DETAILS` as the text of one JSON object, cut out by the database."""
    is_postgresql, field = connection.dialect.name == "postgresql", evaluations.c.details
    parts: list[Any] = []
    for name in names:
        of_name = func.jsonb_extract_path(field, name) if is_postgresql else func.json_extract(field, f"$.{name}")
        parts += [literal(name, String), of_name]
    return cast((func.jsonb_build_object if is_postgresql else func.json_object)(*parts), String)


def _records(connection: Connection, rows: Sequence[Row[Any]]) -> list[Evaluation]:
    metrics = metrics_of(connection, [row.evaluation_id for row in rows])
    result = []
    for row in rows:
        details = json.loads(row.details) if isinstance(row.details, str) else row.details
        values: dict[str, Any] = {name: _read_detail(details, name) for name in DETAILS if name in details}
        values["metrics"] = tuple(metrics.get(row.evaluation_id, ()))
        result.append(replace(as_record(Evaluation, row), **values))
    return result


_NEWEST_FIRST = (evaluations.c.window_end.desc(), evaluations.c.as_of.desc(), evaluations.c.evaluation_id.desc())


def newest_estimates(
    store: Store, model: str, version: str, *, among: int, until: datetime
) -> tuple[EstimateValue, ...]:
    """The estimates of the version's newest evaluation `as_of` a moment by `until`.

    Empty if it is not `among` so many newest ones of the model.
    """
    table = evaluations
    newest = select(table.c.evaluation_id, table.c.version).where(table.c.model == model, table.c.as_of <= until)
    with store.read() as connection:
        rows = connection.execute(newest.order_by(*_NEWEST_FIRST).limit(among)).all()
        first = [row.evaluation_id for row in rows if row.version == version][:1]
        return tuple(value for values in estimates_of(connection, first).values() for value in values)


def newest_evaluations(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Of each window and version the evaluation with the newest `as_of`, in the order of the argument."""
    newest = {(e.window, e.version): e for e in sorted(evaluations, key=lambda e: e.as_of)}
    return [e for e in evaluations if newest[e.window, e.version] is e]


def evaluated_until(store: Store, model: str, *, matured: bool) -> datetime | None:
    """The end of the last window that was evaluated (with `matured`: after it had matured)."""
    table = evaluations.c
    where = [table.model == model]
    where += [table.matured] if matured else []
    with store.read() as connection:
        until: datetime | None = connection.execute(select(func.max(table.window_end)).where(*where)).scalar_one()
    return until


def with_stored_estimates(store: Store, evaluation: Evaluation) -> Evaluation:
    """An evaluation with the estimates that are stored of it, ordered by metric and segment."""
    identifier = evaluation.evaluation_id
    assert identifier is not None
    with store.read() as connection:
        return replace(evaluation, estimates=estimates_of(connection, [identifier])[identifier])


def forget_segments(connection: Connection, model: str, segments: Collection[str]) -> None:
    """Removes all values of these segments from a model's evaluations."""
    table = evaluations.c
    ids = select(table.evaluation_id).where(table.model == model)
    for page in pages(segments):
        remove(connection, MetricValue, metric_values.c.segment.in_(page), metric_values.c.evaluation_id.in_(ids))
    of_model = select(table.evaluation_id, table.details).where(table.model == model)
    for identifier, details in connection.execute(of_model).all():
        others = {
            name: [value for value in values if value.get("segment") not in segments]
            for name, values in details.items()
        }
        if others != details:
            change(connection, Evaluation, {"details": others}, evaluation_id=identifier)


def of_each_window(model: str, *, matured: bool | None = None) -> Subquery:
    """A model's evaluations, numbered within each version and window from the newest `as_of`; those that have not
    `matured`, from the oldest.
    """
    table = evaluations.c
    window = table.version, table.window_start, table.window_end
    order: tuple[Any, Any] = (table.as_of, table.evaluation_id)
    if matured is not False:
        order = (table.as_of.desc(), table.evaluation_id.desc())
    place = func.row_number().over(partition_by=window, order_by=order).label("place")
    numbered = select(*window, table.evaluation_id, place)
    where = [table.matured == matured] if matured is not None else []
    return numbered.where(table.model == model, *where).subquery()


def metrics_of(connection: Connection, ids: Sequence[int]) -> dict[int, list[MetricValue]]:
    """The metrics by evaluation, ordered by segment and name."""
    table, metrics = metric_values, dict[int, list[MetricValue]]()
    for page in pages(ids):
        rows = select(table).where(table.c.evaluation_id.in_(page))
        for row in connection.execute(rows.order_by(*table.primary_key.columns)):
            metrics.setdefault(row.evaluation_id, []).append(as_record(MetricValue, row))
    return metrics


def estimates_of(connection: Connection, ids: Sequence[int]) -> dict[int, tuple[EstimateValue, ...]]:
    """The estimates by evaluation."""
    table = evaluations.c
    statement = select(table.evaluation_id, table.details)
    rows = (row for page in pages(ids) for row in connection.execute(statement.where(table.evaluation_id.in_(page))))
    return {identifier: _read_detail(details, "estimates") for identifier, details in rows}


_ORDER = {"drift": ("column", "method"), "quality": ("column", "check")}


def _read_detail(details: dict[str, list[dict[str, Any]]], name: str) -> tuple[Any, ...]:
    """Records from JSON, in order. Numbers are made floats: PostgreSQL writes one like 1e30 as an integer."""
    kind, order = DETAILS[name], _ORDER.get(name, ("metric", "segment"))
    floats = [field for field, hint in get_type_hints(kind).items() if hint in (float, float | None)]
    records = []
    for value in sorted(details[name], key=itemgetter(*order)):
        whole = {field: float(value[field]) for field in floats if type(value[field]) is int}
        records.append(kind(**value | whole) if whole else kind(**value))
    return tuple(records)
