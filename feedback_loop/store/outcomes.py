"""The outcomes' table: append-only, a correction is the next revision of its subject; how far sources were read."""

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
from feedback_loop.store.arrow import UTC_MOMENT, fetch_arrow, insert_new
from feedback_loop.store.create_tables import ensure_tables
from feedback_loop.store.engine import ConstraintViolated, Store, prefer_indexes
from feedback_loop.store.model_tables import KEPT, ModelTables, find_tables
from feedback_loop.store.records import upsert
from feedback_loop.store.schema import Identifier, Json, Moment, shared_table, sql_type

TRIES = 5
"""How often an intake is begun anew because another one wrote the same subject's revision first."""

_PLACE = "outcome_id"
"""A row's place among those that are asked for; a word of ours, so that no column of a key is called so."""

spool_outcomes = shared_table(
    "spool_outcomes",
    None,
    sa.Column("spool", sa.String, primary_key=True),
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),  # outcomes of the spool's groups up to this number are stored
)

outcome_sources = shared_table(
    "outcome_sources",
    None,
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("source", sa.String, primary_key=True),
    sa.Column("watermark", Json, nullable=False),
    sa.Column("taken_at", Moment, nullable=False),
)

_Said = tuple[int, object, int]
"""A revision, its label, and when it occurred (microseconds since 1970)."""


@dataclass(frozen=True)
class Intake:
    """What became of outcomes: `received = new + corrected + unchanged + erased`.

    `unmatched` are among the first three. `erased` are those of an erased key, from before that: they are not stored.
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
    """Stores outcomes in one transaction, each as its subject's next revision unless it says nothing new.

    A subject is a prediction or a key (and, where the join has a horizon, the moment at which it occurred).
    `rows` holds `prediction_id` (or null), the key's and the label's stored columns, `occurred_at`, `recorded_at`
    (null: now; one that was asked about meanwhile is moved behind it) and `source`. `timed` says that `occurred_at`
    came from the caller: only then does another time make another revision. Raises Unavailable where other writers
    kept getting in between.
    """
    return _append_in_turn(store, contract, lambda _: rows, now, timed=timed)


def append_spooled(
    store: Store, contract: Contract, spool: str, groups: Mapping[int, pa.Table], now: datetime, *, timed: bool
) -> Intake:
    """The same for groups of a spool, by their numbers, in their order: each once, however often it is brought.

    Up to which number they were taken is kept in the transaction that stores them. So of two that bring the same
    groups, or of one that is killed before it took them out of the spool, the later changes nothing, even where an
    outcome was corrected meanwhile. What was taken before is not among the counts.
    """
    table = spool_outcomes

    def new_rows(connection: Connection) -> pa.Table:
        _take_turns(connection, contract.model)
        is_ours = and_(table.c.spool == spool, table.c.model == contract.model)
        taken = connection.execute(select(table.c.seq).where(is_ours)).scalar_one_or_none() or 0
        new = [rows for number, rows in groups.items() if number > taken]
        if not new:
            return next(iter(groups.values())).slice(0, 0)
        upsert(connection, table, [{"spool": spool, "model": contract.model, "seq": max(groups)}])
        return pa.concat_tables(new)

    return _append_in_turn(store, contract, new_rows, now, timed=timed)


def _take_turns(connection: Connection, model: str) -> None:
    """Waits for whoever else brings outcomes of spools, until the transaction ends. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        turn = func.hashtextextended(f"feedback_loop.spool_outcomes:{model}", 0)
        connection.execute(select(func.pg_advisory_xact_lock(turn)))


def _append_in_turn(
    store: Store, contract: Contract, rows_in: Callable[[Connection], pa.Table], now: datetime, *, timed: bool
) -> Intake:
    found = ensure_tables(store, contract, now)
    for _ in range(TRIES):
        try:
            with store.write() as connection:
                learned = fence.enter(connection, contract.model, now)
                asked = fence.asked_in(connection, contract.model)
                rows = rows_in(connection)
                if not rows.num_rows:
                    return Intake()
                kept = erased_keys.without_erased_outcomes(connection, store.secret, contract, rows)
                counts = _append(connection, found, _stamped(contract, kept, learned, asked), timed=timed)
                return counts + Intake(received=rows.num_rows - kept.num_rows, erased=rows.num_rows - kept.num_rows)
        except ConstraintViolated as error:
            if not error.is_unique:
                raise
    raise Unavailable(
        "database", f"Other writers kept correcting the same outcomes of {contract.model!r}.", cure="Again."
    )


def count_outcomes(store: Store, model: str) -> int:
    """How many subjects have an outcome."""
    with store.read() as connection:
        try:
            first = find_tables(connection, model).outcomes.c.revision == 1
        except NotFound:
            return 0
        return int(connection.execute(select(func.count()).where(first)).scalar_one())


def named_predictions(store: Store, model: str, as_of: datetime) -> pa.Array:
    """The ids of predictions that have an outcome of their own, as known at a moment: none by their key."""
    with store.read() as connection:
        try:
            table = find_tables(connection, model).outcomes
        except NotFound:
            return pa.array([], pa.string())
        named = select(table.c.prediction_id).where(table.c.prediction_id.is_not(None), table.c.recorded_at <= as_of)
        return pa.array(list(connection.execute(named.distinct()).scalars()), pa.string())


def _stamped(contract: Contract, rows: pa.Table, learned: datetime, asked: datetime | None) -> pa.Table:
    """The rows with their event and with the moment at which they were learned, which is never one asked about."""
    moment = pa.scalar(learned, UTC_MOMENT)
    recorded = pc.coalesce(rows.column("recorded_at"), moment)
    if asked is not None:
        recorded = pc.if_else(pc.less_equal(recorded, pa.scalar(asked, UTC_MOMENT)), moment, recorded)
    occurred = pc.coalesce(rows.column("occurred_at"), recorded)
    event = pa.repeat(pa.scalar(EPOCH, UTC_MOMENT), rows.num_rows)
    if contract.join.horizon is not None:
        event = pc.if_else(pc.is_null(rows.column("prediction_id")), occurred, event)
    stamps = {"recorded_at": recorded, "occurred_at": occurred}
    columns = {name: stamps.get(name, rows.column(name)) for name in rows.column_names}
    return pa.table({**columns, "event_at": event})


def _append(connection: Connection, found: ModelTables, rows: pa.Table, *, timed: bool) -> Intake:
    asked = _ask(connection, found, rows)
    newest = _newest_revisions(connection, found, asked)
    counted = select(func.count()).select_from(asked).where(or_(*_matches(found, asked)))
    matches = connection.execute(counted).scalar_one()
    asked.drop(connection)
    known: dict[object, _Said] = {}
    places, revisions, corrected = [], [], 0
    for place, (subject, said, occurred_us) in enumerate(
        zip(_subjects(found, rows), *_said(found, rows), strict=True)
    ):
        before = known.get(subject) or newest.get(place)
        if before and before[1] == said and (before[2] == occurred_us or not timed):
            continue
        known[subject] = ((before[0] if before else 0) + 1, said, occurred_us)
        places.append(place)
        revisions.append(known[subject][0])
        corrected += before is not None
    said_anew = rows.take(pa.array(places, pa.int32())).append_column("revision", pa.array(revisions, pa.int32()))
    insert_new(connection, found.outcomes, said_anew, None)
    return Intake(
        received=rows.num_rows,
        new=len(places) - corrected,
        corrected=corrected,
        unchanged=rows.num_rows - len(places),
        unmatched=rows.num_rows - matches,
    )


def _ask(connection: Connection, found: ModelTables, rows: pa.Table) -> Table:
    """The rows' subjects in a temporary table, so that the database can join them."""
    asked = _asked_table(found.key)
    asked.create(connection, checkfirst=False)
    subjects = rows.select([column.name for column in asked.c if column.name != _PLACE])
    insert_new(connection, asked, subjects.add_column(0, _PLACE, pa.array(range(rows.num_rows), pa.int32())), None)
    prefer_indexes(connection)
    return asked


@lru_cache(KEPT)
def _asked_table(key: tuple[Column, ...]) -> Table:
    return Table(
        "asked_outcomes",
        MetaData(),
        sa.Column(_PLACE, sa.Integer, primary_key=True),
        sa.Column("prediction_id", Identifier),
        *(sa.Column(column.stored, sql_type(column.type)) for column in key),
        sa.Column("event_at", Moment),
        prefixes=["TEMPORARY"],
    )


def _subjects(found: ModelTables, rows: pa.Table) -> Iterator[object]:
    """What each row is about: its prediction's id, else its key and event."""
    fields = [*(column.stored for column in found.key), "event_at"]
    keys = zip(*(rows.column(field).to_pylist() for field in fields), strict=True)
    return (identifier or key for identifier, key in zip(rows.column("prediction_id").to_pylist(), keys, strict=True))


def _said(found: ModelTables, rows: pa.Table) -> tuple[list[object], list[int]]:
    """What each row says: its labels, and when it occurred (microseconds since 1970)."""
    labels = zip(*(rows.column(label.stored).to_pylist() for label in found.labels), strict=True)
    return list(labels), rows.column("occurred_at").cast(pa.int64()).to_pylist()


def _newest_revisions(connection: Connection, found: ModelTables, asked: Table) -> dict[int, _Said]:
    outcomes = found.outcomes
    types = {_PLACE: pa.int32(), "revision": pa.int32(), "occurred_at": UTC_MOMENT}
    types |= {label.stored: arrow_type(label.type) for label in found.labels}
    wanted = [asked.c[_PLACE], *(outcomes.c[name] for name in types if name != _PLACE)]
    newest: dict[int, _Said] = {}
    for fields in (["prediction_id"], [*(column.stored for column in found.key), "event_at"]):
        if fields == ["event_at"]:
            continue
        same = and_(*(outcomes.c[field] == asked.c[field] for field in fields))
        statement = select(*wanted).join_from(asked, outcomes, same).order_by(outcomes.c.revision)
        rows = fetch_arrow(connection, statement, types)
        places, revisions = rows.column(_PLACE).to_pylist(), rows.column("revision").to_pylist()
        newest.update(zip(places, zip(revisions, *_said(found, rows), strict=True), strict=True))
    return newest


def _matches(found: ModelTables, subjects: Table) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions, one of which holds for a subject that any prediction has.

    Each is asked of a subject by itself: an `EXISTS` PostgreSQL may turn round, and go through the whole history.
    """
    for generation in found.generations:
        table = generation.table
        same = [table.c.prediction_id == subjects.c.prediction_id]
        if found.key:
            keys = [column.stored for column in found.key]
            same.append(and_(*(table.c[field] == subjects.c[field] for field in keys)))
        for each in same:
            yield select(literal(1)).where(each).limit(1).correlate(subjects).scalar_subquery().is_not(None)


def load_watermark(store: Store, model: str, source: str) -> Any:
    """The newest time, number or text that was taken in; None before the first poll."""
    table = outcome_sources.c
    with store.read() as connection:
        kept = connection.execute(
            select(table.watermark).where(table.model == model, table.source == source)
        ).scalar_one_or_none()
    if kept is None:
        return None
    return datetime.fromisoformat(kept["value"]) if kept["is_time"] else kept["value"]


def save_watermark(store: Store, model: str, source: str, watermark: Any, now: datetime) -> None:
    """Keeps how far the source has been read."""
    is_time = isinstance(watermark, datetime)
    value = {"is_time": is_time, "value": watermark.isoformat() if is_time else watermark}
    with store.write() as connection:
        row = {"model": model, "source": source, "watermark": value, "taken_at": now}
        upsert(connection, outcome_sources, [row])
