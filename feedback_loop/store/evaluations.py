"""Evaluations: what was computed of one window as of one moment, and the profiles it came from."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import Connection, Row, Subquery, Table, and_, func, select

from feedback_loop.clock import Window
from feedback_loop.store import watching_tables as tables
from feedback_loop.store.engine import Store
from feedback_loop.store.records import field_names, insert_unless

ALL_ROWS = ""
"""The segment that is everything."""


COVERAGE = "coverage"
"""The metric that holds it where rows stand for different numbers of predictions."""


@dataclass(frozen=True)
class MetricValue:
    """One metric of the labelled rows of one segment (`origin=JFK`; empty: all).

    `coverage` is the share of its predictions that have an outcome. Whatever those of the others are, the metric of
    all predictions is between `least` and `most`; None: there is no such bound, or none is known.
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
"""In place of a metric or a method: `value` rows more are needed before anything can be said."""


@dataclass(frozen=True)
class DriftValue:
    """How far one column is from the reference by one method, over bins that `binning` names.

    `p_value` is how often chance alone would put it so far, where the method is a test or decides with one. Of each
    column one value `decides` whether it counts as drifted; `is_default` is the method that Evidently would choose.
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
    """What one check has found of a column (empty: of the rows), and what the reference lets expect."""

    column: str
    check: str
    value: float
    expected: float
    failed: bool
    rows: int


@dataclass(frozen=True)
class EstimateValue:
    """What a metric of all predictions is believed to be before outcomes tell it, by `method`.

    `rows` are the predictions that it is of, `calibrated_on` the labelled ones that the method has learned from.
    """

    metric: str
    value: float
    rows: int
    method: str
    calibrated_on: int
    standard_error: float | None = None
    segment: str = ALL_ROWS


@dataclass(frozen=True)
class PastEstimate:
    """A metric of one window: estimated when it was first looked at, realised when it had matured."""

    window: Window
    metric: str
    estimate: float
    realised: float


@dataclass(frozen=True)
class SliceValue:
    """A slice that does worse than the `rest`, found among so many that were `tried`.

    `p_value` is how often the worst of all of them would do so by chance alone.
    """

    segment: str
    metric: str
    value: float
    rest: float
    rows: int
    p_value: float
    tried: int


V = TypeVar("V", MetricValue, DriftValue, QualityValue, EstimateValue)


def finite(values: Iterable[V]) -> tuple[V, ...]:
    """The values as plain numbers, which databases and JSON can hold.

    One that is no number is left out; where it is beyond all doubles the greatest stands for it, and nothing for
    what is said beside it (an error, a bound).
    """
    found: list[V] = []
    for each in values:
        plain: dict[str, Any] = {n: v.item() if isinstance(v, np.generic) else v for n, v in vars(each).items()}
        odd: dict[str, float | None] = {
            name: None for name, v in plain.items() if isinstance(v, float) and not math.isfinite(v)
        }
        if "value" in odd:
            odd["value"] = math.copysign(sys.float_info.max, plain["value"])
        if not math.isnan(plain["value"]):
            found.append(type(each)(**{**plain, **odd}))
    return tuple(found)


@dataclass(frozen=True)
class Evaluation:
    """One version in one window, with what was known `as_of`. Immutable: asked again, it is the same."""

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
    notes: tuple[str, ...] = ()  # what can not be judged yet, and why
    evaluation_id: int | None = None
    revision: int = 1  # of this window and version: the next one follows when more is known

    @property
    def coverage(self) -> float | None:
        """Labelled / predicted; None where nothing was predicted."""
        weighted = self.metric(COVERAGE)
        if weighted is not None:
            return weighted
        return self.labelled / self.predictions if self.predictions else None

    @property
    def drifted_share(self) -> float | None:
        """The share of columns that drifted; None where drift could not be computed."""
        decisive = [value.drifted for value in self.drift if value.decides]
        return sum(decisive) / len(decisive) if decisive else None

    def metric(self, name: str, segment: str = ALL_ROWS) -> float | None:
        """One metric's value, or None where it could not be computed."""
        return next((m.value for m in self.metrics if m.metric == name and m.segment == segment), None)


def save_evaluation(store: Store, evaluation: Evaluation) -> Evaluation:
    """Stores it and returns it with its id; the same window asked `as_of` the same moment is stored once."""
    head = {
        "model": evaluation.model,
        "version": evaluation.version,
        "window_start": evaluation.window.start,
        "window_end": evaluation.window.end,
        "as_of": evaluation.as_of,
    }
    rest = {
        "matured": evaluation.matured,
        "predictions": evaluation.predictions,
        "labelled": evaluation.labelled,
        "notes": list(evaluation.notes),
    }
    table = tables.evaluations
    of_window = [table.c[name] == value for name, value in head.items() if name != "as_of"]
    stored = select(table.c.evaluation_id, table.c.revision).where(*of_window, table.c.as_of == evaluation.as_of)
    with store.write() as connection:
        while (known := connection.execute(stored).one_or_none()) is None:
            before = connection.execute(select(func.max(table.c.revision)).where(*of_window)).scalar()
            values = {**head, **rest, "revision": (before or 0) + 1}
            # Another process may have just taken the moment, or the revision: what it stored is there then.
            insert = insert_unless(connection, table).values(**values).on_conflict_do_nothing()
            identifier = connection.execute(insert.returning(table.c.evaluation_id)).scalar_one_or_none()
            if identifier is not None:
                _save_values(connection, identifier, evaluation)
    return replace(evaluation, evaluation_id=known.evaluation_id, revision=known.revision)


def load_evaluations(
    store: Store,
    model: str,
    *,
    within: Window | None = None,
    newest: int | None = None,
    until: datetime | None = None,
) -> list[Evaluation]:
    """Evaluations (`as_of` a moment by `until`), oldest window first, each window's newest `as_of` last.

    `newest` limits to the last so many.
    """
    table = tables.evaluations
    where = [table.c.model == model, *([table.c.as_of <= until] if until is not None else [])]
    if within is not None:
        where += [table.c.window_start >= within.start, table.c.window_end <= within.end]
    order = table.c.window_end.desc(), table.c.as_of.desc(), table.c.evaluation_id.desc()
    with store.read() as connection:
        rows = connection.execute(select(table).where(*where).order_by(*order).limit(newest)).all()[::-1]
        ids = [row.evaluation_id for row in rows]
        values = {part: _values(connection, part, ids) for part in _PARTS}
    return [
        _evaluation(row, {name: found.get(row.evaluation_id, []) for name, found in values.items()}) for row in rows
    ]


def newest_estimates(
    store: Store, model: str, version: str, *, among: int, until: datetime
) -> tuple[EstimateValue, ...]:
    """What the version's newest evaluation (among so many newest of the model, by then) estimated."""
    table = tables.evaluations
    order = table.c.window_end.desc(), table.c.as_of.desc(), table.c.evaluation_id.desc()
    newest = select(table.c.evaluation_id, table.c.version).where(table.c.model == model, table.c.as_of <= until)
    with store.read() as connection:
        rows = connection.execute(newest.order_by(*order).limit(among)).all()
        first = next((row.evaluation_id for row in rows if row.version == version), None)
        told = _values(connection, "estimates", [first]) if first is not None else {}
    return tuple(each for found in told.values() for each in found)


def newest_evaluations(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Of each window and version the one with the newest `as_of`, in the order given."""
    newest = {(e.window, e.version): e for e in sorted(evaluations, key=lambda e: e.as_of)}
    return [e for e in evaluations if newest[e.window, e.version] is e]


def evaluated_until(store: Store, model: str, *, matured: bool) -> datetime | None:
    """Where the last window ends that was evaluated (when matured, or at all)."""
    table = tables.evaluations.c
    where = [table.model == model]
    where += [table.matured] if matured else []
    with store.read() as connection:
        until: datetime | None = connection.execute(select(func.max(table.window_end)).where(*where)).scalar_one()
    return until


@dataclass(frozen=True)
class FailedWindow:
    """A window that could not be evaluated: why, how often that was tried, and from when on it is tried again."""

    window: Window
    attempts: int
    failed_at: datetime
    next_attempt_at: datetime
    cause: str


def load_failed_windows(store: Store, model: str) -> list[FailedWindow]:
    """The windows whose last attempt failed, oldest first."""
    table = tables.failed_windows
    with store.read() as connection:
        rows = connection.execute(select(table).where(table.c.model == model).order_by(table.c.window_start)).all()
    return [
        FailedWindow(Window(r.window_start, r.window_end), r.attempts, r.failed_at, r.next_attempt_at, r.cause)
        for r in rows
    ]


def save_failed_window(store: Store, model: str, failed: FailedWindow) -> None:
    """Keeps what became of another attempt."""
    table, window = tables.failed_windows, failed.window
    values = {name: value for name, value in vars(failed).items() if name != "window"}
    with store.write() as connection:
        insert = insert_unless(connection, table)
        insert = insert.values(model=model, window_start=window.start, window_end=window.end, **values)
        connection.execute(insert.on_conflict_do_update(index_elements=table.primary_key, set_=values))


def forget_failed_window(store: Store, model: str, window: Window) -> None:
    """It was evaluated after all."""
    table = tables.failed_windows.c
    same = and_(table.model == model, table.window_start == window.start, table.window_end == window.end)
    with store.write() as connection:
        connection.execute(tables.failed_windows.delete().where(same))


def with_estimates_told(store: Store, evaluation: Evaluation) -> Evaluation:
    """A stored evaluation with the estimates that were told when it was stored, ordered by metric and segment."""
    assert evaluation.evaluation_id is not None
    with store.read() as connection:
        told = _values(connection, "estimates", [evaluation.evaluation_id]).get(evaluation.evaluation_id, [])
    return replace(evaluation, estimates=tuple(sorted(told, key=lambda each: (each.metric, each.segment))))


def load_past_estimates(store: Store, model: str, windows: int) -> list[PastEstimate]:
    """Of the newest so many windows that were estimated before they matured, and have: every metric that came out."""
    told, real = tables.estimate_values.c, tables.metric_values.c
    first, last = _of_each_window(model, matured=False), _of_each_window(model, matured=True)
    same = and_(*(first.c[name] == last.c[name] for name in ("version", "window_start", "window_end")))
    both = select(first.c.window_start, first.c.window_end, first.c.evaluation_id, last.c.evaluation_id.label("last"))
    both = both.join(last, same).where(first.c.place == 1, last.c.place == 1)
    newest = both.order_by(first.c.window_end.desc(), first.c.evaluation_id.desc()).limit(windows).subquery()
    values = (
        select(newest.c.window_start, newest.c.window_end, told.metric, told.value, real.value)
        .join(tables.estimate_values, told.evaluation_id == newest.c.evaluation_id)
        .join(
            tables.metric_values,
            and_(real.evaluation_id == newest.c.last, real.metric == told.metric, real.segment == told.segment),
        )
        .where(told.segment == ALL_ROWS, told.metric != INSUFFICIENT)
        .order_by(newest.c.window_end, told.metric)
    )
    with store.read() as connection:
        return [PastEstimate(Window(row[0], row[1]), *row[2:]) for row in connection.execute(values)]


def _of_each_window(model: str, *, matured: bool) -> Subquery:
    """Evaluations and their place in those of the same version and window: oldest first, or of matured ones last."""
    table = tables.evaluations.c
    window = table.version, table.window_start, table.window_end
    order = (table.as_of.desc(), table.evaluation_id.desc()) if matured else (table.as_of, table.evaluation_id)
    place = func.row_number().over(partition_by=window, order_by=order).label("place")
    mine = and_(table.model == model, table.matured == matured)
    return select(*window, table.evaluation_id, place).where(mine).subquery()


_PARTS: dict[str, tuple[Table, Any]] = {
    "metrics": (tables.metric_values, MetricValue),
    "drift": (tables.drift_values, DriftValue),
    "quality": (tables.quality_values, QualityValue),
    "estimates": (tables.estimate_values, EstimateValue),
    "slices": (tables.slice_values, SliceValue),
}
"""An evaluation's fields that have a table of their own, each with a row for every value."""


def _save_values(connection: Connection, identifier: int, evaluation: Evaluation) -> None:
    for name, (table, _) in _PARTS.items():
        rows = [{"evaluation_id": identifier, **vars(value)} for value in getattr(evaluation, name)]
        if rows:
            connection.execute(table.insert(), rows)


def _values(connection: Connection, part: str, ids: list[int]) -> dict[int, list[Any]]:
    """The values of one part of evaluations, by evaluation: there are hundreds of each."""
    table, kind = _PARTS[part]
    columns = [table.c[name] for name in field_names(kind)]
    found: dict[int, list[Any]] = {}
    for start in range(0, len(ids), 500):  # SQLite and PostgreSQL both bound a statement's parameters
        statement = select(table.c.evaluation_id, *columns).where(table.c.evaluation_id.in_(ids[start : start + 500]))
        for identifier, *values in connection.execute(statement.order_by(*table.primary_key.columns)):
            found.setdefault(identifier, []).append(kind(*values))
    return found


def _evaluation(row: Row[Any], values: dict[str, list[Any]]) -> Evaluation:
    return Evaluation(
        model=row.model,
        version=row.version,
        window=Window(row.window_start, row.window_end),
        as_of=row.as_of,
        matured=row.matured,
        predictions=row.predictions,
        labelled=row.labelled,
        notes=tuple(row.notes),
        evaluation_id=row.evaluation_id,
        revision=row.revision,
        **{name: tuple(found) for name, found in values.items()},
    )
