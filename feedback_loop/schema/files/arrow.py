"""Arrow's IPC streams from anybody: what they would take is known before any of it is unpacked.

A column of nulls takes no bytes however long it is, buffers may be packed (LZ4, zstd) to next to nothing, and a
schema can name one field a million times. So each message's own description is read first. The format:
`format/Message.fbs`, `Schema.fbs` and `docs/source/format/Columnar.rst` (github.com/apache/arrow); that flatbuffers
are well-formed is checked by Arrow when it reads a message.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Generator, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.errors import BadInput
from feedback_loop.schema.budget import Budget, too_large

MOST_FIELDS = 10_000
"""Fields of a schema, each counted as often as it is named."""

MOST_SCHEMA_BYTES = 2**20
"""A schema's names and metadata, each counted as often as it is named."""

MOST_DEPTH = 16
"""How deep fields may be nested."""

_FILE = b"ARROW1"
_FILE_START = 8
"""A file holds a stream behind its first bytes."""

_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
"""Kinds of messages."""


def read_arrow(body: bytes, budget: Budget, wanted: Collection[str]) -> pa.Table:
    """The wanted columns of a stream or a file, every buffer of them checked.

    Raises TooLarge, BadInput for a column of a nested type, and what Arrow raises for a content that is none.
    """
    stream = _stream(pa.py_buffer(body))
    _check_stream(stream, budget)
    schema, batches = _opened(stream, wanted, budget)
    table = pa.Table.from_batches(batches, schema)
    table.validate()  # else lengths that are not there would be read
    budget.check_bytes(text_bytes(table))  # before all of them are looked at: some may be there many times
    table.validate(full=True)
    return table


def arrow_pieces(content: pa.Buffer, wanted: Collection[str] | None, budget: Budget) -> Generator[pa.Table]:
    """The wanted columns of a stream or a file in pieces, each within the budget; raises as `read_arrow` does."""
    stream = _stream(content)
    _check_batches(stream, budget)
    schema, batches = _opened(stream, wanted, budget)
    yield schema.empty_table()
    for batch in batches:
        batch.validate()  # else lengths that are not there would be read
        for piece in light(pa.Table.from_batches([batch]), budget):
            piece.validate(full=True)
            yield piece


def light(table: pa.Table, budget: Budget) -> Generator[pa.Table]:
    """The table in pieces whose texts are within the budget; raises TooLarge where those of one row are not."""
    size = text_bytes(table)
    if size <= budget.unpacked_bytes:
        yield table
        return
    if table.num_rows == 1:
        budget.check_bytes(size)
    half = table.num_rows // 2
    yield from light(table.slice(0, half), budget)
    yield from light(table.slice(half), budget)


def _stream(content: pa.Buffer) -> pa.Buffer:
    """A file holds a stream behind its first bytes."""
    return content.slice(_FILE_START) if content.slice(0, len(_FILE)).to_pybytes() == _FILE else content


def _opened(
    stream: pa.Buffer, wanted: Collection[str] | None, budget: Budget
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The wanted columns, and their batches."""
    with pa.ipc.open_stream(stream) as reader:
        schema = reader.schema
    places = [place for place, name in enumerate(schema.names) if wanted is None or name in wanted]
    for place in places if wanted is not None else ():
        _refuse_nested(schema.field(place))
    budget.check_cells(1, len(places))
    if not places:
        return pa.schema([]), iter(())
    reader = pa.ipc.open_stream(stream, options=pa.ipc.IpcReadOptions(included_fields=places, use_threads=False))
    return reader.schema, iter(reader)


def text_bytes(table: pa.Table) -> int:
    """What the texts of a table take once each row has its own: dictionaries and views hold many of them once."""
    size = 0
    for column in table.columns:
        for chunk in column.chunks:
            if isinstance(chunk, pa.DictionaryArray):
                if is_text(chunk.dictionary.type):
                    size += pc.sum(_lengths(chunk.dictionary).take(chunk.indices)).as_py() or 0
            elif is_text(chunk.type):
                size += pc.sum(_lengths(chunk)).as_py() or 0
    return size


def check_schema(message: bytes, budget: Budget) -> None:
    """Refuses a schema that names too much, by the flatbuffer of its message."""
    del budget
    kind, header = _header(_Table.root(message))
    if kind != _SCHEMA or header is None:
        raise pa.ArrowInvalid("the schema is missing")
    count = _Count()
    count.pairs(header, 2)
    for field in header.tables(1):
        count.field(field, 0)


def _lengths(texts: Any) -> Any:
    if pa.types.is_string_view(texts.type) or pa.types.is_binary_view(texts.type):
        # Arrow has no length of views; each stands in 16 bytes, of which the first four are its length.
        sizes = pa.Array.from_buffers(pa.int32(), 4 * (len(texts) + texts.offset), [None, texts.buffers()[1]])
        lengths = sizes.take(pa.array(range(4 * texts.offset, 4 * (len(texts) + texts.offset), 4), pa.int64()))
        return pc.if_else(texts.is_valid(), lengths, pa.scalar(0, pa.int32())).cast(pa.int64())
    return pc.binary_length(texts).cast(pa.int64())


def is_text(kind: pa.DataType) -> bool:
    """Whether it is text, or bytes: what takes as much as its values are long."""
    views = pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)
    strings = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(views or strings or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _refuse_nested(field: pa.Field) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_nested(kind) or pa.types.is_run_end_encoded(kind) or pa.types.is_dictionary(kind):
        raise BadInput.of(field.name, f"is {field.type}, which no column of a model is")


def _check_stream(stream: pa.Buffer, budget: Budget) -> None:
    """Reads what every message says of itself, all of which will be in memory together; raises TooLarge."""
    size = rows = 0
    for kind, batch, body in _batches(stream, budget):
        length = max(batch.int64(0), *(node for node, _ in batch.pairs(1)), 0)
        rows += length
        budget.check_rows(rows if kind == _BATCH else length)
        if rows > budget.rows + budget.unpacked_bytes:
            raise too_large("too long dictionaries")
        size += sum(_unpacked_sizes(batch, body))
        budget.check_bytes(size)


def _check_batches(stream: pa.Buffer, budget: Budget) -> None:
    """Reads what every message says of itself, of which one batch will be in memory at a time; raises TooLarge.

    What is not packed takes no memory: it stays in the file.
    """
    dictionaries = 0
    for kind, batch, body in _batches(stream, budget):
        size = sum(_unpacked_sizes(batch, body)) if batch.table(3) is not None else 0
        dictionaries += size if kind == _DICTIONARY else 0
        budget.check_bytes(max(size, dictionaries))


def _batches(stream: pa.Buffer, budget: Budget) -> Iterator[tuple[int, _Table, pa.Buffer]]:
    """Each message's kind, what it says of its batch (or dictionary), and its body."""
    for message in pa.ipc.MessageReader.open_stream(stream):
        metadata = message.metadata.to_pybytes()
        kind, header = _header(_Table.root(metadata))
        if header is None:
            continue
        if kind == _SCHEMA:
            check_schema(metadata, budget)
        batch = header.table(1) if kind == _DICTIONARY else header if kind == _BATCH else None
        if batch is not None:
            yield kind, batch, message.body


def _unpacked_sizes(batch: _Table, body: pa.Buffer) -> Iterator[int]:
    """What each buffer of a batch takes: a packed one begins with the bytes that it has (or -1: it is not packed)."""
    is_packed = batch.table(3) is not None
    content = memoryview(body)
    for offset, length in batch.pairs(2):
        size = length
        if is_packed and length >= 8 and 0 <= offset <= len(content) - 8:
            size = max(size, *struct.unpack_from("<q", content, offset))
        yield max(size, 0)


def _header(message: _Table) -> tuple[int, _Table | None]:
    return message.uint8(1), message.table(2)


class _Count:
    """What a schema names."""

    def __init__(self) -> None:
        self._fields = 0
        self._bytes = 0

    def field(self, field: _Table, depth: int) -> None:
        """Counts a field, and those within it."""
        self._fields += 1
        if self._fields > MOST_FIELDS or depth > MOST_DEPTH:
            raise too_large(f"more than {MOST_FIELDS:,} fields, or fields nested deeper than {MOST_DEPTH}")
        self._add(field.text_size(0))
        self.pairs(field, 6)
        for child in field.tables(5):
            self.field(child, depth + 1)

    def pairs(self, table: _Table, slot: int) -> None:
        """Counts metadata."""
        for pair in table.tables(slot):
            self._add(pair.text_size(0) + pair.text_size(1) + 1)

    def _add(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MOST_SCHEMA_BYTES:
            raise too_large(f"more than {MOST_SCHEMA_BYTES:,} bytes of names and metadata")


class _Table:
    """A table of a flatbuffer whose references were verified; its fields are known by their number."""

    def __init__(self, content: bytes, place: int) -> None:
        self._content = content
        self._place = place
        self._slots = place - self._read("<i", place)

    @classmethod
    def root(cls, content: bytes) -> _Table:
        """The table that a flatbuffer is."""
        return cls(content, struct.unpack_from("<I", content)[0])

    def uint8(self, slot: int) -> int:
        """A small number, 0 where there is none."""
        place = self._field(slot)
        return self._read("<B", place) if place else 0

    def int64(self, slot: int) -> int:
        """A number, 0 where there is none."""
        place = self._field(slot)
        return self._read("<q", place) if place else 0

    def table(self, slot: int) -> _Table | None:
        """A table within this one."""
        place = self._field(slot)
        return _Table(self._content, place + self._read("<I", place)) if place else None

    def tables(self, slot: int) -> Iterator[_Table]:
        """The tables of a list."""
        for place in self._places(slot, 4):
            yield _Table(self._content, place + self._read("<I", place))

    def pairs(self, slot: int) -> Iterator[tuple[int, int]]:
        """The pairs of numbers of a list."""
        for place in self._places(slot, 16):
            first, second = struct.unpack_from("<qq", self._content, place)
            yield first, second

    def text_size(self, slot: int) -> int:
        """How long a text is."""
        place = self._field(slot)
        return self._read("<I", place + self._read("<I", place)) if place else 0

    def _places(self, slot: int, size: int) -> range:
        place = self._field(slot)
        if not place:
            return range(0)
        start = place + self._read("<I", place)
        return range(start + 4, start + 4 + size * self._read("<I", start), size)

    def _field(self, slot: int) -> int:
        """Where a field stands, 0 where it is left out."""
        at = 4 + 2 * slot
        if at >= self._read("<H", self._slots):
            return 0
        offset = self._read("<H", self._slots + at)
        return self._place + offset if offset else 0

    def _read(self, form: str, place: int) -> int:
        value: int = struct.unpack_from(form, self._content, place)[0]
        return value
