"""CSV as tables, in files and bodies, here and at others' servers.

It is read as MLflow's scoring server reads it (`pandas.read_csv`), without pandas: what is missing is that in every
column, blank lines are none, a row that is too short lacks its last values, and a column that the header has no name
for is an index. What a text means in a type says `values.parse_text`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Generator, Iterator
from itertools import chain, islice
from typing import IO, TextIO

import pyarrow as pa

from feedback_loop.schema.budget import Budget, first_repeated

CsvColumns = dict[str, list[str | None]]

_MISSING = frozenset(
    {
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
        "",
    }
)
"""What pandas takes for a missing value, in any column."""

_MOST_FIELD_BYTES = 2**30  # whoever hands the text over has a limit


class CsvError(ValueError):
    """A text that is no CSV, in pandas' words."""


def read_csv(body: bytes, budget: Budget | None = None) -> pa.Table:
    """A whole content, its columns text; raises CsvError, UnicodeDecodeError and TooLarge."""
    return next(csv_tables(io.BytesIO(body), None, budget))


def csv_columns(stream: TextIO, most: int | None, budget: Budget | None = None) -> Generator[CsvColumns]:
    """Columns of text, None where a value is missing, of at most so many rows at a time; once at the least.

    Raises CsvError, also for a column that is there twice: pandas would rename the second. Raises TooLarge as soon as
    there is more than the budget allows.
    """
    rows = _numbered(stream)
    _, names = next(rows, (0, None))
    if names is None:
        raise CsvError("No columns to parse from file")
    first = next(rows, None)
    ahead = max(0, len(first[1]) - len(names)) if first else 0
    width = len(names) + ahead
    names = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    if (repeated := first_repeated(names)) is not None:
        raise CsvError(f"the column {repeated!r} is there twice")
    rest = chain([first], rows) if first else rows
    if budget is not None:
        rest = _within(rest, width, budget)
    part = list(islice(rest, most))
    while True:
        filled = [_filled(row, line, width) for line, row in part]
        values = list(zip(*filled, strict=True))[ahead:] or [()] * len(names)
        yield {
            name: [None if value in _MISSING else value for value in column]
            for name, column in zip(names, values, strict=True)
        }
        part = list(islice(rest, most))
        if not part:
            return


def _numbered(stream: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Each row with the number of its line, blank lines left out."""
    csv.field_size_limit(_MOST_FIELD_BYTES)
    reader, count = csv.reader(stream, strict=True), 0
    try:
        for row in reader:
            if row:
                count += 1
                yield reader.line_num, row
    except csv.Error as error:
        said = f"C error: {error}"
        if "unexpected end of data" in str(error):
            said = f"C error: EOF inside string starting at row {count}"
        raise CsvError(f"Error tokenizing data. {said}") from error


def _within(rows: Iterator[tuple[int, list[str]]], width: int, budget: Budget) -> Iterator[tuple[int, list[str]]]:
    """The same rows, as long as they are not too many."""
    budget.check_cells(1, width)
    for count, row in enumerate(rows, start=1):
        budget.check_rows(count)
        budget.check_cells(count, width)
        yield row


def _filled(row: list[str], line: int, width: int) -> list[str]:
    if len(row) > width:
        raise CsvError(f"Error tokenizing data. C error: Expected {width} fields in line {line}, saw {len(row)}\n")
    return row if len(row) == width else [*row, *[""] * (width - len(row))]


def csv_tables(file: IO[bytes], rows: int | None, budget: Budget | None = None) -> Generator[pa.Table]:
    """A file's rows in tables of so many (None: all in one), the columns text; raises as `csv_columns` does."""
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as stream:
        for columns in csv_columns(stream, rows, budget):
            yield pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
