"""Rows of several requests as one typed table."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from feedback_loop.schema.coerce import arrow_type
from feedback_loop.schema.contract import Contract
from feedback_loop.schema.protocol.wire import Rows

ID = "prediction_id"


def rows_table(contract: Contract, parts: Sequence[Rows]) -> pa.Table:
    """The rows of all parts, one after the other: features, key columns that are none, and ids, in their types."""
    names, arrays = [], []
    for column in (*contract.features, *contract.extra_key):
        if len(parts) == 1:
            values = parts[0].columns[column.name]
        else:
            values = [value for part in parts for value in part.columns[column.name]]
        names.append(column.name)
        arrays.append(pa.array(values, arrow_type(column.type), from_pandas=True))  # NaN is missing
    names.append(ID)
    arrays.append(pa.array([each for part in parts for each in part.ids], pa.string()))
    return pa.table(arrays, names=names)
