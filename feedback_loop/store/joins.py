"""The incremental join: what arrived since the last run changes the accounts of the windows that it touches.

A run takes what was recorded between its watermark and a moment at which the fence was closed, finds the predictions
of which something else may be known now than then, reads both states by the same join `as_of` the two moments, and
books the difference. So the accounts are at every watermark what a join from scratch would give, and a run costs what
is new. The accounts and the watermark move in one transaction: a run that dies has done nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
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
from feedback_loop.schema import Contract, Which, arrow_type, table_name
from feedback_loop.store import fence
from feedback_loop.store.arrow import UTC_MOMENT
from feedback_loop.store.coverage import Differences, Named, counted, joins, named_segments, segment_rule, with_rows
from feedback_loop.store.engine import Store, prefer_indexes
from feedback_loop.store.findings import Span, findings, note_conflicts, note_unmatched
from feedback_loop.store.join_query import CONFLICT, create_view, is_known, labelled_select, same_key
from feedback_loop.store.model_tables import ModelTables, find_tables, prediction_columns
from feedback_loop.store.predictions import SYSTEM_TYPES, fetch_rows, with_absent
from feedback_loop.store.profiles import profiles
from feedback_loop.store.records import dialect_insert, insert_new
from feedback_loop.store.schema import Identifier

STEP_ROWS = 50_000
"""About so many new rows are taken in one transaction: a first run over a long history is many small ones."""


@dataclass(frozen=True)
class Joined:
    """What one run took in: rows that came, predictions of which something else is known now, windows touched."""

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
    """What one step has found, for whoever keeps more than counts of it.

    `new` predictions have all their columns. Of those of which something else is known now, `before` and `after` say
    what: system columns, label, outputs, segments and what a user's own metrics take. `segments` are the values of
    their columns that are counted by themselves. `gone` predictions were erased, with what `before` says of them.
    """

    new: pa.Table
    before: pa.Table
    after: pa.Table
    segments: Named
    gone: pa.Table | None = None


Fold = Callable[[Connection, str, News], None]
"""Takes a model's news in, in the transaction that moves the watermark."""


def join_new(store: Store, contract: Contract, length: timedelta, now: datetime, fold: Fold | None = None) -> Joined:
    """Takes what arrived since the last run into the accounts of windows of that length; counts all of its steps.

    Another join rule, other segments or another length begin from the start: the accounts are made anew.
    """
    until = fence.close(store, contract.model, now)
    total = Joined(0, 0, 0, 0, None)
    while True:
        with store.write() as connection:
            try:
                found = find_tables(connection, contract.model)
            except NotFound:
                return total
            prefer_indexes(connection)
            since = _watermark(connection, found, contract, length)
            if since >= until:
                return Joined(total.predictions, total.outcomes, total.changed, total.windows, until)
            span = Span(since, _step(connection, found, since, until))
            step = _Step(connection, found, contract, span, store.secret)
            total += step.book(length, fold)
            _move(connection, contract.model, span.until)


def take_out(
    connection: Connection,
    found: ModelTables,
    contract: Contract,
    ids: Sequence[str],
    secret: bytes,
    fold: Fold | None,
) -> dict[str, set[object]]:
    """Takes predictions out of the accounts (and, by `fold`, of what else was counted) as far as they are joined.

    Before they are removed, in the transaction that does so. No window is reopened by it. Returns what values they
    have of the columns of segments.
    """
    kept = connection.execute(select(joins.c.rule).where(joins.c.model == contract.model)).scalar()
    if not kept:
        return {}
    length = timedelta(seconds=kept["length_seconds"])
    since = _watermark(connection, found, contract, length)
    step = _Step(connection, found, contract, Span(EPOCH, since), secret)
    affected = _temporary(connection)
    connection.execute(affected.insert(), [{"prediction_id": each} for each in ids])
    known = step.states(affected, since)
    named = named_segments(connection, contract, secret, since)
    accounts = Differences(contract, length, named)
    values: dict[str, set[object]] = {name: set() for name in contract.segments}
    for row in known.to_pylist():
        accounts.add(row, -1, EPOCH)
        for name, those in values.items():
            if (value := row[contract.column(name).stored]) is not None:
                those.add(value)
    accounts.save(connection, contract.model)
    table = counted
    connection.execute(table.delete().where(table.c.model == contract.model, table.c.predictions == 0))
    if fold is not None and known.num_rows:
        gone = step.rows(affected)
        fold(connection, contract.model, News(gone.slice(0, 0), known, known.slice(0, 0), named, gone))
    affected.drop(connection)
    return values


def _watermark(connection: Connection, found: ModelTables, contract: Contract, length: timedelta) -> datetime:
    """Where the last run ended, locked until this transaction ends; EPOCH if all is to be done anew."""
    join = contract.join
    rule: dict[str, Any] = {
        "horizon_seconds": join.horizon.total_seconds() if join.horizon is not None else None,
        "which": str(join.which),
        "absent_means": join.absent_means,
        "maturity_seconds": join.maturity.total_seconds(),
        "length_seconds": length.total_seconds(),
        **segment_rule(contract),
    }
    if join.absent_means is not None:
        rule["counts"] = "observed"  # accounts of before counted what absence means as well
    same_model = joins.c.model == contract.model
    # The row must exist before it can be locked: of two first runs one waits here for the other.
    insert_new(connection, joins, {"model": contract.model, "watermark": EPOCH, "rule": {}, "segments": {}})
    row = connection.execute(select(joins).where(same_model).with_for_update()).one()
    if row.rule == rule:
        since: datetime = row.watermark
        return since
    for table in (counted, findings, profiles):
        connection.execute(table.delete().where(table.c.model == contract.model))
    connection.execute(joins.update().where(same_model).values(watermark=EPOCH, rule=rule, segments={}))
    for generation in found.generations:
        name = table_name("labelled", contract.model, generation.number)
        create_view(connection, name, found, generation.table, join)
    return EPOCH


def _move(connection: Connection, model: str, until: datetime) -> None:
    table = joins
    connection.execute(table.update().where(table.c.model == model).values(watermark=until))


def _step(connection: Connection, found: ModelTables, since: datetime, until: datetime) -> datetime:
    """The moment by which about STEP_ROWS new rows had come from each table, or `until`."""
    ends = [until]
    for recorded in (*(each.table.c.logged_at for each in found.generations), found.outcomes.c.recorded_at):
        new = select(recorded).where(recorded > since, recorded <= until)
        ends += connection.execute(new.order_by(recorded).offset(STEP_ROWS).limit(1)).scalars()
    return min(ends)


@dataclass(frozen=True)
class _Step:
    """One transaction's worth of news."""

    connection: Connection
    found: ModelTables
    contract: Contract
    span: Span
    secret: bytes

    def book(self, length: timedelta, fold: Fold | None) -> Joined:
        """Books the difference that the span makes in the accounts, and has it folded."""
        connection, found, contract, span = self.connection, self.found, self.contract, self.span
        affected = _affected(connection, found, contract, span)
        before, after = self.states(affected, span.since), self.states(affected, span.until)
        segments = (contract.column(name) for name in contract.segments)
        compared = [*_TYPES, *(each.stored for each in (*contract.labels, *segments))]
        rows = after.select(compared).to_pylist()
        known = {row["prediction_id"]: row for row in before.select(compared).to_pylist()}
        is_changed = [known.get(row["prediction_id"]) != row for row in rows]
        came = (row for row in rows if row["prediction_id"] not in known)
        named = with_rows(contract, named_segments(connection, contract, self.secret, span.since), came)
        mine = joins.c.model == contract.model
        connection.execute(joins.update().where(mine).values(segments=named))
        accounts = Differences(contract, length, named)
        for row in (row for row, changed in zip(rows, is_changed, strict=True) if changed):
            was = known.get(row["prediction_id"])
            # Of a row that is new, when it came is known: accounts that are made anew reopen no window.
            moment = span.until if was is not None else _known_since(contract, row)
            accounts.add(row, 1, moment)
            if was is not None:
                accounts.add(was, -1, moment)
        accounts.save(connection, contract.model)
        if fold is not None:
            changed = after.filter(pa.array(is_changed, pa.bool_()))
            was_other = pc.is_in(before.column("prediction_id"), changed.column("prediction_id").combine_chunks())
            fold(connection, contract.model, News(self.rows(), before.filter(was_other), changed, named))
        note_conflicts(connection, contract.model, affected, rows, span.until)
        note_unmatched(connection, found, contract, span)
        affected.drop(connection)
        outcomes = found.outcomes
        recorded = connection.execute(select(func.count()).where(span.holds(outcomes.c.recorded_at))).scalar_one()
        return Joined(len(rows) - len(known), recorded, sum(is_changed), len(accounts.windows), span.until)

    def states(self, affected: Table, as_of: datetime) -> pa.Table:
        """What was known of the affected predictions at a moment, of those that the log had learned of."""
        found, contract = self.found, self.contract
        wanted = tuple({each.stored: each for each in (*contract.outputs, *contract.judged_by)}.values())
        types = {**_TYPES, "sample_weight": pa.float64()}
        types |= {each.stored: arrow_type(each.type) for each in (*contract.labels, *wanted)}
        parts = [pa.schema(list(types.items())).empty_table()]
        for generation in found.generations:
            statement = labelled_select(found, generation.table, contract.join, as_of).where(
                generation.table.c.prediction_id.in_(select(affected.c.prediction_id)),
                is_known(generation.table.c.logged_at, as_of),
            )
            parts.append(fetch_rows(self.connection, generation, statement, types, wanted, self.secret))
        table = pa.concat_tables(parts)
        return with_absent(contract, table, as_of) if contract.join.absent_means is not None else table

    def rows(self, those: Table | None = None) -> pa.Table:
        """The predictions (or `those`, by id) that were logged in the span, with all columns that any version has."""
        own = {each.stored: each for each in prediction_columns(self.contract)}
        parts = []
        for generation in self.found.generations:
            wanted = {each.stored: own.get(each.stored, each) for each in generation.columns}
            types = {**SYSTEM_TYPES, **{name: arrow_type(each.type) for name, each in wanted.items()}}
            statement = select(*generation.table.c).where(self.span.holds(generation.table.c.logged_at))
            if those is not None:
                statement = statement.where(generation.table.c.prediction_id.in_(select(those.c.prediction_id)))
            fetched = fetch_rows(self.connection, generation, statement, types, tuple(wanted.values()), self.secret)
            parts.append(fetched)
        return pa.concat_tables([part for part in parts if part.num_rows] or parts[:1], promote_options="permissive")


def _affected(connection: Connection, found: ModelTables, contract: Contract, span: Span) -> Table:
    """The ids of predictions of which something else may be known at the span's end than at its start."""
    affected = _temporary(connection)
    insert = dialect_insert(connection, affected)
    for generation in found.generations:
        for ids in _may_have_changed(found, generation.table, contract, span):
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
    """An empty table for ids of predictions, of this transaction's own."""
    _AFFECTED.create(connection, checkfirst=False)
    return _AFFECTED


def _may_have_changed(
    found: ModelTables, predictions: Table, contract: Contract, span: Span
) -> Iterator[Select[tuple[str]]]:
    ids = select(predictions.c.prediction_id)
    outcomes, rule = found.outcomes, contract.join
    came = span.holds(outcomes.c.recorded_at)
    yield ids.where(span.holds(predictions.c.logged_at))
    yield ids.join(outcomes, outcomes.c.prediction_id == predictions.c.prediction_id).where(came)
    if found.key:
        yield ids.join(outcomes, same_key(found, predictions, outcomes, rule)).where(came)
        if rule.which is not Which.ALL:  # a new prediction may take an outcome from another one of its key
            for generation in found.generations:
                new = generation.table.alias()
                same = and_(*(new.c[column.stored] == predictions.c[column.stored] for column in found.key))
                yield ids.join(new, same).where(span.holds(new.c.logged_at))
    if rule.absent_means is not None:  # its chance of an outcome has passed
        matured = Span(span.since - rule.maturity, span.until - rule.maturity) if span.since > EPOCH else None
        if matured is not None:
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


def _known_since(contract: Contract, row: dict[str, Any]) -> datetime:
    """The moment since which a prediction is known as it is: it was logged, its outcome came, or stayed away."""
    moments: list[datetime] = [row["logged_at"], row["recorded_at"] or row["logged_at"]]
    if row["revision"] is None and row[contract.label.stored] is not None:
        moments.append(row["predicted_at"] + contract.join.maturity)
    return max(moments)
