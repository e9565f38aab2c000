"""Groups: rows that were made durable together, as bytes with a checksum."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from feedback_loop.capture.values import Values, decode_values, encode_values, values_table
from feedback_loop.errors import BadInput
from feedback_loop.schema import Contract

_CODEC = "lz4"  # a third of a single row's bytes are left, for some microseconds


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


def pack(model: str, contract: int, rows: pa.Table, moment: int) -> Group:
    """Rows (at least one) as a group of that contract."""
    batches = rows.to_batches()
    plain = (batches[0] if len(batches) == 1 else rows.combine_chunks().to_batches()[0]).serialize()
    body = pa.compress(plain, codec=_CODEC)
    crc = checksum(model, contract, rows.num_rows, plain.size, body)
    return Group(0, model, contract, rows.num_rows, moment, crc, plain.size, body)


def pack_values(model: str, contract: int, rows: Values, moment: int) -> Group:
    """The same for plain values: a tenth of the time, and for a few rows less than half of the bytes."""
    body = encode_values(rows)
    return Group(0, model, contract, rows.count, moment, checksum(model, contract, rows.count, 0, body), 0, body)


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
    values = [decode_values(group.body) for group in groups if not group.size]
    batches = [_unpacked(group, schema) for group in groups if group.size]
    tables = [values_table(contract, values, schema)] if values else []
    return pa.concat_tables([pa.Table.from_batches(batches, schema), *tables])


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
