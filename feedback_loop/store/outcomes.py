"""Appends outcomes (and actions), a correction as the next revision of its subject; how far sources were read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy import Connection, MetaData, Table, and_, func, literal, or_, select

from feedback_loop.clock import EPOCH
from feedback_loop.errors import NotFound, Unavailable
from feedback_loop.schema import Column, Contract, arrow_type
from feedback_loop.store import erased_keys, fence
from feedback_loop.store.arrow import UTC_MOMENT, fetch_arrow, insert_rows
from feedback_loop.store.create_tables import ensure_tables
from feedback_loop.store.engine import ConstraintViolated, Store, prefer_indexes
from feedback_loop.store.model_tables import TABLES_CACHED, ModelTables, find_tables
from feedback_loop.store.records import upsert
from feedback_loop.store.schema import Identifier, Json, Moment, shared_table, sql_type

TRIES = 5
"""How often an intake is tried if other writers store the same revisions first."""

_PLACE = "outcome_id"
"""The number of a row; a reserved name, which no key column has."""

spool_outcomes = shared_table(
    "spool_outcomes",
    None,
    sa.Column("spool", sa.String, primary_key=True),
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),  # the spool's groups up to this number are stored
)

outcome_sources = shared_table(
    "outcome_sources",
    None,
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("source", sa.String, primary_key=True),
    sa.Column("watermark", Json, nullable=False),
    sa.Column("taken_at", Moment, nullable=False),
)

_Revision = tuple[int, object, int]
"""The number of a revision, its labels, and when it occurred (microseconds since 1970)."""


@dataclass(frozen=True)
class Intake:
    """What became of outcomes: `received = new + corrected + unchanged + erased`.

    `unmatched` ones, without a prediction, are among the first three. `erased` ones occurred before their key was
    erased, and are not stored.
    """

    received: int = 0
    new: int = 0
    corrected: int = 0
    unchanged: int = 0
    unmatched: int = 0
    erased: int = 0

    def __add__(self, other: Intake) -> Intake:
        return Intake(
            self.received + other.received,
            self.new + other.new,
            self.corrected + other.corrected,
            self.unchanged + other.unchanged,
            self.unmatched + other.unmatched,
            self.erased + other.erased,
        )


def append_outcomes(store: Store, contract: Contract, rows: pa.Table, now: datetime, *, timed: bool) -> Intake:
    """Stores outcomes in one transaction, each as its subject's next revision unless nothing has changed.

    A subject is a prediction or a key (and, if the join has a horizon, the moment at which it occurred). `rows` holds
    `prediction_id` (or null), the stored columns of key and labels, `occurred_at`, `recorded_at` (null: now; one that
    the fence has passed is moved behind it) and `source`. `timed`: `occurred_at` came from the caller, so that
    another time makes another revision. Of a contract `of_actions` they are actions, kept in a table of their own.
    Raises Unavailable if other writers were faster `TRIES` times.
    """
    return _append_in_turn(store, contract, lambda _: rows, now, timed=timed)


def append_spooled(
    store: Store, contract: Contract, spool: str, groups: Mapping[int, pa.Table], now: datetime, *, timed: bool
) -> Intake:
    """The same for numbered groups of a spool, in ascending order; each is stored once, however often it is brought.

    The last number is stored in the same transaction. So groups that are brought again (by two processes, or by one
    that was killed before it removed them from the spool) change nothing, even if an outcome was corrected meanwhile.
    They are not counted.
    """
    table = spool_outcomes

    def new_rows(connection: Connection) -> pa.Table:
        _take_turns(connection, contract.model)
        of_spool = and_(table.c.spool == spool, table.c.model == contract.model)
        stored = connection.execute(select(table.c.seq).where(of_spool)).scalar_one_or_none() or 0
        new = [rows for number, rows in groups.items() if number > stored]
        if not new:
            return next(iter(groups.values())).slice(0, 0)
        upsert(connection, table, [{"spool": spool, "model": contract.model, "seq": max(groups)}])
        return pa.concat_tables(new)

    return _append_in_turn(store, contract, new_rows, now, timed=timed)


def _take_turns(connection: Connection, model: str) -> None:
    """Waits for other transactions that store outcomes of spools. SQLite has only one writer anyway."""
    if connection.dialect.name == "postgresql":
        turn = func.hashtextextended(f"feedback_loop.spool_outcomes:{model}", 0)
        connection.execute(select(func.pg_advisory_xact_lock(turn)))


def _append_in_turn(
    store: Store, contract: Contract, rows_in: Callable[[Connection], pa.Table], now: datetime, *, timed: bool
) -> Intake:
    tables = ensure_tables(store, contract, now)
    tables = tables.of_actions if contract.is_of_actions else tables
    for _ in range(TRIES):
        try:
            with store.write() as connection:
                moment = fence.enter(connection, contract.model, now)
                closed_at = fence.asked_in(connection, contract.model)
                rows = rows_in(connection)
                if not rows.num_rows:
                    return Intake()
                remaining = erased_keys.without_erased_outcomes(connection, store.secret, contract, rows)
                counts = _append(connection, tables, _stamped(contract, remaining, moment, closed_at), timed=timed)
                erased = rows.num_rows - remaining.num_rows
                return counts + Intake(received=erased, erased=erased)
        except ConstraintViolated as error:
            if not error.is_unique:
                raise
    raise Unavailable(
        "database", f"Other writers kept correcting the same outcomes of {contract.model!r}.", cure="Again."
    )


def named_predictions(store: Store, model: str, as_of: datetime) -> pa.Array:
    """The ids of predictions to which an outcome recorded by a moment refers by id."""
    with store.read() as connection:
        try:
            table = find_tables(connection, model).outcomes
        except NotFound:
            return pa.array([], pa.string())
        ids = select(table.c.prediction_id).where(table.c.prediction_id.is_not(None), table.c.recorded_at <= as_of)
        return pa.array(list(connection.execute(ids.distinct()).scalars()), pa.string())


def _stamped(contract: Contract, rows: pa.Table, now: datetime, closed_at: datetime | None) -> pa.Table:
    """The rows with their event, and with the moment at which they are recorded, which is always after the fence."""
    moment = pa.scalar(now, UTC_MOMENT)
    recorded = pc.coalesce(rows.column("recorded_at"), moment)
    if closed_at is not None:
        recorded = pc.if_else(pc.less_equal(recorded, pa.scalar(closed_at, UTC_MOMENT)), moment, recorded)
    occurred = pc.coalesce(rows.column("occurred_at"), recorded)
    event = pa.repeat(pa.scalar(EPOCH, UTC_MOMENT), rows.num_rows)
    if contract.join.horizon is not None:
        event = pc.if_else(pc.is_null(rows.column("prediction_id")), occurred, event)
    stamps = {"recorded_at": recorded, "occurred_at": occurred}
    columns = {name: stamps.get(name, rows.column(name)) for name in rows.column_names}
    return pa.table({**columns, "event_at": event})


def _append(connection: Connection, tables: ModelTables, rows: pa.Table, *, timed: bool) -> Intake:
    subjects = _create_subjects(connection, tables, rows)
    stored = _newest_revisions(connection, tables, subjects)
    with_prediction = select(func.count()).select_from(subjects).where(or_(*_matches(tables, subjects)))
    matched = connection.execute(with_prediction).scalar_one()
    subjects.drop(connection)
    newest: dict[object, _Revision] = {}  # of this call's rows, which may have a subject several times
    places, revisions, corrected = [], [], 0
    for place, (subject, labels, occurred_us) in enumerate(
        zip(_subjects(tables, rows), *_contents(tables, rows), strict=True)
    ):
        before = newest.get(subject) or stored.get(place)
        if before and before[1] == labels and (before[2] == occurred_us or not timed):
            continue
        newest[subject] = ((before[0] if before else 0) + 1, labels, occurred_us)
        places.append(place)
        revisions.append(newest[subject][0])
        corrected += before is not None
    changed = rows.take(pa.array(places, pa.int32())).append_column("revision", pa.array(revisions, pa.int32()))
    insert_rows(connection, tables.outcomes, changed, None)
    return Intake(
        received=rows.num_rows,
        new=len(places) - corrected,
        corrected=corrected,
        unchanged=rows.num_rows - len(places),
        unmatched=rows.num_rows - matched,
    )


def _create_subjects(connection: Connection, tables: ModelTables, rows: pa.Table) -> Table:
    """The rows' subjects in a temporary table, so that the database can join them."""
    table = _subject_table(tables.key)
    table.create(connection, checkfirst=False)
    subjects = rows.select([column.name for column in table.c if column.name != _PLACE])
    insert_rows(connection, table, subjects.add_column(0, _PLACE, pa.array(range(rows.num_rows), pa.int32())), None)
    prefer_indexes(connection)
    return table


@lru_cache(TABLES_CACHED)
def _subject_table(key: tuple[Column, ...]) -> Table:
    return Table(
        "asked_outcomes",
        MetaData(),
        sa.Column(_PLACE, sa.Integer, primary_key=True),
        sa.Column("prediction_id", Identifier),
        *(sa.Column(column.stored, sql_type(column.type)) for column in key),
        sa.Column("event_at", Moment),
        prefixes=["TEMPORARY"],
    )


def _subjects(tables: ModelTables, rows: pa.Table) -> Iterator[object]:
    """The subject of each row: its prediction's id, else its key and event."""
    fields = [*(column.stored for column in tables.key), "event_at"]
    keys = zip(*(rows.column(field).to_pylist() for field in fields), strict=True)
    return (identifier or key for identifier, key in zip(rows.column("prediction_id").to_pylist(), keys, strict=True))


def _contents(tables: ModelTables, rows: pa.Table) -> tuple[list[object], list[int]]:
    """The labels of each row, and when each occurred (microseconds since 1970)."""
    labels = zip(*(rows.column(label.stored).to_pylist() for label in tables.labels), strict=True)
    return list(labels), rows.column("occurred_at").cast(pa.int64()).to_pylist()


def _newest_revisions(connection: Connection, tables: ModelTables, subjects: Table) -> dict[int, _Revision]:
    """The newest stored revision of each subject that has one, by the subject's number."""
    outcomes = tables.outcomes
    types = {_PLACE: pa.int32(), "revision": pa.int32(), "occurred_at": UTC_MOMENT}
    types |= {label.stored: arrow_type(label.type) for label in tables.labels}
    wanted = [subjects.c[_PLACE], *(outcomes.c[name] for name in types if name != _PLACE)]
    newest: dict[int, _Revision] = {}
    for fields in (["prediction_id"], [*(column.stored for column in tables.key), "event_at"]):
        if fields == ["event_at"]:
            continue
        same = and_(*(outcomes.c[field] == subjects.c[field] for field in fields))
        statement = select(*wanted).join_from(subjects, outcomes, same).order_by(outcomes.c.revision)
        rows = fetch_arrow(connection, statement, types)
        places, revisions = rows.column(_PLACE).to_pylist(), rows.column("revision").to_pylist()
        newest.update(zip(places, zip(revisions, *_contents(tables, rows), strict=True), strict=True))
    return newest


def _matches(tables: ModelTables, subjects: Table) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions, one of which holds for a subject that has a prediction.

    Scalar subqueries, which are evaluated per subject: PostgreSQL may turn an `EXISTS` into a scan of the history.
    """
    for generation in tables.generations:
        table = generation.table
        same = [table.c.prediction_id == subjects.c.prediction_id]
        if tables.key:
            keys = [column.stored for column in tables.key]
            same.append(and_(*(table.c[field] == subjects.c[field] for field in keys)))
        for condition in same:
            yield select(literal(1)).where(condition).limit(1).correlate(subjects).scalar_subquery().is_not(None)


def load_watermark(store: Store, model: str, source: str) -> Any:
    """The newest time, number or text that was read from a source; None before the first poll."""
    table = outcome_sources.c
    with store.read() as connection:
        stored = connection.execute(
            select(table.watermark).where(table.model == model, table.source == source)
        ).scalar_one_or_none()
    if stored is None:
        return None
    return datetime.fromisoformat(stored["value"]) if stored["is_time"] else stored["value"]


def save_watermark(store: Store, model: str, source: str, watermark: Any, now: datetime) -> None:
    """Stores how far a source has been read."""
    is_time = isinstance(watermark, datetime)
    value = {"is_time": is_time, "value": watermark.isoformat() if is_time else watermark}
    with store.write() as connection:
        row = {"model": model, "source": source, "watermark": value, "taken_at": now}
        upsert(connection, outcome_sources, [row])
