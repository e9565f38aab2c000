"""Rows for the log as plain values: to make an Arrow table of one row takes longer than to answer it.

They are made into a table by whoever empties the spool, which takes thousands of rows at a time and has no caller who
waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from feedback_loop.schema import Contract


class Values(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """`count` rows of `prediction_schema(contract)`: what is the `same` for all of them, by its column's name, and
    the other columns in the schema's order, `count` values each. Moments are aware; None is missing, NaN too.
    """

    count: int
    same: dict[str, Any]
    columns: list[list[Any]]


def values_table(contract: Contract, parts: Sequence[Values], schema: pa.Schema) -> pa.Table:
    """The rows of all parts, one after the other."""
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for part in parts:
        given = iter(part.columns)
        for name, values in columns.items():
            values.extend([part.same[name]] * part.count if name in part.same else next(given))
    outputs = {column.stored for column in contract.outputs}  # where NaN is what the model said
    arrays = [pa.array(columns[field.name], field.type, from_pandas=field.name not in outputs) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


encode_values = msgspec.msgpack.Encoder().encode
decode_values = msgspec.msgpack.Decoder(Values).decode
