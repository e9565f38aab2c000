"""Rows of several requests as one: as plain values, or as a typed table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from feedback_loop.schema.coerce import arrow_type
from feedback_loop.schema.contract import Contract
from feedback_loop.schema.ids import PREDICTION_ID
from feedback_loop.schema.protocol.wire import Rows


def concat_rows(contract: Contract, parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one after the other; params, which are the same for all, are the first's."""
    if len(parts) == 1:
        return parts[0]
    names = [column.name for column in (*contract.features, *contract.extra_key)]
    rows = [part.row for part in parts]
    columns: dict[str, Sequence[Any]]
    if None not in rows:
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    else:
        columns = {name: [value for part in parts for value in part.columns[name]] for name in names}
    ids = [each for part in parts for each in part.ids]
    return Rows(len(ids), columns, ids, parts[0].params)


def rows_table(contract: Contract, rows: Rows) -> pa.Table:
    """Rows in their types: features, key columns that are none, and ids."""
    names, arrays = [], []
    for column in (*contract.features, *contract.extra_key):
        names.append(column.name)
        arrays.append(
            pa.array(rows.columns[column.name], arrow_type(column.type), from_pandas=True)
        )  # NaN is missing
    names.append(contract.own(PREDICTION_ID))
    arrays.append(pa.array(rows.ids, pa.string()))
    return pa.table(arrays, names=names)
