"""What pages of Parquet would take, by their own headers: a file's footer can say anything.

The format: `parquet.thrift` and `README.md` (github.com/apache/parquet-format), in Thrift's compact protocol
(`doc/specs/thrift-compact-protocol.md`, github.com/apache/thrift).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feedback_loop.schema.budget import CELL_BYTES, Budget, too_large
from feedback_loop.schema.files.arrow import check_schema
from feedback_loop.schema.files.thrift import Content, Thrift

_END = 8
"""Behind the footer stand its length and `PAR1`."""

_PARQUET = b"PAR1"

_SCHEMA_KEY = b"ARROW:schema"

_DELTA_BYTE_ARRAY = 7
"""An encoding in which a few bytes repeat a long text, as often as they like."""

_MOST_PAGES = 500_000

_MOST_LOOKED_AT = 2**22
"""The largest dictionary whose texts are looked at: who writes Parquet ends one at a MiB, mostly."""

_NOT_PACKED = "UNCOMPRESSED"

_CODECS = {"SNAPPY": "snappy", "GZIP": "gzip", "BROTLI": "brotli", "ZSTD": "zstd", "LZ4": "lz4_raw"}

_GROUPS, _COLUMNS, _ABOUT_COLUMN, _ENCRYPTION, _SIZES = 4, 1, 3, 8, 16
"""Fields of a footer, a row group, a column in it (two) and what is said of that."""

_HEADERS = {0: 5, 2: 7, 3: 8}
"""Kinds of pages that hold values (data, dictionary, data of the second version), and the field of their header."""

_DATA, _DICTIONARY, _DATA_V2 = _HEADERS
_ENCODING = {5: 2, 7: 2, 8: 4}


class _Page(NamedTuple):
    place: int  # of its content
    packed: int  # bytes
    size: int  # bytes, unpacked
    values: int
    is_dictionary: bool
    repeats: bool  # a few bytes of it may stand for a long text, as often as they like


def check_footer(body: Content, most_bytes: int, budget: Budget) -> None:
    """Refuses a footer that would take much to read; raises TooLarge and ArrowInvalid."""
    start, end = _footer(body)
    if not 0 <= start < end:
        return  # whoever opens it says what is wrong with it
    if end - start > most_bytes:
        raise too_large(f"a footer of {end - start:,} bytes, and {most_bytes:,} are allowed")
    footer = body[start:end]
    place = footer.find(_SCHEMA_KEY)
    while place >= 0:
        _check_arrow_schema(footer, place + len(_SCHEMA_KEY), budget)
        place = footer.find(_SCHEMA_KEY, place + 1)


def check_columns(body: Content, about: pq.FileMetaData) -> None:
    """Refuses what a footer may not say of its columns; raises ArrowInvalid.

    pyarrow (25.0) ends the process where it is asked for a column that is encrypted, or whose statistics of sizes are
    not of its levels.
    """
    start, end = _footer(body)
    leaves = [about.schema.column(place) for place in range(about.num_columns)]
    footer = Thrift(body[start:end], 0, end - start)
    for _ in footer.structs(_GROUPS):
        for _, place in footer.structs(_COLUMNS):
            for field, _ in footer.structs(_ABOUT_COLUMN, _ENCRYPTION):
                if field == _ENCRYPTION:
                    raise pa.ArrowInvalid("it is encrypted")
                for _ in footer.structs(_SIZES):
                    sizes = footer.read()
                    if place < len(leaves):
                        _check_sizes(sizes, leaves[place])


def _check_sizes(sizes: dict[int, Any], leaf: pq.ColumnSchema) -> None:
    levels = {2: leaf.max_repetition_level, 3: leaf.max_definition_level}
    wrong = [field for field, most in levels.items() if sizes.get(field) not in (None, (0,), (most + 1,))]
    if wrong or (1 in sizes and leaf.physical_type != "BYTE_ARRAY"):
        raise pa.ArrowInvalid(f"the statistics of {leaf.path!r} are not of its type")


def _footer(body: Content) -> tuple[int, int]:
    """Where the footer begins and ends; nowhere, for what is no Parquet."""
    end = len(body) - _END
    tail = body[end:] if end > 0 else b""
    return (end - struct.unpack_from("<I", tail)[0], end) if tail.endswith(_PARQUET) else (0, 0)


def check_pages(
    body: Content, about: pq.FileMetaData, wanted: Collection[str], texts: Collection[str], budget: Budget
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
            for page in _pages(body, group.column(place)):
                if page.repeats:
                    raise pa.ArrowInvalid("the encoding DELTA_BYTE_ARRAY is not taken")
                size, values = size + page.size, values + page.values
                budget.check_bytes(max(size, page.values * width))
                budget.check_cells(values, 1)


def rows_at_once(
    body: Content, about: pq.FileMetaData, group: int, wanted: Mapping[int, bool], most: int, budget: Budget
) -> int:
    """How many rows of a row group may be read at once, `most` at the most; raises TooLarge where not even one may.

    `wanted` are the places of the columns' leaves, and whether they are read as dictionaries: these hold all the
    texts of a row group that were read until then. Of leaves within lists it is not known which row a value is of:
    they are taken to be spread evenly.
    """
    chunk, row_bytes, opened = about.row_group(group), 0, list[_Opened]()
    for place, is_dictionary in wanted.items():
        leaf, column = about.schema.column(place), chunk.column(place)
        pages = list(islice(_pages(body, column), _MOST_PAGES + 1))
        if len(pages) > _MOST_PAGES:
            raise too_large(f"more than {_MOST_PAGES:,} pages in a column of a row group")
        row_bytes += max(leaf.length or 0, CELL_BYTES)
        row_bytes += max((page.size for page in pages if page.repeats), default=0)
        row_bytes += _longest_known(body, column, pages) if leaf.physical_type == "BYTE_ARRAY" else 0
        spread = _opened(pages, chunk.num_rows if leaf.max_repetition_level else None)
        opened += (_Opened(0, chunk.num_rows, page.size) for page in pages) if is_dictionary else spread
    rows = most
    while (size := rows * row_bytes + _most_open(opened, rows)) > budget.unpacked_bytes and rows > 1:
        rows //= 2
    budget.check_bytes(size)
    return rows


def _longest_known(body: Content, column: pq.ColumnChunkMetaData, pages: Sequence[_Page]) -> int:
    """The bytes of the longest text that stands in a dictionary: each row may have it."""
    longest = 0
    for page in pages:
        if not page.is_dictionary:
            continue
        codec = _CODECS.get(column.compression)
        if page.size > _MOST_LOOKED_AT or (codec is None and column.compression != _NOT_PACKED):
            return page.size
        texts = body[page.place : page.place + page.packed]
        if codec is not None:
            texts = pa.decompress(texts, page.size, codec, asbytes=True)
        place = 0
        while place + 4 <= len(texts):
            length = struct.unpack_from("<I", texts, place)[0]
            longest, place = max(longest, length), place + 4 + length
    return longest


class _Opened(NamedTuple):
    """A page's bytes, and the rows of a row group, half open, for which it is read."""

    start: int
    end: int
    size: int


def _opened(pages: Sequence[_Page], rows: int | None) -> Iterator[_Opened]:
    """The pages of a column: one value is one row, or (within lists) all of them are spread over so many rows."""
    values = sum(page.values for page in pages if not page.is_dictionary)
    before = 0
    for page in pages:
        if page.is_dictionary:
            yield _Opened(0, max(1, values), page.size)
            continue
        start, before = before, before + page.values
        if rows is None:
            yield _Opened(start, before, page.size)
        else:
            yield _Opened(start * rows // max(1, values), -(-before * rows // max(1, values)), page.size)


def _most_open(opened: Sequence[_Opened], at_once: int) -> int:
    """The bytes of the pages that are read for so many rows, of the rows for which they are most."""
    batches = max((page.end for page in opened), default=0) // at_once + 1
    change = np.zeros(batches + 1, np.int64)
    for page in opened:
        change[page.start // at_once] += page.size
        change[max(page.end - 1, page.start) // at_once + 1] -= page.size
    return int(change.cumsum().max())


def _pages(body: Content, column: pq.ColumnChunkMetaData) -> Iterator[_Page]:
    """Each page that a reader of the column would come to."""
    place = column.data_page_offset
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < place:
        place = column.dictionary_page_offset
    end, seen = place + column.total_compressed_size, 0
    if place < 0 or end > len(body):
        raise pa.ArrowInvalid("a column is outside of the file")
    while place < end and seen < column.num_values:
        header, place = Thrift(body, place, end).page()
        unpacked, packed, kind = _number_in(header, 2), _number_in(header, 3), _number_in(header, 1)
        if unpacked < 0 or packed < 0:
            raise pa.ArrowInvalid("a page has a negative size")
        values, repeats = 0, False
        if kind in _HEADERS:
            about = header.get(_HEADERS[kind])
            if not isinstance(about, dict):
                raise pa.ArrowInvalid("a page's header is none")
            values = _number_in(about, 1)
            if values < 0:
                raise pa.ArrowInvalid("a page has a negative number of values")
            repeats = about.get(_ENCODING[_HEADERS[kind]]) == _DELTA_BYTE_ARRAY
            seen += values if kind != _DICTIONARY else 0
        yield _Page(place, packed, max(unpacked, packed), values, kind == _DICTIONARY, repeats)
        place += packed


def _number_in(header: dict[int, Any], field: int) -> int:
    number = header.get(field, 0)
    if not isinstance(number, int):
        raise pa.ArrowInvalid("a page's header is none")
    return number


def _check_arrow_schema(footer: bytes, place: int, budget: Budget) -> None:
    """The schema that Arrow keeps behind its key, as an IPC message in base64."""
    value = Thrift(footer, place, len(footer)).value_of_pair()
    message = whole = base64.b64decode(value, validate=False)
    if message[:4] == b"\xff\xff\xff\xff":
        message = message[4:]
    if len(message) < 4:
        raise pa.ArrowInvalid("the schema of Arrow is none")
    pa.ipc.read_message(whole)  # verifies it
    check_schema(message[4:], budget)
