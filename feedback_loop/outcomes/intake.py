"""Outcomes come in: checked row by row, stored once, newest revision last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.clock import as_utc, format_moment
from feedback_loop.errors import BadInput, RowError
from feedback_loop.schema import (
    Column,
    ColumnType,
    Contract,
    Redaction,
    as_table,
    coerce,
    misfits,
    own_name,
    unknown_classes,
)
from feedback_loop.store import Store, fence
from feedback_loop.store import outcomes as stored

OnError = Literal["refuse", "skip"]
"""What a bad row does: all rows are refused, or it is left out and reported."""

LEAST_CHANCE = 1e-6
"""A smaller propensity is refused: one such row would outweigh all others, and its weight overflow."""

_ID = Column("prediction_id", ColumnType.STRING, required=False)
_OCCURRED = Column("occurred_at", ColumnType.DATETIME, required=False)
_RECORDED = Column("recorded_at", ColumnType.DATETIME, required=False)


@dataclass(frozen=True)
class IntakeResult:
    """The result of an intake: `counts`, and the rows that were left out with their causes."""

    counts: stored.Intake
    skipped: tuple[RowError, ...] = field(default=())


def record_outcomes(
    store: Store,
    contract: Contract,
    frame: Any,
    *,
    now: datetime,
    source: str,
    on_error: OnError = "refuse",
    text: bool = False,
    redaction: Redaction | None = None,
) -> IntakeResult:
    """Takes outcomes in: rows that name a prediction (`prediction_id`, or all key columns) and hold the label.

    `occurred_at` says when it became true (default: now; a join with a horizon needs it), `recorded_at` when this
    was learned (default: now; a stream that is replayed may give earlier moments, but none that was already asked
    about). A row that says nothing new changes nothing; another value is the next revision. Keys are hashed as the
    predictions' are (`redaction`). Of a contract `of_actions` the rows say whether the caller `acted` (default: yes),
    and by what `propensity`, if the caller knows it. Raises BadInput with every bad row.
    """
    if isinstance(frame, list) and not frame:
        return IntakeResult(stored.Intake())
    until = fence.asked_until(store, contract.model)
    checked = check_outcomes(
        contract, frame, now=now, source=source, on_error=on_error, text=text, redaction=redaction, asked_until=until
    )
    counts = stored.append_outcomes(store, checked.contract, checked.rows, now, timed=checked.timed)
    return IntakeResult(counts, checked.skipped)


@dataclass(frozen=True)
class Checked:
    """Outcomes as they are stored, and what goes with them: see `append_outcomes`."""

    contract: Contract
    rows: pa.Table
    timed: bool
    skipped: tuple[RowError, ...]


def check_outcomes(
    contract: Contract,
    frame: Any,
    *,
    now: datetime,
    source: str,
    on_error: OnError,
    text: bool,
    redaction: Redaction | None,
    asked_until: datetime | None,
) -> Checked:
    """Checks outcomes without the store; `asked_until` is the newest moment that was evaluated `as_of`."""
    table, apart = _apart(frame, contract)
    if contract.is_of_actions and contract.reported[0].name not in table.column_names:  # the rows are those acted on
        table = table.append_column(contract.reported[0].name, pa.array(["true" if text else True] * len(table)))
    rows, problems = _checked(table, apart, now, asked_until, text=text)
    if problems and on_error == "refuse":
        raise BadInput(problems, cure=_cure(contract, problems))
    bad = {problem.row for problem in problems}
    good = rows.filter(pa.array([row not in bad for row in range(rows.num_rows)], pa.bool_())) if bad else rows
    timed = _OCCURRED.name in table.column_names
    canonical = _canonical(good, apart, source)
    if redaction is not None:
        logged = redaction.logged
        canonical, contract = redaction.redact(canonical), logged.of_actions if contract.is_of_actions else logged
    return Checked(contract, canonical, timed, tuple(problems))


def outcome_columns(contract: Contract) -> set[str]:
    """The names of the columns that are read."""
    theirs, ours = _names(contract)
    return {*theirs, *ours}


def _names(contract: Contract) -> tuple[dict[str, str], dict[str, str]]:
    """Stored names of keys and labels, and of our own columns, by the names that callers use."""
    theirs = {column.name: column.stored for column in (*contract.key, *contract.reported)}
    return theirs, {own_name(column.name, theirs): column.name for column in (_ID, _OCCURRED, _RECORDED)}


def _apart(frame: Any, contract: Contract) -> tuple[pa.Table, Contract]:
    """The columns that are read: ours by their names, a key or label of the same name by its stored name."""
    theirs, ours = _names(contract)
    table = as_table(frame, {*theirs, *ours})
    if theirs.keys().isdisjoint(ours.values()):
        return table, contract
    names = theirs | ours
    if contract.is_of_actions:
        names |= {value.name: value.name for value in contract.reported}
    table = table.select([place for place, name in enumerate(table.column_names) if name in names])
    stored = [
        tuple(replace(column, name=column.stored) for column in columns)
        for columns in (contract.key, contract.reported)
    ]
    apart = replace(contract, key=stored[0])
    if not contract.is_of_actions:
        apart = replace(apart, label=stored[1][0], more_labels=stored[1][1:])
    return table.rename_columns([names[name] for name in table.column_names]), apart


def _columns(contract: Contract) -> tuple[Column, ...]:
    labels = contract.reported
    if not contract.is_of_actions:
        labels = tuple(replace(label, required=True) for label in labels)
    return (_ID, *(replace(column, required=False) for column in contract.key), *labels, _OCCURRED, _RECORDED)


def _checked(
    table: pa.Table, contract: Contract, now: datetime, asked_until: datetime | None, *, text: bool
) -> tuple[pa.Table, list[RowError]]:
    """The rows in their types (bad cells null) and what is wrong with them."""
    arrays: list[pa.ChunkedArray] = []
    problems: list[RowError] = []
    for column in _columns(contract):
        try:
            arrays.append(coerce(table, [column], text=text).column(0))
        except BadInput as error:
            if any(problem.row < 0 for problem in error.problems):
                raise
            of_column = error.problems
            if error.total > len(of_column):  # an error keeps no more
                of_column = (*misfits(table.column(column.name), column, text=text),)
            problems += of_column
            bad = {problem.row for problem in of_column}
            good = as_table({column.name: _without(table.column(column.name), bad)})
            arrays.append(coerce(good, [column], text=text).column(0))
    rows = pa.table(arrays, names=[column.name for column in _columns(contract)])
    rows = _with_times(rows)
    for label in contract.reported if not contract.is_of_actions else ():
        labels, takes_new = rows.column(label.name), contract.takes_new_classes
        problems += unknown_classes(contract.outcome_classes, label.name, labels, takes_new=takes_new)
    problems += _bad_ids(rows.column(_ID.name)) + _missing(rows, contract)
    problems += _untimely(rows, now, asked_until)
    return rows, sorted(_first_per_row(problems), key=lambda problem: problem.row)


def _without(values: pa.ChunkedArray, bad: set[int]) -> Any:
    """The values, null in the bad rows."""
    if pa.types.is_nested(values.type):
        return [None if row in bad else value for row, value in enumerate(values.to_pylist())]
    is_good = pa.array([row not in bad for row in range(len(values))], pa.bool_())
    return pc.if_else(is_good, values, pa.scalar(None, values.type))


def _cure(contract: Contract, problems: Sequence[RowError]) -> str:
    is_class = any("none of the classes" in problem.cause for problem in problems)
    new = f" A class that is new and real is named in models.{contract.model}.classes." if is_class else ""
    return f"Nothing was stored. Mend the rows, or have them left out: --on-error skip.{new}"


def _with_times(rows: pa.Table) -> pa.Table:
    """Rows with `occurred_at`, by default `recorded_at`; rows without any time get it when they are stored."""
    occurred = pc.coalesce(rows.column(_OCCURRED.name), rows.column(_RECORDED.name))
    return rows.set_column(rows.column_names.index(_OCCURRED.name), _OCCURRED.name, occurred)


def _missing(rows: pa.Table, contract: Contract) -> list[RowError]:
    problems = [
        RowError(row, label.name, "is missing")
        for label in contract.reported
        if label.required or not contract.is_of_actions
        for row in _where(pc.is_null(rows.column(label.name)))
    ]
    if contract.is_of_actions:
        name = contract.reported[1].name
        is_chance = pc.and_(pc.greater_equal(rows.column(name), LEAST_CHANCE), pc.less_equal(rows.column(name), 1.0))
        cause = f"is no probability from {LEAST_CHANCE:.6f} to 1"
        problems += [RowError(row, name, cause) for row in _where(pc.invert(is_chance))]
    problems += [
        RowError(row, label.name, "is infinite: no prediction can be compared with it")
        for label in contract.reported
        if label.type in (ColumnType.FLOAT, ColumnType.DOUBLE)
        for row in _where(pc.is_inf(rows.column(label.name)))
    ]
    named = pc.is_valid(rows.column(_ID.name))
    has_key = pa.array([bool(contract.key)] * rows.num_rows, pa.bool_())
    for column in contract.key:
        has_key = pc.and_(has_key, pc.is_valid(rows.column(column.name)))
    key = ", ".join(column.name for column in contract.key) or "none is configured"
    cause = f"names no prediction: give prediction_id or the key ({key})"
    problems += [RowError(row, "", cause) for row in _where(pc.invert(pc.or_(named, has_key)))]
    if contract.join.horizon is not None:
        timeless = pc.and_(pc.invert(named), pc.is_null(rows.column(_OCCURRED.name)))
        cause = "is missing: this model's join has a horizon, so an outcome needs its time"
        problems += [RowError(row, _OCCURRED.name, cause) for row in _where(timeless)]
    return problems


def _bad_ids(identifiers: pa.ChunkedArray) -> list[RowError]:
    texts = [(row, identifiers[row].as_py()) for row in _where(_is_unusual(identifiers))]
    return [RowError(row, _ID.name, f"{text!r} is not a UUID") for row, text in texts if _canonical_id(text) is None]


def _is_unusual(identifiers: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which ids are not written as we write them: they may still be UUIDs."""
    return pc.invert(pc.match_substring_regex(identifiers, "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"))


def _canonical_id(text: str) -> str | None:
    try:
        return str(UUID(text))
    except ValueError:
        return None


def _untimely(rows: pa.Table, now: datetime, asked_until: datetime | None) -> list[RowError]:
    recorded = rows.column(_RECORDED.name)
    late = pc.greater(recorded, pa.scalar(as_utc(now), recorded.type))
    problems = [RowError(row, _RECORDED.name, f"is after now, {format_moment(now)}") for row in _where(late)]
    if asked_until is not None:
        early = pc.less_equal(recorded, pa.scalar(as_utc(asked_until), recorded.type))
        cause = f"is not after {format_moment(asked_until)}, as of which the model was already evaluated"
        problems += [RowError(row, _RECORDED.name, cause) for row in _where(early)]
    return problems


def _where(mask: pa.ChunkedArray) -> Sequence[int]:
    # Nulls count as False. Not Arrow's indices_nonzero: it crashes on a column without any chunk (pyarrow 25.0).
    rows: list[int] = np.flatnonzero(pc.fill_null(mask, fill_value=False).to_numpy()).tolist()
    return rows


def _first_per_row(problems: Sequence[RowError]) -> list[RowError]:
    first: dict[int, RowError] = {}
    for problem in problems:
        first.setdefault(problem.row, problem)
    return list(first.values())


def _canonical(rows: pa.Table, contract: Contract, source: str) -> pa.Table:
    """Rows as they are stored: a row that names its prediction does not name a key beside it."""
    identifier = rows.column(_ID.name)
    named = pc.is_valid(identifier)
    unusual = _where(_is_unusual(identifier))
    if unusual:
        texts = identifier.to_pylist()
        for row in unusual:
            texts[row] = _canonical_id(texts[row])
        identifier = pa.array(texts, pa.string())
    columns = {_ID.name: identifier}
    for column in contract.key:
        values = rows.column(column.name)
        columns[column.stored] = pc.if_else(named, pa.scalar(None, values.type), values)
    columns |= {value.stored: rows.column(value.name) for value in contract.reported}
    columns |= {name: rows.column(name) for name in (_OCCURRED.name, _RECORDED.name)}
    columns["source"] = pa.array([source] * rows.num_rows, pa.string())
    return pa.table(columns)
