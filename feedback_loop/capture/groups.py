"""Groups: rows that were made durable together, as bytes with a checksum: Arrow's, or those of plain values.

To make an Arrow table of one row takes ten times as long as to write it down as plain values (270 µs instead of 25).
So rows that somebody waits for are written as values, and made into a table by whoever empties the spool, thousands
at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pyarrow as pa

from feedback_loop.errors import BadInput
from feedback_loop.schema import Contract

_CODEC = "lz4"  # a third of a single row's bytes are left, for some microseconds


class Values(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """`count` rows of `prediction_schema(contract, …)` as plain values.

    What is the `same` for all of them stands once by its column's name; what is the same for `runs` of rows stands as
    values with how often they come; the other columns stand in the schema's order, `count` values each. Moments are
    aware; None is missing, NaN too.
    """

    count: int
    same: dict[str, Any]
    columns: list[list[Any]]
    runs: dict[str, list[tuple[Any, int]]] = {}


_encode_values = msgspec.msgpack.Encoder().encode
_decode_values = msgspec.msgpack.Decoder(Values).decode


@dataclass(frozen=True)
class Group:
    """Rows that were made durable together, still as bytes. `seq` is 0 for one that is not in a file yet."""

    seq: int
    model: str
    contract: int
    rows: int
    moment: int  # microseconds since 1970
    crc: int
    size: int  # bytes of the body when it is unpacked; 0: its rows are plain values
    body: Any

    @property
    def values(self) -> tuple[Any, ...]:
        """What `INSERT_GROUP` wants."""
        return self.model, self.contract, self.rows, self.moment, self.crc, self.size, self.body


def pack(model: str, contract: int, rows: pa.Table | Values, moment: int) -> Group:
    """Rows (at least one) as a group of that contract."""
    if isinstance(rows, Values):
        count, size, body = rows.count, 0, _encode_values(rows)
    else:
        batches = rows.to_batches()
        plain = (batches[0] if len(batches) == 1 else rows.combine_chunks().to_batches()[0]).serialize()
        count, size, body = rows.num_rows, plain.size, pa.compress(plain, codec=_CODEC)
    return Group(0, model, contract, count, moment, checksum(model, contract, count, size, body), size, body)


def repack(group: Group, rows: pa.Table) -> Group:
    """Some of a group's rows as a group of the same kind."""
    return replace(pack(group.model, group.contract, rows, group.moment), seq=group.seq)


def unpack(contract: Contract, schema: pa.Schema, groups: Sequence[Group]) -> pa.Table:
    """The rows of groups of one contract; raises BadInput where they are not what was written."""
    for group in groups:
        if not is_intact(group):
            raise BadInput.of(
                f"group {group.seq}", "its checksum is wrong: its bytes are not those that were written"
            )
    values = [_decode_values(group.body) for group in groups if not group.size]
    batches = [_unpacked(group, schema) for group in groups if group.size]
    tables = [_values_table(contract, values, schema)] if values else []
    return pa.concat_tables([pa.Table.from_batches(batches, schema), *tables])


def spread(runs: Sequence[tuple[Any, int]]) -> list[Any]:
    """A value for each row."""
    return [value for value, count in runs for _ in range(count)]


def is_intact(group: Group) -> bool:
    """Whether a group is what was written: in a torn file anything can stand, in any type."""
    return checksum(group.model, group.contract, group.rows, group.size, group.body) == group.crc


def checksum(*parts: Any) -> int:
    """Of parts that are bytes, numbers or text, and of where each begins."""
    crc = 0
    for part in parts:
        plain = part if isinstance(part, bytes | pa.Buffer) else repr(part).encode()
        crc = zlib.crc32(plain, zlib.crc32(b"%d" % len(plain), crc))
    return crc


def _unpacked(group: Group, schema: pa.Schema) -> pa.RecordBatch:
    plain = pa.decompress(group.body, decompressed_size=group.size, codec=_CODEC)
    batch = pa.ipc.read_record_batch(plain, schema)
    if batch.num_rows != group.rows:
        raise BadInput.of(f"group {group.seq}", f"has {batch.num_rows} rows, where {group.rows} are said")
    return batch


def _values_table(contract: Contract, parts: Sequence[Values], schema: pa.Schema) -> pa.Table:
    """The rows of all parts, one after the other."""
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for part in parts:
        own = iter(part.columns)
        for name, values in columns.items():
            if name in part.same:
                values.extend([part.same[name]] * part.count)
            else:
                values.extend(spread(part.runs[name]) if name in part.runs else next(own))
    outputs = {
        column.stored for column in (*contract.outputs, *contract.raw_outputs)
    }  # where NaN is what the model said
    arrays = [pa.array(columns[field.name], field.type, from_pandas=field.name not in outputs) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)
