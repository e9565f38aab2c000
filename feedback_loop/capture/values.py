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
    """`count` rows of `prediction_schema(contract)`: what is the `same` for all of them, by its column's name, the
    other columns in the schema's order, `count` values each, and what is the same for `runs` of rows: values with how
    often they come. Moments are aware; None is missing, NaN too.
    """

    count: int
    same: dict[str, Any]
    columns: list[list[Any]]
    runs: dict[str, list[tuple[Any, int]]] = {}


def values_table(contract: Contract, parts: Sequence[Values], schema: pa.Schema) -> pa.Table:
    """The rows of all parts, one after the other."""
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for part in parts:
        given = iter(part.columns)
        for name, values in columns.items():
            if name in part.same:
                values.extend([part.same[name]] * part.count)
            elif name in part.runs:
                values.extend(spread(part.runs[name]))
            else:
                values.extend(next(given))
    outputs = {column.stored for column in contract.outputs}  # where NaN is what the model said
    arrays = [pa.array(columns[field.name], field.type, from_pandas=field.name not in outputs) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def spread(runs: Sequence[tuple[Any, int]]) -> list[Any]:
    """A value for each row."""
    return [value for value, count in runs for _ in range(count)]


encode_values = msgspec.msgpack.Encoder().encode
decode_values = msgspec.msgpack.Decoder(Values).decode
