"""What pages of Parquet would take, by their own headers: a file's footer can say anything.

The format: `parquet.thrift` and `README.md` (github.com/apache/parquet-format), in Thrift's compact protocol
(`doc/specs/thrift-compact-protocol.md`, github.com/apache/thrift).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_loop.schema.budget import Budget, too_large
from feedback_loop.schema.files.arrow import check_schema

MOST_FOOTER_BYTES = 2**18
"""The longest footer that is read: each of its entries becomes a hundred times as large in memory."""

_END = 8
"""Behind the footer stand its length and `PAR1`."""

_PARQUET = b"PAR1"

_SCHEMA_KEY = b"ARROW:schema"

_DELTA_BYTE_ARRAY = 7
"""An encoding in which a few bytes repeat a long text, as often as they like."""

_HEADERS = {0: 5, 2: 7, 3: 8}
"""Kinds of pages that hold values (data, dictionary, data of the second version), and the field of their header."""

_DATA, _DICTIONARY, _DATA_V2 = _HEADERS
_ENCODING = {5: 2, 7: 2, 8: 4}


def check_footer(body: bytes, budget: Budget) -> None:
    """Refuses a footer that would take much to read; raises TooLarge and ArrowInvalid."""
    size = struct.unpack_from("<I", body, len(body) - _END)[0] if body.endswith(_PARQUET) and len(body) > _END else 0
    if not 0 < size <= len(body) - _END:
        return  # whoever opens it says what is wrong with it
    if size > MOST_FOOTER_BYTES:
        raise too_large(f"a footer of {size:,} bytes, and {MOST_FOOTER_BYTES:,} are allowed")
    footer = body[-_END - size : -_END]
    place = footer.find(_SCHEMA_KEY)
    while place >= 0:
        _check_arrow_schema(footer, place + len(_SCHEMA_KEY), budget)
        place = footer.find(_SCHEMA_KEY, place + 1)


def check_pages(
    body: bytes, about: pq.FileMetaData, wanted: Collection[str], texts: Collection[str], budget: Budget
) -> None:
    """Refuses a file whose pages of the wanted columns would take more than the budget; raises TooLarge.

    `about` may lie: it only says where pages begin, as it does to whoever reads them. The `texts` are measured once
    they are read, as dictionaries. ArrowInvalid is raised for what is no page, and for what can't be bounded.
    """
    if (about.created_by or "").startswith("parquet-cpp version"):  # whose columns are longer than they say
        raise pa.ArrowInvalid("it was written by parquet-cpp 1, which is too old")
    groups = [about.row_group(place) for place in range(about.num_row_groups)]
    rows = [about.num_rows, *(group.num_rows for group in groups)]
    if min(rows) < 0:
        raise pa.ArrowInvalid("it has a negative number of rows")
    count = max(about.num_rows, sum(rows[1:]))
    budget.check_rows(count)
    budget.check_cells(count, len(wanted))
    leaves = [about.schema.column(place) for place in range(about.num_columns)]
    mine = [place for place, leaf in enumerate(leaves) if leaf.path in wanted]
    for leaf in (leaves[place] for place in mine):
        if leaf.physical_type == "BYTE_ARRAY" and leaf.path not in texts:
            raise pa.ArrowInvalid(f"the column {leaf.path!r} is {leaf.logical_type} in bytes of any length")
    size = values = 0
    for group in groups:
        for place in mine:
            width = max(leaves[place].length or 0, 1)  # of values of one length
            for page_size, page_values in _pages(body, group.column(place)):
                size, values = size + page_size, values + page_values
                budget.check_bytes(max(size, page_values * width))
                budget.check_cells(values, 1)


def _pages(body: bytes, column: pq.ColumnChunkMetaData) -> Iterator[tuple[int, int]]:
    """The bytes and the values of each page that a reader of the column would come to."""
    place = column.data_page_offset
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < place:
        place = column.dictionary_page_offset
    end, seen = place + column.total_compressed_size, 0
    if place < 0 or end > len(body):
        raise pa.ArrowInvalid("a column is outside of the file")
    while place < end and seen < column.num_values:
        header, place = _Thrift(body, place, end).page()
        unpacked, packed, kind = _number_in(header, 2), _number_in(header, 3), _number_in(header, 1)
        if unpacked < 0 or packed < 0:
            raise pa.ArrowInvalid("a page has a negative size")
        values = 0
        if kind in _HEADERS:
            about = header.get(_HEADERS[kind])
            if not isinstance(about, dict):
                raise pa.ArrowInvalid("a page's header is none")
            values = _number_in(about, 1)
            if values < 0 or about.get(_ENCODING[_HEADERS[kind]]) == _DELTA_BYTE_ARRAY:
                raise pa.ArrowInvalid("the encoding DELTA_BYTE_ARRAY is not taken")
            seen += values if kind != _DICTIONARY else 0
        yield max(unpacked, packed), values
        place += packed


def _number_in(header: dict[int, Any], field: int) -> int:
    number = header.get(field, 0)
    if not isinstance(number, int):
        raise pa.ArrowInvalid("a page's header is none")
    return number


def _check_arrow_schema(footer: bytes, place: int, budget: Budget) -> None:
    """The schema that Arrow keeps behind its key, as an IPC message in base64."""
    value = _Thrift(footer, place, len(footer)).value_of_pair()
    message = base64.b64decode(value, validate=False)
    if message[:4] == b"\xff\xff\xff\xff":
        message = message[4:]
    if len(message) < 4:
        raise pa.ArrowInvalid("the schema of Arrow is none")
    pa.ipc.read_message(base64.b64decode(value, validate=False))  # verifies it
    check_schema(message[4:], budget)


_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 11, 12
_MOST_DEPTH = 8
_MOST_VARINT = 10


class _Thrift:
    """Reads structs of numbers, as dictionaries by their fields' numbers; what is no number is passed over."""

    def __init__(self, content: bytes, place: int, end: int) -> None:
        self._content = content
        self._place = place
        self._end = end

    def page(self) -> tuple[dict[int, Any], int]:
        """The header of a page, and where its content begins."""
        return self._struct(0), self._place

    def value_of_pair(self) -> bytes:
        """The value (field 2) of a pair whose key has just ended."""
        if self._byte() != (1 << 4 | _BINARY):
            raise pa.ArrowInvalid("the schema of Arrow is not where it should be")
        return self._binary()

    def _struct(self, depth: int) -> dict[int, Any]:
        if depth > _MOST_DEPTH:
            raise pa.ArrowInvalid("a page's header is nested too deep")
        found: dict[int, Any] = {}
        field = 0
        while (head := self._byte()) != _STOP:
            field = field + (head >> 4) if head >> 4 else self._number()
            found[field] = self._value(head & 15, depth, in_list=False)
        return found

    def _value(self, kind: int, depth: int, *, in_list: bool) -> Any:
        if kind in (_TRUE, _FALSE):
            return self._byte() == _TRUE if in_list else kind == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind < _DOUBLE:
            return self._number()
        if kind in (_DOUBLE, _BINARY):
            return self._skip(8 if kind == _DOUBLE else self._varint())
        if kind in (_LIST, _SET):
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._varint()
            for _ in range(size):
                self._value(head & 15, depth + 1, in_list=True)
            return None
        if kind == _STRUCT:
            return self._struct(depth + 1)
        raise pa.ArrowInvalid("a page's header is none")

    def _binary(self) -> bytes:
        size = self._varint()
        self._skip(size)
        return self._content[self._place - size : self._place]

    def _skip(self, size: int) -> None:
        self._place += size
        if self._place > self._end:
            raise pa.ArrowInvalid("a page is cut off")

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for step in range(_MOST_VARINT):
            byte = self._byte()
            value |= (byte & 127) << 7 * step
            if byte < 128:
                return value
        raise pa.ArrowInvalid("a page's header holds a number that is none")

    def _byte(self) -> int:
        self._skip(1)
        return self._content[self._place - 1]
