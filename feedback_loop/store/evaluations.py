"""Evaluations: what was computed of one window as of one moment.

Metrics have a table of their own, for SQL; what else was found is read with its evaluation only, and kept with it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar, get_type_hints

import numpy as np
from sqlalchemy import Column, Connection, ForeignKey, Index, Subquery, UniqueConstraint, and_, func, select

from feedback_loop.clock import Window
from feedback_loop.store.engine import Store
from feedback_loop.store.records import as_record, as_row, change, dialect_insert, remove
from feedback_loop.store.schema import Json, shared_table

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


DETAILS: dict[str, type] = {
    "drift": DriftValue,
    "quality": QualityValue,
    "estimates": EstimateValue,
    "slices": SliceValue,
}
"""What of an evaluation is kept in one column, as JSON."""

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
    """Stores it and returns it with its id; the same window asked `as_of` the same moment is stored once."""
    table, row = evaluations, as_row(evaluation)
    row["details"] = {name: [vars(value) for value in getattr(evaluation, name)] for name in DETAILS}
    of_window = [table.c[name] == row[name] for name in ("model", "version", "window_start", "window_end")]
    stored = select(table.c.evaluation_id, table.c.revision).where(*of_window, table.c.as_of == evaluation.as_of)
    with store.write() as connection:
        while (known := connection.execute(stored).one_or_none()) is None:
            before = connection.execute(select(func.max(table.c.revision)).where(*of_window)).scalar()
            # Another process may have just taken the moment, or the revision: what it stored is there then.
            insert = dialect_insert(connection, table).values(**row | {"revision": (before or 0) + 1})
            once = insert.on_conflict_do_nothing().returning(table.c.evaluation_id)
            identifier = connection.execute(once).scalar_one_or_none()
            if identifier is not None and evaluation.metrics:
                rows = [{"evaluation_id": identifier, **vars(value)} for value in evaluation.metrics]
                connection.execute(metric_values.insert(), rows)
    return replace(evaluation, evaluation_id=known.evaluation_id, revision=known.revision)


def load_evaluations(
    store: Store,
    model: str,
    *,
    version: str | None = None,
    within: Window | None = None,
    matured: bool = False,
    newest: int | None = None,
    until: datetime | None = None,
) -> list[Evaluation]:
    """Evaluations (`as_of` a moment by `until`), oldest window first, each window's newest `as_of` last.

    Of one `version`, and of those of `matured` windows, where that is asked for. `newest` limits to the last so many.
    """
    table = evaluations
    where = [table.c.model == model, *([table.c.as_of <= until] if until is not None else [])]
    where += [table.c.version == version] if version is not None else []
    where += [table.c.matured] if matured else []
    if within is not None:
        where += [table.c.window_start >= within.start, table.c.window_end <= within.end]
    with store.read() as connection:
        rows = connection.execute(select(table).where(*where).order_by(*_NEWEST_FIRST).limit(newest)).all()[::-1]
        metrics = _metrics(connection, [row.evaluation_id for row in rows])
    found = []
    for row in rows:
        values: dict[str, Any] = {name: _read_detail(row.details, name) for name in DETAILS}
        values["metrics"] = tuple(metrics.get(row.evaluation_id, ()))
        found.append(replace(as_record(Evaluation, row), **values))
    return found


_NEWEST_FIRST = (evaluations.c.window_end.desc(), evaluations.c.as_of.desc(), evaluations.c.evaluation_id.desc())


def newest_estimates(
    store: Store, model: str, version: str, *, among: int, until: datetime
) -> tuple[EstimateValue, ...]:
    """What the version's newest evaluation (among so many newest of the model, by then) estimated."""
    table = evaluations
    newest = select(table.c.evaluation_id, table.c.version).where(table.c.model == model, table.c.as_of <= until)
    with store.read() as connection:
        rows = connection.execute(newest.order_by(*_NEWEST_FIRST).limit(among)).all()
        first = [row.evaluation_id for row in rows if row.version == version][:1]
        return tuple(value for values in _estimates(connection, first).values() for value in values)


def newest_evaluations(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Of each window and version the one with the newest `as_of`, in the order given."""
    newest = {(e.window, e.version): e for e in sorted(evaluations, key=lambda e: e.as_of)}
    return [e for e in evaluations if newest[e.window, e.version] is e]


def evaluated_until(store: Store, model: str, *, matured: bool) -> datetime | None:
    """Where the last window ends that was evaluated (when matured, or at all)."""
    table = evaluations.c
    where = [table.model == model]
    where += [table.matured] if matured else []
    with store.read() as connection:
        until: datetime | None = connection.execute(select(func.max(table.window_end)).where(*where)).scalar_one()
    return until


def with_estimates_told(store: Store, evaluation: Evaluation) -> Evaluation:
    """A stored evaluation with the estimates that were told when it was stored, ordered by metric and segment."""
    identifier = evaluation.evaluation_id
    assert identifier is not None
    with store.read() as connection:
        return replace(evaluation, estimates=_estimates(connection, [identifier])[identifier])


def load_past_estimates(store: Store, model: str, windows: int) -> list[PastEstimate]:
    """Of the newest so many windows that were estimated before they matured, and have: every metric that came out."""
    first, last = _of_each_window(model, matured=False), _of_each_window(model, matured=True)
    same = and_(*(first.c[name] == last.c[name] for name in ("version", "window_start", "window_end")))
    both = select(first.c.window_start, first.c.window_end, first.c.evaluation_id, last.c.evaluation_id.label("last"))
    both = both.join(last, same).where(first.c.place == 1, last.c.place == 1)
    newest = both.order_by(first.c.window_end.desc(), first.c.evaluation_id.desc()).limit(windows)
    with store.read() as connection:
        pairs = sorted(connection.execute(newest).all(), key=lambda pair: pair.window_end)
        estimates = _estimates(connection, [pair.evaluation_id for pair in pairs])
        metrics = _metrics(connection, [pair.last for pair in pairs])
    past = []
    for start, end, identifier, matured in pairs:
        realised = {value.metric: value.value for value in metrics.get(matured, ()) if value.segment == ALL_ROWS}
        told = {value.metric: value.value for value in estimates[identifier] if value.segment == ALL_ROWS}
        past += [
            PastEstimate(Window(start, end), metric, told[metric], realised[metric])
            for metric in sorted({*told} & {*realised} - {INSUFFICIENT})
        ]
    return past


def forget_segments(connection: Connection, model: str, segments: Collection[str]) -> None:
    """Takes what is said of segments out of all evaluations of a model."""
    table = evaluations
    mine = select(table.c.evaluation_id).where(table.c.model == model)
    remove(connection, MetricValue, metric_values.c.segment.in_(segments), metric_values.c.evaluation_id.in_(mine))
    of_model = select(table.c.evaluation_id, table.c.details).where(table.c.model == model)
    for identifier, details in connection.execute(of_model).all():
        left = {
            name: [each for each in said if each.get("segment") not in segments] for name, said in details.items()
        }
        if left != details:
            change(connection, Evaluation, {"details": left}, evaluation_id=identifier)


def _of_each_window(model: str, *, matured: bool) -> Subquery:
    """Evaluations and their place in those of the same version and window: oldest first, or of matured ones last."""
    table = evaluations.c
    window = table.version, table.window_start, table.window_end
    order = (table.as_of.desc(), table.evaluation_id.desc()) if matured else (table.as_of, table.evaluation_id)
    place = func.row_number().over(partition_by=window, order_by=order).label("place")
    mine = and_(table.model == model, table.matured == matured)
    return select(*window, table.evaluation_id, place).where(mine).subquery()


def _metrics(connection: Connection, ids: Sequence[int]) -> dict[int, list[MetricValue]]:
    """The metrics of evaluations, by evaluation, ordered by segment and name: there are hundreds of each."""
    table, found = metric_values, dict[int, list[MetricValue]]()
    for start in range(0, len(ids), 500):  # SQLite and PostgreSQL both bound a statement's parameters
        chosen = select(table).where(table.c.evaluation_id.in_(ids[start : start + 500]))
        for row in connection.execute(chosen.order_by(*table.primary_key.columns)):
            found.setdefault(row.evaluation_id, []).append(as_record(MetricValue, row))
    return found


def _estimates(connection: Connection, ids: Sequence[int]) -> dict[int, tuple[EstimateValue, ...]]:
    """The estimates of evaluations, by evaluation."""
    table = evaluations.c
    rows = connection.execute(select(table.evaluation_id, table.details).where(table.evaluation_id.in_(ids)))
    return {identifier: _read_detail(details, "estimates") for identifier, details in rows}


_ORDER = {"drift": ("column", "method"), "quality": ("column", "check")}


def _read_detail(details: dict[str, list[dict[str, Any]]], name: str) -> tuple[Any, ...]:
    """Values out of JSON, in which PostgreSQL writes a number like 1e30 as an integer; in order."""
    kind, order = DETAILS[name], _ORDER.get(name, ("metric", "segment"))
    floats = [field for field, hint in get_type_hints(kind).items() if hint in (float, float | None)]
    return tuple(
        kind(**said | {field: float(said[field]) for field in floats if said[field] is not None})
        for said in sorted(details[name], key=lambda said: [said[field] for field in order])
    )
