"""Parquet and CSV as tables: one reader for batch jobs, outcomes and imports."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_loop.errors import BadInput
from feedback_loop.schema.files.csv import CsvError, csv_tables


def is_csv(path: Path) -> bool:
    """Whether a file is CSV (and not Parquet) by its name; raises BadInput where it is neither."""
    if path.suffix.lower() not in (".csv", ".parquet", ".pq"):
        raise BadInput.of("file", f"{path.name} is neither .parquet nor .csv")
    return path.suffix.lower() == ".csv"


def count_rows(source: Path) -> int | None:
    """How many rows a file has, where it says so (CSV does not)."""
    with _readable(source.name):
        return None if is_csv(source) else int(pq.read_metadata(source).num_rows)


def read_chunks(source: Path, chunk_rows: int) -> Generator[pa.Table]:
    """The file's rows in tables of exactly `chunk_rows`, the last may have fewer; CSV's columns are text still.

    A file without rows gives one table without rows. Raises BadInput.
    """
    with _readable(source.name), source.open("rb") as file:
        yield from csv_tables(file, chunk_rows) if is_csv(source) else _parquet_tables(file, chunk_rows)


def _parquet_tables(file: IO[bytes], rows: int) -> Generator[pa.Table]:
    with pq.ParquetFile(file) as parquet:
        waiting = parquet.schema_arrow.empty_table()
        is_first = True
        for batch in parquet.iter_batches(batch_size=rows):
            waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
            if waiting.num_rows >= rows:
                yield waiting.slice(0, rows)
                waiting, is_first = waiting.slice(rows), False
        if waiting.num_rows or is_first:
            yield waiting


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, CsvError, UnicodeDecodeError, OSError) as error:
        raise BadInput.of("file", f"{name} can't be read: {str(error).strip()}") from error
