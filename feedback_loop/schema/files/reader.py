"""Parquet, CSV and Arrow in parts: the one reader of files, for batch jobs, outcomes and imports.

What of a file is in memory at a time is bounded (`budget.PART`), whatever its size and whatever it says of itself.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_loop.errors import BadInput, NotFound, TooLarge
from feedback_loop.schema.budget import PART, Budget
from feedback_loop.schema.files.arrow import arrow_pieces, text_bytes
from feedback_loop.schema.files.csv import csv_pieces
from feedback_loop.schema.files.parquet import parquet_pieces

_ARROW = (".arrow", ".feather")


def is_csv(path: Path) -> bool:
    """Whether a file is CSV (and not Parquet) by its name; raises BadInput where it is neither."""
    if path.suffix.lower() not in (".csv", ".parquet", ".pq"):
        raise BadInput.of("file", f"{path.name} is neither .parquet nor .csv")
    return path.suffix.lower() == ".csv"


def check_file(path: Path) -> None:
    """Raises NotFound for what is not there, BadInput for a folder."""
    if not path.exists():
        raise NotFound("file", str(path))
    if path.is_dir():
        raise BadInput.of("file", f"{path} is a folder", cure="Name one file of it.")


def count_rows(source: Path) -> int | None:
    """How many rows a file has, where it says so (CSV does not)."""
    with readable(source.name):
        return None if is_csv(source) else int(pq.read_metadata(source).num_rows)


def read_chunks(
    source: Path,
    chunk_rows: int,
    *,
    wanted: Collection[str] | None = None,
    name: str | None = None,
    budget: Budget = PART,
) -> Generator[pa.Table]:
    """The file's rows in tables of `chunk_rows`, fewer in the last and where so many would be over the budget.

    CSV's columns are text still. Only the `wanted` columns are kept (None: all). A file without rows gives one table
    without rows. Raises BadInput, which calls the file by its `name`, also for a wanted column of Arrow's that is
    of a nested type, and TooLarge for one row that is over the budget by itself.
    """
    with readable(name or source.name):
        yield from _chunks(_pieces(source, chunk_rows, wanted, budget), chunk_rows, budget)


def _pieces(source: Path, most_rows: int, wanted: Collection[str] | None, budget: Budget) -> Generator[pa.Table]:
    if source.suffix.lower() in _ARROW:
        with pa.memory_map(str(source)) as mapped:
            yield from arrow_pieces(mapped.read_buffer(), wanted, budget)
        return
    with source.open("rb") as file:
        if is_csv(source):
            yield from csv_pieces(file, wanted, budget)
        else:
            yield from parquet_pieces(file, wanted, most_rows, budget)


def _chunks(pieces: Iterable[pa.Table], rows: int, budget: Budget) -> Generator[pa.Table]:
    """The rows of the pieces in tables of so many, or as many as are within the budget; one table at the least."""
    waiting, count, size, is_first = list[pa.Table](), 0, 0, True
    for piece in pieces:
        rest, more = piece, _size(piece)
        if count and size + more > budget.unpacked_bytes:
            yield pa.concat_tables(waiting)
            waiting, count, size, is_first = [], 0, 0, False
        while count + rest.num_rows > rows:
            yield pa.concat_tables([*waiting, rest.slice(0, rows - count)])
            rest = rest.slice(rows - count)
            waiting, count, size, is_first = [], 0, 0, False
            more = _size(rest)
        waiting, count, size = [*waiting, rest], count + rest.num_rows, size + more
    if count or is_first:
        yield pa.concat_tables(waiting)


def _size(table: pa.Table) -> int:
    """What a table takes once each row has its own texts."""
    return max(int(table.nbytes), text_bytes(table))


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raises BadInput, which calls the file by its name, for what readers raise for a content that is none."""
    try:
        yield
    except TooLarge as error:
        cure = "Write it in smaller row groups, batches or rows."
        raise TooLarge.of("file", f"{name} {error.problems[0].cause}", cure=cure) from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise BadInput.of("file", f"{name} can't be read: {str(error).strip()}", cure=_MEND) from error


_MEND = "Mend the file, or give it the ending of its format."
