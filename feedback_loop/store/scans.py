"""Reads a long window in slices, in processes of their own, through ADBC.

ADBC returns Arrow without a Python object per value. Its SQLite is a second copy of the library, which must not open
a file that is open in the same process (ADR 2): so a scan is complete, for a process that does nothing else.
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
from feedback_loop.schema import PREDICTION_ID, Column, Contract
from feedback_loop.store.arrow import UTC_MOMENT
from feedback_loop.store.engine import Store
from feedback_loop.store.predictions import (
    LABEL_TYPES,
    SYSTEM_TYPES,
    Shape,
    joined_types,
    labelled_selects,
    slices,
    with_absent,
)

SCANNED = ("predicted_at", "sample_weight", "revision")
"""The system columns that a scan reads."""

_ALL_AT_ONCE = 1 << 30
"""Rows of a batch: SQLite's driver takes a column's type from its first batch, so there must be only one."""


@dataclass(frozen=True)
class Scan:
    """A slice of a window, of a version in a role, as of a moment. Can be pickled; holds the database's password."""

    contract: Contract
    as_of: datetime
    address: str = field(repr=False)
    secret: bytes = field(repr=False)
    parts: tuple[tuple[str, Shape], ...] = field(repr=False)

    def rows(self) -> pa.Table:
        """The slice's rows in any order: `SCANNED`, labels, and the columns asked for. Raises Unavailable."""
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
    """The scans that read a window, each about so many rows, oldest first.

    `columns`: default all of the contract, with those that custom metrics need.
    """
    wanted = tuple(columns) if columns is not None else _all_columns(contract)
    names = SCANNED if not contract.join.needs_action else (*SCANNED, PREDICTION_ID)
    system = {name: (SYSTEM_TYPES | LABEL_TYPES)[name] for name in names}
    types, wanted = joined_types(contract, system, wanted)
    address, scans = _address(store), []
    with store.read() as connection:
        for part in slices(connection, contract.model, window, rows):
            statements = []
            for generation, statement in labelled_selects(connection, contract, part, as_of, version, role):
                shape = Shape.of(generation, types, wanted)
                literal = shape.selected(statement).compile(
                    dialect=connection.dialect, compile_kwargs={"literal_binds": True}
                )
                statements.append((_unescaped(str(literal), store), shape))
            scans.append(Scan(contract, as_of, address, store.secret, tuple(statements)))
    return scans


def _all_columns(contract: Contract) -> tuple[Column, ...]:
    wanted = (*contract.outputs, *contract.raw_outputs, *contract.features, *contract.judged_by)
    return tuple({column.stored: column for column in reversed(wanted)}.values())[::-1]


def _address(store: Store) -> str:
    if store.is_postgresql:
        return store.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return f"file:{quote(str(store.url.database))}?mode=ro"


def _unescaped(sql: str, store: Store) -> str:
    """The statement for ADBC: SQLAlchemy doubles a percent sign for psycopg."""
    return sql.replace("%%", "%") if store.is_postgresql else sql


def _read(address: str, sql: str, types: Mapping[str, pa.DataType]) -> pa.Table:
    # Not through the driver's DB-API, which imports pandas.
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
            else:  # it is prepared, then executed: behind a pooler by the same connection only within a transaction
                connection.set_autocommit(False)
            statement.set_sql_query(sql)
            table = pa.RecordBatchReader.from_stream(statement.execute_query()[0]).read_all()
            if not is_sqlite:
                connection.rollback()
    except (Error, pa.ArrowException, OSError) as error:
        raise Unavailable(
            "database", f"The database refused to be read: {str(error).splitlines()[0]}.", cure="Try again."
        ) from error
    return pa.table({name: _typed(table.column(name), kind) for name, kind in types.items()})


def _typed(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if kind == UTC_MOMENT and pa.types.is_string(values.type):
        return pc.assume_timezone(values.cast(pa.timestamp("us")), "UTC")
    return values.cast(kind)
