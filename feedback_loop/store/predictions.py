"""The prediction log: rows go in once, and come out joined with what is known of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, Select, and_, func, select

from feedback_loop.clock import Window, system_clock
from feedback_loop.errors import NotFound
from feedback_loop.schema import Column, Contract, arrow_type, hashed
from feedback_loop.store import erased_keys, fence
from feedback_loop.store.arrow import UTC_MOMENT, fetch_arrow, insert_new
from feedback_loop.store.create_tables import ensure_tables
from feedback_loop.store.engine import ConstraintViolated, Store
from feedback_loop.store.join_query import is_known, labelled_select
from feedback_loop.store.model_tables import (
    Generation,
    ModelTables,
    ensure_partitions,
    find_tables,
    prediction_columns,
)

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
"""Our own columns of a table of predictions."""

LOGGED_AT = "logged_at"
"""When the log learned of a row: the log itself says that."""

LABEL_TYPES = {"occurred_at": UTC_MOMENT, "recorded_at": UTC_MOMENT, "revision": pa.int32()}
"""Our own columns of the outcome beside a prediction; all null where there is none."""


def prediction_schema(contract: Contract) -> pa.Schema:
    """The Arrow schema of rows on their way to the log: our columns (but `logged_at`), key, outputs and features."""
    own = {name: kind for name, kind in SYSTEM_TYPES.items() if name != LOGGED_AT}
    fields = {column.stored: arrow_type(column.type) for column in prediction_columns(contract)}
    return pa.schema(list({**own, **fields}.items()))


@dataclass(frozen=True)
class Appended:
    """What became of rows: so many were new, so many are of before their key was erased and are left out."""

    new: int
    erased: int


class PredictionLog:
    """Appends predictions, durably and each id once. Thread-safe as far as its store is."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tables: dict[str, ModelTables] = {}
        self._partitions: set[str] = set()

    def append(self, contract: Contract, rows: pa.Table, now: datetime) -> int:
        """Stores rows of `prediction_schema(contract)`; on return they are durable. Returns how many were new.

        A row whose id is there already is left as it was: a retry is no second row. Rows of before their key was
        erased are left out, wherever they come from.
        """
        return self.append_counted(contract, rows, now).new

    def append_counted(self, contract: Contract, rows: pa.Table, now: datetime) -> Appended:
        """The same, and how many rows were left out."""
        columns = prediction_columns(contract)
        known = self._tables.get(contract.model)
        if known is None or known.generation_for(columns) is None:
            known = self._tables[contract.model] = ensure_tables(self._store, contract, now)
        generation = known.generation_for(columns)
        assert generation is not None  # ensure_tables made it
        try:
            return self._insert(contract, generation, rows, now)
        except ConstraintViolated:  # a partition that was there is gone: retention drops them
            if not self._partitions:
                raise
            self._partitions.clear()
            return self._insert(contract, generation, rows, now)

    def _insert(self, contract: Contract, generation: Generation, rows: pa.Table, now: datetime) -> Appended:
        partitions = set(self._partitions)
        with self._store.write() as connection:
            ensure_partitions(connection, generation.table, rows.column("prediction_id"), partitions)
            moment = pa.scalar(fence.enter(connection, contract.model, now), UTC_MOMENT)
            kept = erased_keys.without_erased(connection, self._store.secret, contract, rows)
            stamped = kept.append_column(LOGGED_AT, pa.repeat(moment, kept.num_rows))
            stored = insert_new(connection, generation.table, stamped, "prediction_id")
        self._partitions |= partitions
        return Appended(stored, rows.num_rows - kept.num_rows)


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
    """The predictions of a window with what was known of them `as_of` (default: now), ordered by id.

    Columns: our own (`SYSTEM_TYPES`, `LABEL_TYPES`), the label, and the given contract columns (default: all) by
    their stored names. Spans all generations of the model's tables; a column that one lacks is null there.
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
    wanted = tuple(prediction_columns(contract) if columns is None else columns)
    types = {
        **SYSTEM_TYPES,
        **LABEL_TYPES,
        **{label.stored: arrow_type(label.type) for label in contract.labels},
        **{column.stored: arrow_type(column.type) for column in wanted},
    }
    parts = [
        fetch_rows(connection, generation, statement, types, wanted, secret)
        for generation, statement in labelled_selects(connection, contract, window, as_of, version, role)
    ]
    empty = pa.schema(list(types.items())).empty_table()
    rows = pa.concat_tables([part for part in parts if part.num_rows] or [empty]).sort_by("prediction_id")
    return with_absent(contract, rows, as_of) if contract.join.absent_means is not None else rows


def slices(connection: Connection, model: str, window: Window, rows: int) -> Iterator[Window]:
    """The window in pieces of about so many predictions of one generation, oldest first: memory stays bounded."""
    tables = [generation.table for generation in find_tables(connection, model).generations]
    start = window.start
    while start < window.end:
        ends = [window.end]
        for table in tables:
            at = table.c.predicted_at
            later = select(at).where(at >= start, at < window.end).order_by(at).offset(rows).limit(1)
            ends += [end for end in connection.execute(later).scalars() if end > start]
        yield Window(start, min(ends))
        start = min(ends)


def with_absent(contract: Contract, rows: pa.Table, as_of: datetime | None) -> pa.Table:
    """The rows with the label that absence means, where maturity has passed (by `as_of` or now) without any."""
    place = rows.column_names.index(contract.label.stored)
    known_by = (as_of or system_clock()) - contract.join.maturity
    matured = pc.less_equal(rows.column("predicted_at"), pa.scalar(known_by, UTC_MOMENT))
    means = pa.scalar(contract.join.absent_means, arrow_type(contract.label.type))
    absent = pc.and_(matured, pc.is_null(rows.column("revision")))
    return rows.set_column(place, contract.label.stored, pc.if_else(absent, means, rows.column(place)))


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
    """The moments of the first and the last prediction (of one version) that were known as of a moment (default:
    now), or None where there is none.
    """
    moments: list[datetime] = []
    for connection, generation in _generations(store, model):
        table = generation.table
        where = [is_known(table.c.logged_at, as_of)]
        where += [table.c.model_version == version] if version is not None else []
        for end in (func.min(table.c.predicted_at), func.max(table.c.predicted_at)):
            moments.extend(m for m in connection.execute(select(end).where(*where)).scalars() if m is not None)
    return (min(moments), max(moments)) if moments else None


def versions_in(store: Store, model: str, window: Window, role: str, as_of: datetime) -> list[str]:
    """The versions that predicted in a window in that role, as far as that was known as of a moment; sorted."""
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
            found = find_tables(connection, model)
        except NotFound:
            return
        for generation in found.generations:
            yield connection, generation


def labelled_selects(
    connection: Connection,
    contract: Contract,
    window: Window,
    as_of: datetime | None,
    version: str | None,
    role: str | None,
) -> Iterator[tuple[Generation, Select[tuple[object, ...]]]]:
    """Each generation of a model's predictions, with the statement of those in a window and what is known of them."""
    try:
        found = find_tables(connection, contract.model)
    except NotFound:
        return
    for generation in found.generations:
        table = generation.table
        where = [table.c.predicted_at >= window.start, table.c.predicted_at < window.end]
        where += [is_known(table.c.logged_at, as_of)]
        where += [table.c.model_version == version] if version is not None else []
        where += [table.c.role == role] if role is not None else []
        statement = labelled_select(found, table, contract.join, as_of)
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
    """How one generation's rows become those of the wanted `types`, with what is `read` of them.

    What it lacks, or can't be converted from its type, is null. A column that is hashed by now is hashed here too
    where it was not yet (`hashes`); one hashed in another way is null.
    """

    types: dict[str, pa.DataType]
    read: dict[str, pa.DataType]
    hashes: dict[str, Column]

    @classmethod
    def of(cls, generation: Generation, types: dict[str, pa.DataType], wanted: Sequence[Column]) -> Shape:
        """The shape of a generation's rows; `wanted` are the columns among the types that are a contract's."""
        fields = {column.stored: column for column in wanted}
        here = {
            column.stored: column
            for column in generation.columns
            if column.hashed in ("", fields.get(column.stored, column).hashed)
        }
        read = {
            name: arrow_type(here[name].type) if name in here and name in fields else kind
            for name, kind in types.items()
            if name not in fields or name in here
        }
        anew = {name: here[name] for name in read if name in fields and fields[name].hashed != here[name].hashed}
        return cls(types, read, anew)

    def selected(self, statement: Select[tuple[object, ...]]) -> Select[tuple[object, ...]]:
        """The statement with the columns that are read."""
        return statement.with_only_columns(*(statement.selected_columns[name] for name in self.read))

    def applied(self, table: pa.Table, secret: bytes) -> pa.Table:
        """What was read, in the wanted types."""
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
