"""The incremental join: updates the coverage counts by what was recorded since the last run.

A run closes the fence at a moment, takes what was recorded between its watermark and that moment, and finds the
predictions that may look different now. It reads both states by the same join `as_of` the two moments and adds the
difference to the counts. So the counts always equal those of a join from scratch, and a run costs what is new. Counts
and watermark change in one transaction: a run that dies has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import compress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Column as SqlColumn
from sqlalchemy import (
    Connection,
    MetaData,
    Select,
    Table,
    and_,
    func,
    select,
    text,
)

from feedback_loop.clock import EPOCH
from feedback_loop.errors import NotFound
from feedback_loop.schema import Contract, JoinRule, Which, arrow_type, table_name
from feedback_loop.store import fence
from feedback_loop.store.arrow import UTC_MOMENT
from feedback_loop.store.coverage import (
    Differences,
    SegmentValues,
    count_joined_outcomes,
    coverage_counts,
    joins,
    load_segment_values,
    segment_rule,
    with_rows,
)
from feedback_loop.store.engine import Store, prefer_indexes
from feedback_loop.store.findings import Span, findings, note_conflicts, note_unmatched
from feedback_loop.store.join_query import CONFLICT, create_view, is_known, labelled_select, same_key
from feedback_loop.store.model_tables import ModelTables, find_tables, prediction_columns
from feedback_loop.store.predictions import ACTION_TYPES, SYSTEM_TYPES, fetch_rows, joined_types, with_absent
from feedback_loop.store.profiles import profiles
from feedback_loop.store.records import dialect_insert, insert_new
from feedback_loop.store.schema import Identifier

STEP_ROWS = 50_000
"""About so many new rows are joined in one transaction: a first run over a long history takes many."""


@dataclass(frozen=True)
class Joined:
    """What a run joined: new predictions and outcomes, changed predictions, and windows whose counts changed.

    `until` is the watermark after it; None where the model has no tables yet.
    """

    predictions: int
    outcomes: int
    changed: int
    windows: int
    until: datetime | None

    def __add__(self, other: Joined) -> Joined:
        return Joined(
            self.predictions + other.predictions,
            self.outcomes + other.outcomes,
            self.changed + other.changed,
            self.windows + other.windows,
            other.until,
        )


@dataclass(frozen=True)
class News:
    """What changed in one step, for whoever counts more than coverage.

    `new` predictions have all their columns. `before` and `after` hold the changed predictions as they were and are:
    system columns, label, outputs, segments and what a user's own metrics take. `segments` are the values of segment
    columns that are counted separately. `gone` predictions were erased; `before` holds them too.
    """

    new: pa.Table
    before: pa.Table
    after: pa.Table
    segments: SegmentValues
    gone: pa.Table | None = None


Fold = Callable[[Connection, str, News], None]
"""Takes a connection, a model and its news; called in the transaction that moves the watermark."""


def join_new(store: Store, contract: Contract, length: timedelta, now: datetime, fold: Fold | None = None) -> Joined:
    """Joins what was recorded since the last run, and counts it by windows of that length. Returns the total.

    With another join rule, other segments or another length than before, everything is counted again from the start.
    """
    until = fence.close(store, contract.model, now)
    total = Joined(0, 0, 0, 0, None)
    while True:
        with store.write() as connection:
            try:
                tables = find_tables(connection, contract.model)
            except NotFound:
                return total
            prefer_indexes(connection)
            since = _watermark(connection, tables, contract, length)
            if since >= until:
                return Joined(total.predictions, total.outcomes, total.changed, total.windows, until)
            span = Span(since, _step_end(connection, tables, contract.join, since, until))
            total += _Step(connection, tables, contract, span, store.secret).run(length, fold)
            _move_watermark(connection, tables, span)


def subtract_predictions(
    connection: Connection,
    tables: ModelTables,
    contract: Contract,
    ids: Sequence[str],
    secret: bytes,
    fold: Fold | None,
) -> dict[str, set[object]]:
    """Subtracts joined predictions from the counts (and, by `fold`, from the profiles) before they are removed.

    To be called in the transaction that removes them. It reopens no window. Returns the predictions' values of the
    segment columns, by column.
    """
    rule = connection.execute(select(joins.c.rule).where(joins.c.model == contract.model)).scalar()
    if not rule:
        return {}
    length = timedelta(seconds=rule["length_seconds"])
    since = _watermark(connection, tables, contract, length)
    step = _Step(connection, tables, contract, Span(EPOCH, since), secret)
    affected = _temporary(connection)
    connection.execute(affected.insert(), [{"prediction_id": prediction} for prediction in ids])
    before = step.states(affected, since)
    segments = load_segment_values(connection, contract, secret, since)
    differences = Differences(contract, length, segments)
    rows = before.to_pylist()
    for row in rows:
        differences.add(row, -1, EPOCH)
    differences.save(connection, contract.model)
    is_empty = (coverage_counts.c.model == contract.model) & (coverage_counts.c.predictions == 0)
    connection.execute(coverage_counts.delete().where(is_empty))
    if fold is not None and rows:
        gone = step.predictions(affected)
        fold(connection, contract.model, News(gone.slice(0, 0), before, before.slice(0, 0), segments, gone))
    affected.drop(connection)
    return {name: {row[contract.column(name).stored] for row in rows} - {None} for name in contract.segments}


def _watermark(connection: Connection, tables: ModelTables, contract: Contract, length: timedelta) -> datetime:
    """Where the last run ended; EPOCH where all must be counted again. Locked until the transaction ends."""
    rule = _counting_rule(contract, length)
    of_model = joins.c.model == contract.model
    # The row must exist before it can be locked: of two first runs one waits here for the other.
    insert_new(
        connection, joins, {"model": contract.model, "watermark": EPOCH, "rule": {}, "segments": {}, "outcomes": 0}
    )
    row = connection.execute(select(joins).where(of_model).with_for_update()).one()
    if row.rule == rule:
        watermark: datetime = row.watermark
        return watermark
    for table in (coverage_counts, findings, profiles):
        connection.execute(table.delete().where(table.c.model == contract.model))
    connection.execute(joins.update().where(of_model).values(watermark=EPOCH, rule=rule, segments={}, outcomes=0))
    for generation in tables.generations:
        name = table_name("labelled", contract.model, generation.number)
        create_view(connection, name, tables, generation.table, contract.join)
    return EPOCH


def _move_watermark(connection: Connection, tables: ModelTables, span: Span) -> None:
    outcomes = count_joined_outcomes(connection, tables, span.since, span.until)
    moved = joins.update().where(joins.c.model == tables.model)
    connection.execute(moved.values(watermark=span.until, outcomes=outcomes))


def _counting_rule(contract: Contract, length: timedelta) -> dict[str, Any]:
    """What the counts depend on: join rule, segments and length of a window."""
    join = contract.join
    rule: dict[str, Any] = {
        "horizon_seconds": join.horizon.total_seconds() if join.horizon is not None else None,
        "which": str(join.which),
        "absent_means": join.absent_means,
        "maturity_seconds": join.maturity.total_seconds(),
        "length_seconds": length.total_seconds(),
        **segment_rule(contract),
    }
    if join.needs_action:
        rule["needs_action"] = True
    # Older counts included labels inferred from absence: those are counted again.
    return rule if join.absent_means is None else {**rule, "counts": "observed"}


def _reports(tables: ModelTables, rule: JoinRule) -> tuple[Table, ...]:
    """The tables that predictions are joined with: outcomes, and actions where those are needed."""
    return (tables.outcomes, tables.actions) if rule.needs_action else (tables.outcomes,)


def _step_end(
    connection: Connection, tables: ModelTables, rule: JoinRule, since: datetime, until: datetime
) -> datetime:
    """The moment by which some table has about STEP_ROWS new rows, or `until`."""
    ends = [until]
    for recorded in (
        *(generation.table.c.logged_at for generation in tables.generations),
        *(reports.c.recorded_at for reports in _reports(tables, rule)),
    ):
        new = select(recorded).where(recorded > since, recorded <= until)
        ends += connection.execute(new.order_by(recorded).offset(STEP_ROWS).limit(1)).scalars()
    return min(ends)


@dataclass(frozen=True)
class _Step:
    """What one transaction joins: the rows recorded in a span."""

    connection: Connection
    tables: ModelTables
    contract: Contract
    span: Span
    secret: bytes

    def run(self, length: timedelta, fold: Fold | None) -> Joined:
        """Adds the difference that the span makes to the counts, calls `fold` with it, and records findings."""
        connection, model, span = self.connection, self.contract.model, self.span
        affected = _affected(connection, self.tables, self.contract, span)
        before, after = self.states(affected, span.since), self.states(affected, span.until)
        segment_columns = (self.contract.column(name) for name in self.contract.segments)
        reported = ACTION_TYPES if self.contract.join.needs_action else ()
        compared = [*_TYPES, *reported, *(column.stored for column in (*self.contract.labels, *segment_columns))]
        rows = after.select(compared).to_pylist()
        rows_before = {row["prediction_id"]: row for row in before.select(compared).to_pylist()}
        is_changed = [rows_before.get(row["prediction_id"]) != row for row in rows]
        segments = self._save_segments(row for row in rows if row["prediction_id"] not in rows_before)
        windows = self._count(length, segments, compress(rows, is_changed), rows_before)
        if fold is not None:
            changed = after.filter(pa.array(is_changed, pa.bool_()))
            was_other = pc.is_in(before.column("prediction_id"), changed.column("prediction_id").combine_chunks())
            fold(connection, model, News(self.predictions(), before.filter(was_other), changed, segments))
        note_conflicts(connection, model, affected, rows, span.until)
        note_unmatched(connection, self.tables, self.contract, span)
        affected.drop(connection)
        new_outcomes = select(func.count()).where(span.holds(self.tables.outcomes.c.recorded_at))
        outcomes = connection.execute(new_outcomes).scalar_one()
        return Joined(len(rows) - len(rows_before), outcomes, sum(is_changed), windows, span.until)

    def _save_segments(self, new: Iterable[Mapping[str, Any]]) -> SegmentValues:
        """The segment values with those of the new rows, which are stored too."""
        contract = self.contract
        before = load_segment_values(self.connection, contract, self.secret, self.span.since)
        segments = with_rows(contract, before, new)
        of_model = joins.c.model == contract.model
        self.connection.execute(joins.update().where(of_model).values(segments=segments))
        return segments

    def _count(
        self,
        length: timedelta,
        segments: SegmentValues,
        changed: Iterable[dict[str, Any]],
        rows_before: Mapping[str, dict[str, Any]],
    ) -> int:
        """Adds the changed rows to the counts and subtracts what they were; returns how many windows that changed."""
        differences = Differences(self.contract, length, segments)
        for row in changed:
            before = rows_before.get(row["prediction_id"])
            # A new row counts from the moment it was recorded: counting again from the start reopens no window.
            moment = self.span.until if before is not None else _recorded_at(self.contract, row)
            differences.add(row, 1, moment)
            if before is not None:
                differences.add(before, -1, moment)
        differences.save(self.connection, self.contract.model)
        return len(differences.windows)

    def states(self, affected: Table, as_of: datetime) -> pa.Table:
        """The affected predictions with their outcomes as of a moment; those logged later are left out."""
        tables, contract = self.tables, self.contract
        wanted = tuple({column.stored: column for column in (*contract.outputs, *contract.judged_by)}.values())
        types, wanted = joined_types(contract, {**_TYPES, "sample_weight": pa.float64()}, wanted)
        parts = [pa.schema(list(types.items())).empty_table()]
        for generation in tables.generations:
            statement = labelled_select(tables, generation.table, contract.join, as_of).where(
                generation.table.c.prediction_id.in_(select(affected.c.prediction_id)),
                is_known(generation.table.c.logged_at, as_of),
            )
            parts.append(fetch_rows(self.connection, generation, statement, types, wanted, self.secret))
        rows = pa.concat_tables(parts)
        return with_absent(contract, rows, as_of) if contract.join.absent_means is not None else rows

    def predictions(self, chosen: Table | None = None) -> pa.Table:
        """The predictions (those `chosen` by id) logged in the span, with all columns that any version has."""
        contract, parts = self.contract, []
        current = {column.stored: column for column in (*prediction_columns(contract), *contract.raw_outputs)}
        unread = {column.stored for column in contract.log_columns} - current.keys()
        for generation in self.tables.generations:
            columns = (column for column in generation.columns if column.stored not in unread)
            wanted = {column.stored: current.get(column.stored, column) for column in columns}
            types = {**SYSTEM_TYPES, **{name: arrow_type(column.type) for name, column in wanted.items()}}
            statement = select(*generation.table.c).where(self.span.holds(generation.table.c.logged_at))
            if chosen is not None:
                statement = statement.where(generation.table.c.prediction_id.in_(select(chosen.c.prediction_id)))
            rows = fetch_rows(self.connection, generation, statement, types, tuple(wanted.values()), self.secret)
            parts.append(rows)
        return pa.concat_tables([part for part in parts if part.num_rows] or parts[:1], promote_options="permissive")


def _affected(connection: Connection, tables: ModelTables, contract: Contract, span: Span) -> Table:
    """The ids of predictions that may look different at the span's end than at its start."""
    affected = _temporary(connection)
    insert = dialect_insert(connection, affected)
    for generation in tables.generations:
        for ids in _may_have_changed(tables, generation.table, contract, span):
            connection.execute(insert.from_select(["prediction_id"], ids).on_conflict_do_nothing())
    if connection.dialect.name == "postgresql":
        connection.execute(text("ANALYZE affected_predictions"))
    return affected


_AFFECTED = Table(
    "affected_predictions",
    MetaData(),
    SqlColumn("prediction_id", Identifier, primary_key=True),
    prefixes=["TEMPORARY"],
)


def _temporary(connection: Connection) -> Table:
    """A new empty table for ids of predictions, to be dropped before the transaction ends."""
    _AFFECTED.create(connection, checkfirst=False)
    return _AFFECTED


def _may_have_changed(
    tables: ModelTables, predictions: Table, contract: Contract, span: Span
) -> Iterator[Select[tuple[str]]]:
    ids = select(predictions.c.prediction_id)
    rule = contract.join
    yield ids.where(span.holds(predictions.c.logged_at))
    for reports in _reports(tables, rule):
        is_new = span.holds(reports.c.recorded_at)
        yield ids.join(reports, reports.c.prediction_id == predictions.c.prediction_id).where(is_new)
        if tables.key:
            yield ids.join(reports, same_key(tables, predictions, reports, rule)).where(is_new)
    if tables.key and rule.which is not Which.ALL:  # a new prediction may take an outcome from another of its key
        for generation in tables.generations:
            rival = generation.table.alias()
            same = and_(*(rival.c[column.stored] == predictions.c[column.stored] for column in tables.key))
            yield ids.join(rival, same).where(span.holds(rival.c.logged_at))
    if rule.absent_means is not None and span.since > EPOCH:  # absence becomes a label once they have matured
        matured = Span(span.since - rule.maturity, span.until - rule.maturity)
        yield ids.where(matured.holds(predictions.c.predicted_at))


_TYPES = {
    "prediction_id": pa.string(),
    "predicted_at": UTC_MOMENT,
    "logged_at": UTC_MOMENT,
    "model_version": pa.string(),
    "role": pa.string(),
    "recorded_at": UTC_MOMENT,
    "revision": pa.int32(),
    CONFLICT: pa.bool_(),
}


def _recorded_at(contract: Contract, row: dict[str, Any]) -> datetime:
    """Since when a prediction is as it is: the newest of when it was logged, got its outcome, matured without one."""
    moments: list[datetime] = [row["logged_at"], row["recorded_at"] or row["logged_at"]]
    if row["revision"] is None and row[contract.label.stored] is not None:
        moments.append(row["predicted_at"] + contract.join.maturity)
    return max(moments)
