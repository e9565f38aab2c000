"""The prediction log: appends predictions, each id once, and reads them joined with their outcomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, Select, and_, func, select

from feedback_loop.clock import Window, system_clock
from feedback_loop.errors import NotFound
from feedback_loop.schema import ACTED, ACTION_PROPENSITY, Column, Contract, arrow_type, hashed
from feedback_loop.store import erased_keys, fence
from feedback_loop.store.arrow import UTC_MOMENT, fetch_arrow, insert_rows
from feedback_loop.store.create_tables import ensure_tables
from feedback_loop.store.engine import ConstraintViolated, Store
from feedback_loop.store.join_query import is_known, labelled_select
from feedback_loop.store.model_tables import Generation, ModelTables, find_tables, prediction_columns, table_columns
from feedback_loop.store.partitions import ensure_partitions

SYSTEM_TYPES = {
    "prediction_id": pa.string(),
    "predicted_at": UTC_MOMENT,
    "logged_at": UTC_MOMENT,
    "sample_weight": pa.float64(),
    "model_version": pa.string(),
    "role": pa.string(),
    "source": pa.string(),
    "request_id": pa.string(),
    "latency_us": pa.int32(),
}
"""The system columns of a prediction table."""

LOGGED_AT = "logged_at"
"""When a row was stored; the log fills it in."""

ACTION_TYPES = {ACTED: pa.bool_(), ACTION_PROPENSITY: pa.float64()}
"""What was reported of the caller's action, where an outcome needs one; null: nothing."""

LABEL_TYPES = {"occurred_at": UTC_MOMENT, "recorded_at": UTC_MOMENT, "revision": pa.int32()}
"""The system columns of a prediction's outcome; all null if it has none."""


def prediction_schema(contract: Contract, extra: Sequence[Column] = ()) -> pa.Schema:
    """The Arrow schema of rows to be logged: system columns (without `logged_at`), key, outputs and features.

    `extra` are those of `contract.log_columns` that the rows have too; the others are null in the log.
    """
    system = {name: kind for name, kind in SYSTEM_TYPES.items() if name != LOGGED_AT}
    fields = {column.stored: arrow_type(column.type) for column in (*prediction_columns(contract), *extra)}
    return pa.schema(list({**system, **fields}.items()))


@dataclass(frozen=True)
class Appended:
    """How many rows were new, and how many were left out because their key was erased after they were predicted."""

    new: int
    erased: int


class PredictionLog:
    """Appends predictions, durably and each id once. Thread-safe as far as its store is."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tables: dict[str, ModelTables] = {}
        self._partitions: set[str] = set()

    def append(self, contract: Contract, rows: pa.Table, now: datetime) -> int:
        """Stores rows of `prediction_schema(contract, …)` durably; returns how many were new.

        A row whose id is stored already is ignored: a retry is no second row. Rows from before their key was erased
        are left out.
        """
        return self.append_counted(contract, rows, now).new

    def append_counted(self, contract: Contract, rows: pa.Table, now: datetime) -> Appended:
        """The same; returns also how many rows were left out."""
        columns = table_columns(contract)
        tables = self._tables.get(contract.model)
        if tables is None or tables.generation_for(columns) is None:
            tables = self._tables[contract.model] = ensure_tables(self._store, contract, now)
        generation = tables.generation_for(columns)
        assert generation is not None  # ensure_tables made it
        try:
            return self._insert(contract, generation, rows, now)
        except ConstraintViolated:  # retention may have dropped a partition
            if not self._partitions:
                raise
            self._partitions.clear()
            return self._insert(contract, generation, rows, now)

    def _insert(self, contract: Contract, generation: Generation, rows: pa.Table, now: datetime) -> Appended:
        partitions = set(self._partitions)
        with self._store.write() as connection:
            ensure_partitions(connection, generation.table, rows.column("prediction_id"), partitions)
            moment = pa.scalar(fence.enter(connection, contract.model, now), UTC_MOMENT)
            remaining = erased_keys.without_erased(connection, self._store.secret, contract, rows)
            stamped = remaining.append_column(LOGGED_AT, pa.repeat(moment, remaining.num_rows))
            stored = insert_rows(connection, generation.table, stamped, "prediction_id")
        self._partitions |= partitions
        return Appended(stored, rows.num_rows - remaining.num_rows)


def read_labelled(
    store: Store,
    contract: Contract,
    window: Window,
    *,
    as_of: datetime | None = None,
    version: str | None = None,
    role: str | None = None,
    columns: Sequence[Column] | None = None,
) -> pa.Table:
    """The predictions of a window with their outcomes as of a moment (default: now), ordered by id.

    Columns: the system's (`SYSTEM_TYPES`, `LABEL_TYPES`; see `joined_types`), the labels, and the contract's
    `columns` (default: key, outputs, raw ones too, and features) by their stored names. Reads all generations of the
    model's tables; a column that one lacks is null there.
    """
    with store.read() as connection:
        return labelled_in(
            connection, contract, window, store.secret, as_of=as_of, version=version, role=role, columns=columns
        )


def labelled_in(
    connection: Connection,
    contract: Contract,
    window: Window,
    secret: bytes,
    *,
    as_of: datetime | None = None,
    version: str | None = None,
    role: str | None = None,
    columns: Sequence[Column] | None = None,
) -> pa.Table:
    """The same within a transaction."""
    wanted = tuple(columns if columns is not None else (*prediction_columns(contract), *contract.raw_outputs))
    types, wanted = joined_types(contract, SYSTEM_TYPES | LABEL_TYPES, wanted)
    parts = [
        fetch_rows(connection, generation, statement, types, wanted, secret)
        for generation, statement in labelled_selects(connection, contract, window, as_of, version, role)
    ]
    empty = pa.schema(list(types.items())).empty_table()
    rows = pa.concat_tables([part for part in parts if part.num_rows] or [empty]).sort_by("prediction_id")
    return with_absent(contract, rows, as_of) if contract.join.absent_means is not None else rows


def joined_types(
    contract: Contract, system: Mapping[str, pa.DataType], wanted: Sequence[Column]
) -> tuple[dict[str, pa.DataType], tuple[Column, ...]]:
    """The types of rows of the join with these system columns, the labels and the wanted columns; and the latter.

    Where outcomes need an action, all that is needed to judge rows by it is there too.
    """
    types = dict(system)
    if contract.join.needs_action:
        types |= ACTION_TYPES
        wanted = tuple({column.stored: column for column in (*wanted, *contract.exploration_columns)}.values())
    types |= {column.stored: arrow_type(column.type) for column in (*contract.labels, *wanted)}
    return types, tuple(wanted)


def slices(connection: Connection, model: str, window: Window, rows: int) -> Iterator[Window]:
    """The window in parts of about so many predictions of a generation, oldest first; one if there are none."""
    try:
        tables = [generation.table for generation in find_tables(connection, model).generations]
    except NotFound:
        tables = []
    start = window.start
    while start < window.end:
        ends = [window.end]
        for table in tables:
            time = table.c.predicted_at
            later = select(time).where(time >= start, time < window.end).order_by(time).offset(rows).limit(1)
            ends += [end for end in connection.execute(later).scalars() if end > start]
        yield Window(start, min(ends))
        start = min(ends)


def with_absent(contract: Contract, rows: pa.Table, as_of: datetime | None) -> pa.Table:
    """The rows with the label `absent_means` in those that have matured (by `as_of` or now) without an outcome.

    Where an outcome needs an action: in those that were acted on.
    """
    place = rows.column_names.index(contract.label.stored)
    latest = (as_of or system_clock()) - contract.join.maturity
    matured = pc.less_equal(rows.column("predicted_at"), pa.scalar(latest, UTC_MOMENT))
    label = pa.scalar(contract.join.absent_means, arrow_type(contract.label.type))
    absent = pc.and_(matured, pc.is_null(rows.column("revision")))
    if contract.join.needs_action:
        absent = pc.and_(absent, pc.fill_null(rows.column(ACTED), fill_value=False))
    return rows.set_column(place, contract.label.stored, pc.if_else(absent, label, rows.column(place)))


def count_predictions(store: Store, model: str) -> dict[tuple[str, str, str], int]:
    """How many predictions there are by version, role and source."""
    counts: dict[tuple[str, str, str], int] = {}
    for connection, generation in _generations(store, model):
        table = generation.table
        groups = table.c.model_version, table.c.role, table.c.source
        for version, role, source, rows in connection.execute(select(*groups, func.count()).group_by(*groups)):
            counts[version, role, source] = counts.get((version, role, source), 0) + rows
    return counts


def predicted_span(
    store: Store, model: str, version: str | None = None, *, as_of: datetime | None = None
) -> tuple[datetime, datetime] | None:
    """The times of the first and the last prediction (of one version) logged by a moment (default: now), if any."""
    moments: list[datetime] = []
    for connection, generation in _generations(store, model):
        table = generation.table
        where = [is_known(table.c.logged_at, as_of)]
        where += [table.c.model_version == version] if version is not None else []
        for end in (func.min(table.c.predicted_at), func.max(table.c.predicted_at)):
            moments.extend(m for m in connection.execute(select(end).where(*where)).scalars() if m is not None)
    return (min(moments), max(moments)) if moments else None


def versions_in(store: Store, model: str, window: Window, role: str, as_of: datetime) -> list[str]:
    """The versions with predictions in a window and role that were logged by a moment; sorted."""
    versions: set[str] = set()
    for connection, generation in _generations(store, model):
        table = generation.table
        within = and_(table.c.predicted_at >= window.start, table.c.predicted_at < window.end)
        where = and_(within, table.c.role == role, is_known(table.c.logged_at, as_of))
        versions.update(connection.execute(select(table.c.model_version).where(where).distinct()).scalars())
    return sorted(versions)


def _generations(store: Store, model: str) -> Iterator[tuple[Connection, Generation]]:
    with store.read() as connection:
        try:
            tables = find_tables(connection, model)
        except NotFound:
            return
        for generation in tables.generations:
            yield connection, generation


def labelled_selects(
    connection: Connection,
    contract: Contract,
    window: Window,
    as_of: datetime | None,
    version: str | None,
    role: str | None,
) -> Iterator[tuple[Generation, Select[tuple[object, ...]]]]:
    """Each generation of a model's tables, with the statement that reads a window of it, with outcomes."""
    try:
        tables = find_tables(connection, contract.model)
    except NotFound:
        return
    for generation in tables.generations:
        table = generation.table
        where = [table.c.predicted_at >= window.start, table.c.predicted_at < window.end]
        where += [is_known(table.c.logged_at, as_of)]
        where += [table.c.model_version == version] if version is not None else []
        where += [table.c.role == role] if role is not None else []
        statement = labelled_select(tables, table, contract.join, as_of)
        yield generation, statement.where(*where)


def fetch_rows(
    connection: Connection,
    generation: Generation,
    statement: Select[tuple[object, ...]],
    types: dict[str, pa.DataType],
    wanted: Sequence[Column],
    secret: bytes,
) -> pa.Table:
    """One generation's rows in the wanted types: see `Shape`."""
    shape = Shape.of(generation, types, wanted)
    return shape.applied(fetch_arrow(connection, shape.selected(statement), shape.read), secret)


@dataclass(frozen=True)
class Shape:
    """How one generation's rows are converted: the columns that are `read`, and the `types` that they get.

    A column that the generation lacks, or whose values can't be converted, is null. A column that is hashed now but
    was not then is hashed too (`hashes`); one that was hashed with another key is null.
    """

    types: dict[str, pa.DataType]
    read: dict[str, pa.DataType]
    hashes: dict[str, Column]

    @classmethod
    def of(cls, generation: Generation, types: dict[str, pa.DataType], wanted: Sequence[Column]) -> Shape:
        """The conversion of a generation's rows; `wanted` are the contract's columns among the types."""
        fields = {column.stored: column for column in wanted}
        stored = {
            column.stored: column
            for column in generation.columns
            if column.hashed in ("", fields.get(column.stored, column).hashed)
            and column.name == fields.get(column.stored, column).name
        }
        read = {
            name: arrow_type(stored[name].type) if name in stored and name in fields else kind
            for name, kind in types.items()
            if name not in fields or name in stored
        }
        hashes = {n: stored[n] for n in read if n in fields and fields[n].hashed != stored[n].hashed}
        return cls(types, read, hashes)

    def selected(self, statement: Select[tuple[object, ...]]) -> Select[tuple[object, ...]]:
        """The statement with only the columns that are read."""
        return statement.with_only_columns(*(statement.selected_columns[name] for name in self.read))

    def applied(self, table: pa.Table, secret: bytes) -> pa.Table:
        """The rows that were read, converted."""
        for place, name in enumerate(table.column_names):
            if name in self.hashes:
                table = table.set_column(place, name, hashed(self.hashes[name], table.column(name), secret))
        arrays = []
        for name, kind in self.types.items():
            try:
                arrays.append(table.column(name).cast(kind) if name in self.read else pa.nulls(table.num_rows, kind))
            except pa.ArrowInvalid:
                arrays.append(pa.nulls(table.num_rows, kind))
        return pa.table(arrays, schema=pa.schema(list(self.types.items())))
