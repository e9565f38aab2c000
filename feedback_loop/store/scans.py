"""Reads of a long window in slices, for any process to do: statements with their values in them.

They go through ADBC, which gives Arrow without a Python object per value. Its SQLite is a second one, which must not
open a file that Python's has open in the same process (ADR 2): a scan is for a process that does nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.clock import Window
from feedback_loop.errors import Unavailable
from feedback_loop.schema import Column, Contract, arrow_type
from feedback_loop.store.arrow import UTC_MOMENT
from feedback_loop.store.engine import Store
from feedback_loop.store.predictions import LABEL_TYPES, SYSTEM_TYPES, Shape, labelled_selects, slices, with_absent

OWN = ("predicted_at", "sample_weight", "revision")
"""Our own columns that say what a row counts for."""

_ALL_AT_ONCE = 1 << 30
"""SQLite's driver takes a column's type from its first batch: there is only one."""


@dataclass(frozen=True)
class Scan:
    """One slice of a window, of one version in one role, as of a moment. It can be pickled; it holds the password."""

    contract: Contract
    as_of: datetime
    address: str = field(repr=False)
    secret: bytes = field(repr=False)
    parts: tuple[tuple[str, Shape], ...] = field(repr=False)

    def rows(self) -> pa.Table:
        """The rows: when they were predicted, their weight, outputs, features, label and what else it is judged by,
        in any order.

        Raises Unavailable.
        """
        parts = [shape.applied(_read(self.address, sql, shape.read), self.secret) for sql, shape in self.parts]
        rows = pa.concat_tables(parts)
        return with_absent(self.contract, rows, self.as_of) if self.contract.join.absent_means is not None else rows


def scans_of(
    store: Store,
    contract: Contract,
    window: Window,
    rows: int,
    *,
    version: str,
    role: str,
    as_of: datetime,
    columns: Sequence[Column] | None = None,
) -> list[Scan]:
    """The scans that together read a window, each of about so many rows, oldest first; of the given columns alone."""
    wanted = tuple(columns) if columns is not None else _all_columns(contract)
    types = {name: (SYSTEM_TYPES | LABEL_TYPES)[name] for name in OWN}
    types |= {each.stored: arrow_type(each.type) for each in (*contract.labels, *wanted)}
    address, found = _address(store), []
    with store.read() as connection:
        for part in slices(connection, contract.model, window, rows):
            statements = []
            for generation, statement in labelled_selects(connection, contract, part, as_of, version, role):
                shape = Shape.of(generation, types, wanted)
                literal = shape.selected(statement).compile(
                    dialect=connection.dialect, compile_kwargs={"literal_binds": True}
                )
                statements.append((_unescaped(str(literal), store), shape))
            found.append(Scan(contract, as_of, address, store.secret, tuple(statements)))
    return found


def _all_columns(contract: Contract) -> tuple[Column, ...]:
    wanted = (*contract.outputs, *contract.features, *contract.judged_by)
    return tuple({each.stored: each for each in reversed(wanted)}.values())[::-1]


def _address(store: Store) -> str:
    if store.is_postgresql:
        return store.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return f"file:{quote(str(store.url.database))}?mode=ro"


def _unescaped(sql: str, store: Store) -> str:
    """SQLAlchemy doubles a percent sign for psycopg, which here nobody halves again."""
    return sql.replace("%%", "%") if store.is_postgresql else sql


def _read(address: str, sql: str, types: Mapping[str, pa.DataType]) -> pa.Table:
    # Not by the driver's DB-API: that imports pandas.
    from adbc_driver_manager import AdbcConnection, AdbcStatement, Error

    is_sqlite = address.startswith("file:")
    driver = import_module("adbc_driver_sqlite" if is_sqlite else "adbc_driver_postgresql")
    try:
        with (
            driver.connect(address) as database,
            AdbcConnection(database) as connection,
            AdbcStatement(connection) as statement,
        ):
            if is_sqlite:
                statement.set_options(**{"adbc.sqlite.query.batch_rows": str(_ALL_AT_ONCE)})
            statement.set_sql_query(sql)
            table = pa.RecordBatchReader.from_stream(statement.execute_query()[0]).read_all()
    except (Error, pa.ArrowException, OSError) as error:
        raise Unavailable(
            "database", f"The database refused to be read: {str(error).splitlines()[0]}.", cure="Try again."
        ) from error
    return pa.table({name: _typed(table.column(name), kind) for name, kind in types.items()})


def _typed(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if kind == UTC_MOMENT and pa.types.is_string(values.type):
        return pc.assume_timezone(values.cast(pa.timestamp("us")), "UTC")
    return values.cast(kind)
