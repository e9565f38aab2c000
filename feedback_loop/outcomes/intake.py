"""Outcomes come in: checked row by row, stored once, newest revision last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.clock import as_utc, format_moment
from feedback_loop.errors import BadInput, Problem
from feedback_loop.schema import Column, ColumnType, Contract, array_of, as_table, coerce
from feedback_loop.store import Store
from feedback_loop.store import outcomes as stored

OnError = Literal["refuse", "skip"]
"""What a bad row does: all rows are refused, or it is left out and reported."""

_ID = Column("prediction_id", ColumnType.STRING, required=False)
_OCCURRED = Column("occurred_at", ColumnType.DATETIME, required=False)
_RECORDED = Column("recorded_at", ColumnType.DATETIME, required=False)


@dataclass(frozen=True)
class IntakeResult:
    """What became of the rows that were brought: `counts`, and the rows that were left out with their causes."""

    counts: stored.Intake
    skipped: tuple[Problem, ...] = field(default=())


def record_outcomes(
    store: Store,
    contract: Contract,
    frame: Any,
    *,
    now: datetime,
    source: str,
    on_error: OnError = "refuse",
    text: bool = False,
) -> IntakeResult:
    """Takes outcomes in: rows that name a prediction (`prediction_id`, or all key columns) and hold the label.

    `occurred_at` says when it became true (default: now), `recorded_at` when this was learned (default: now; a
    stream that is replayed may give earlier moments, but none that an evaluation was already asked about). A row
    that says nothing new changes nothing; another value is the next revision. Raises BadInput with every bad row.
    """
    asked_until = stored.latest_as_of(store, contract.model)
    # Never at or before a moment that was asked about, even if the clock stood still or was set back.
    learned = max(now, asked_until + timedelta.resolution) if asked_until is not None else now
    table = as_table(frame, {column.name for column in _columns(contract)})
    rows, problems = _checked(table, contract, learned, asked_until, text=text)
    if problems and on_error == "refuse":
        raise BadInput(problems, cure="Nothing was stored. Mend the rows, or have them left out: --on-error skip.")
    bad = {problem.row for problem in problems}
    kept = rows.filter(pa.array([row not in bad for row in range(rows.num_rows)], pa.bool_())) if bad else rows
    timed = _OCCURRED.name in table.column_names
    canonical = _canonical(kept, contract, source)
    return IntakeResult(stored.append_outcomes(store, contract, canonical, now, timed=timed), tuple(problems))


def _columns(contract: Contract) -> tuple[Column, ...]:
    label = replace(contract.label, required=True)
    return (_ID, *(replace(column, required=False) for column in contract.key), label, _OCCURRED, _RECORDED)


def _checked(
    table: pa.Table, contract: Contract, now: datetime, asked_until: datetime | None, *, text: bool
) -> tuple[pa.Table, list[Problem]]:
    """The rows in their types (bad cells null) and what is wrong with them."""
    arrays, problems = [], []
    for column in _columns(contract):
        try:
            arrays.append(coerce(table, [column], text=text).column(0))
        except BadInput as error:
            if any(problem.row < 0 for problem in error.problems):
                raise
            problems += _all_misfits(table, column, text=text)
            values = table.column(column.name).to_pylist()
            bad = {problem.row for problem in problems if problem.field == column.name}
            good = [None if row in bad else value for row, value in enumerate(values)]
            single = pa.table({column.name: pa.array(good, table.column(column.name).type)})
            arrays.append(coerce(single, [column], text=text).column(0))
    rows = pa.table(arrays, names=[column.name for column in _columns(contract)])
    rows = _with_times(rows, now)
    problems += _bad_ids(rows.column(_ID.name)) + _missing(rows, contract)
    problems += _untimely(rows, now, asked_until)
    return rows, sorted(_first_per_row(problems), key=lambda problem: problem.row)


def _all_misfits(table: pa.Table, column: Column, *, text: bool) -> list[Problem]:
    problems: list[Problem] = []
    for row in range(table.num_rows):
        try:
            coerce(table.slice(row, 1), [column], text=text)
        except BadInput as error:
            problems.append(Problem(row, column.name, error.problems[0].cause))
    return problems


def _with_times(rows: pa.Table, now: datetime) -> pa.Table:
    moment = pa.scalar(as_utc(now), rows.schema.field(_RECORDED.name).type)
    recorded = pc.fill_null(rows.column(_RECORDED.name), moment)
    occurred = pc.coalesce(rows.column(_OCCURRED.name), recorded)
    rows = rows.set_column(rows.column_names.index(_OCCURRED.name), _OCCURRED.name, occurred)
    return rows.set_column(rows.column_names.index(_RECORDED.name), _RECORDED.name, recorded)


def _missing(rows: pa.Table, contract: Contract) -> list[Problem]:
    problems = [
        Problem(row, contract.label.name, "is missing")
        for row in _where(pc.is_null(rows.column(contract.label.name)))
    ]
    named = pc.is_valid(rows.column(_ID.name))
    has_key = pa.array([bool(contract.key)] * rows.num_rows, pa.bool_())
    for column in contract.key:
        has_key = pc.and_(has_key, pc.is_valid(rows.column(column.name)))
    key = ", ".join(column.name for column in contract.key) or "none is configured"
    cause = f"names no prediction: give prediction_id or the key ({key})"
    return problems + [Problem(row, "", cause) for row in _where(pc.invert(pc.or_(named, has_key)))]


def _bad_ids(identifiers: pa.ChunkedArray) -> list[Problem]:
    problems = []
    for row, text in enumerate(identifiers.to_pylist()):
        try:
            UUID(text or str(UUID(int=0)))
        except ValueError:
            problems.append(Problem(row, _ID.name, f"{text!r} is not a UUID"))
    return problems


def _untimely(rows: pa.Table, now: datetime, asked_until: datetime | None) -> list[Problem]:
    recorded = rows.column(_RECORDED.name)
    late = pc.greater(recorded, pa.scalar(as_utc(now), recorded.type))
    problems = [Problem(row, _RECORDED.name, f"is after now, {format_moment(now)}") for row in _where(late)]
    if asked_until is not None:
        early = pc.less_equal(recorded, pa.scalar(as_utc(asked_until), recorded.type))
        cause = f"is not after {format_moment(asked_until)}, as of which the model was already evaluated"
        problems += [Problem(row, _RECORDED.name, cause) for row in _where(early)]
    return problems


def _where(mask: pa.ChunkedArray) -> Sequence[int]:
    # Not Arrow's indices_nonzero: on a column without any chunk it crashes the process (pyarrow 25.0).
    rows: list[int] = np.flatnonzero(np.asarray(mask.to_pylist(), dtype=bool)).tolist()
    return rows


def _first_per_row(problems: Sequence[Problem]) -> list[Problem]:
    first: dict[int, Problem] = {}
    for problem in problems:
        first.setdefault(problem.row, problem)
    return list(first.values())


def _canonical(rows: pa.Table, contract: Contract, source: str) -> pa.Table:
    """Rows as they are stored: a row that names its prediction does not name a key beside it."""
    identifier = rows.column(_ID.name)
    named = pc.is_valid(identifier)
    columns = {_ID.name: array_of(_ID.name, _lower(identifier), ColumnType.STRING)}
    for column in contract.key:
        values = rows.column(column.name)
        columns[column.stored] = pc.if_else(named, pa.scalar(None, values.type), values)
    columns[contract.label.stored] = rows.column(contract.label.name)
    columns |= {name: rows.column(name) for name in (_OCCURRED.name, _RECORDED.name)}
    columns["source"] = pa.array([source] * rows.num_rows, pa.string())
    return pa.table(columns)


def _lower(identifier: pa.ChunkedArray) -> list[str | None]:
    return [None if text is None else text.lower() for text in identifier.to_pylist()]
