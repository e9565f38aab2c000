"""Parquet from anybody: what its pages would take is known before any of them is unpacked."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_loop.schema.budget import Budget, first_repeated
from feedback_loop.schema.files.arrow import is_text, light, text_bytes
from feedback_loop.schema.files.pages import check_columns, check_footer, check_pages, rows_at_once
from feedback_loop.schema.files.thrift import FileContent

MOST_FOOTER_BYTES = 2**18
"""The longest footer of a body that is read: each of its entries becomes a hundred times as large in memory."""

_BUFFER = 2**20


def unpacked(body: bytes, wanted: Collection[str] | None, budget: Budget) -> tuple[pa.Table, list[str]]:
    """The columns that are wanted (None: all), and the names of all.

    Texts are read as dictionaries at first, so that none takes its room twice before it is known how much that is.
    Lists and objects are not read, as no column of a model holds them: an empty list stands for each.
    Raises TooLarge, and what Arrow raises (ArrowException, OSError, ValueError, KeyError) for a content that is none.
    """
    check_footer(body, MOST_FOOTER_BYTES, budget)
    file = _opened(body)
    schema, about = file.schema_arrow, file.metadata
    check_columns(body, about)
    index = _index_columns(schema)
    names = [name for name in schema.names if name not in index]
    _refuse_repeated(name for name in schema.names if name in set(names))
    read = [name for name in names if wanted is None or name in wanted]
    flat = [name for name in read if not pa.types.is_nested(schema.field(name).type)]
    texts = [name for name in flat if _holds_text(schema.field(name).type)]
    check_pages(body, about, set(flat), set(texts), budget)
    file = pq.ParquetFile(pa.BufferReader(body), read_dictionary=texts)
    table = file.read(flat, use_threads=False)
    budget.check_bytes(text_bytes(table))  # before all of them are looked at: some may be there many times
    table.validate(full=True)
    table = table.cast(pa.schema([schema.field(name) for name in flat]))
    lists = pa.array([[]] * about.num_rows, pa.list_(pa.null())) if len(flat) < len(read) else None
    columns = [table.column(name) if name in flat else lists for name in read]
    return pa.table(columns, names=read), names


def parquet_pieces(
    file: IO[bytes], wanted: Collection[str] | None, most_rows: int, budget: Budget
) -> Generator[pa.Table]:
    """A file's rows in pieces, each of so many rows at the most and within the budget; the first piece has none.

    Only the wanted columns are read (None: all). Raises TooLarge for a row or a page that is over the budget by
    itself, and what Arrow raises for a content that is none.
    """
    content = FileContent(file.fileno())
    check_footer(content, budget.unpacked_bytes // 8, budget)  # files may have many row groups
    with pq.ParquetFile(file) as parquet:
        schema, about = parquet.schema_arrow, parquet.metadata
    check_columns(content, about)
    _refuse_repeated(schema.names)
    read = [name for name in schema.names if wanted is None or name in wanted]
    places = {}
    for place in range(about.num_columns):
        name = about.schema.column(place).path
        name = name if name in read else name.partition(".")[0]  # of a leaf within
        if name in read:
            places[place] = pa.types.is_dictionary(schema.field(name).type)
    yield pa.schema([schema.field(name) for name in read]).empty_table()
    with pq.ParquetFile(file, buffer_size=_BUFFER) as parquet:
        for group in range(about.num_row_groups):
            rows = rows_at_once(content, about, group, places, most_rows, budget)
            for batch in parquet.iter_batches(rows, row_groups=[group], columns=read, use_threads=False):
                for piece in light(pa.Table.from_batches([batch]), budget):
                    piece.validate(full=True)
                    yield piece


def _opened(body: bytes) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.BufferReader(body))
    except (pa.ArrowException, OSError) as error:
        raise pa.ArrowInvalid(f"Could not open Parquet input source '<Buffer>': {error}") from error


def _refuse_repeated(names: Iterable[str]) -> None:
    if (repeated := first_repeated(names)) is not None:
        raise pa.ArrowInvalid(f"the column {repeated!r} is there twice")


def _holds_text(kind: pa.DataType) -> bool:
    return is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _index_columns(schema: pa.Schema) -> set[str]:
    """The columns that are an index of pandas, where a file says so."""
    about = schema.pandas_metadata
    columns = about.get("index_columns") if isinstance(about, dict) else None
    return {column for column in columns if isinstance(column, str)} if isinstance(columns, list) else set()
