"""CSV as tables, in files and bodies, here and at others' servers.

It is read as MLflow's scoring server reads it (`pandas.read_csv`), without pandas: what is missing is that in every
column, blank lines are none, a row that is too short lacks its last values, and a column that the header has no name
for is an index. What a text means in a type says `values.parse_text`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from itertools import chain
from typing import IO, Generic, TextIO, TypeVar

import pyarrow as pa

from feedback_loop.schema.budget import CELL_BYTES, Budget, first_repeated, too_large

_BYTES_OF_CELL = 512
"""What a short cell of CSV may take while it is a text of Python, and a row beside its cells."""

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


def read_csv(body: bytes, budget: Budget) -> pa.Table:
    """A whole content, its columns text; raises CsvError, UnicodeDecodeError and TooLarge."""
    with io.TextIOWrapper(io.BytesIO(body), "utf-8-sig", newline="") as stream:
        return _texts(csv_columns(stream, budget))


def csv_columns(stream: TextIO, budget: Budget) -> CsvColumns:
    """Columns of text, None where a value is missing.

    Raises CsvError, also for a column that is there twice: pandas would rename the second. Raises TooLarge as soon as
    there is more than the budget allows.
    """
    names, ahead, rows = _begin(_numbered(stream))
    width = len(names) + ahead
    return _columns(names, ahead, list(_within(rows, width, budget)))


def csv_pieces(file: IO[bytes], wanted: Collection[str] | None, budget: Budget) -> Generator[pa.Table]:
    """A file's rows in pieces that are within the budget, the columns text, only the wanted ones (None: all).

    The first piece has no rows. Raises as `csv_columns` does, TooLarge for one row that is over the budget by itself.
    """
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as stream:
        lines = Lines(stream, budget)
        names, ahead, rows = _begin(_numbered(lines))
        width = len(names) + ahead
        budget.check_cells(1, width)
        yield _texts(_columns(names, ahead, []), wanted)
        while part := lines.some(rows, max(1, budget.unpacked_bytes // _BYTES_OF_CELL // (width + 1))):
            yield _texts(_columns(names, ahead, part), wanted)


_Text = TypeVar("_Text", str, bytes)
_Row = TypeVar("_Row")


class Lines(Generic[_Text]):
    """The lines of a file, none of them longer than a budget's part; counts what was read of them."""

    def __init__(self, file: IO[_Text], budget: Budget) -> None:
        self._file: IO[_Text] = file
        self._budget = budget
        self._most = budget.unpacked_bytes // CELL_BYTES  # each comma of a line becomes a cell
        self._taken = 0

    def __iter__(self) -> Iterator[_Text]:
        while line := self._file.readline(self._most + 1):
            self._taken += len(line)
            if self._taken > 2 * self._most or len(line) > self._most:
                raise too_large(f"a row of more than {self._most:,} characters, and no more are allowed")
            yield line

    def some(self, rows: Iterator[_Row], most_rows: int) -> list[_Row]:
        """The next of the rows that are made of these lines: so many, or as many as are within the budget."""
        part: list[_Row] = []
        self._taken = 0
        for row in rows:
            part.append(row)
            if len(part) >= most_rows or self._taken >= self._most:
                break
        return part


_NumberedRow = tuple[int, list[str]]


def _begin(rows: Iterator[_NumberedRow]) -> tuple[list[str], int, Iterator[_NumberedRow]]:
    """The columns' names, how many columns without a name stand before them, and the rows."""
    _, names = next(rows, (0, None))
    if names is None:
        raise CsvError("No columns to parse from file")
    first = next(rows, None)
    ahead = max(0, len(first[1]) - len(names)) if first else 0
    names = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    if (repeated := first_repeated(names)) is not None:
        raise CsvError(f"the column {repeated!r} is there twice")
    return names, ahead, chain([first], rows) if first else rows


def _columns(names: Sequence[str], ahead: int, rows: Sequence[_NumberedRow]) -> CsvColumns:
    filled = [_filled(row, line, len(names) + ahead) for line, row in rows]
    values = list(zip(*filled, strict=True))[ahead:] or [()] * len(names)
    return {
        name: [None if value in _MISSING else value for value in column]
        for name, column in zip(names, values, strict=True)
    }


def _texts(columns: CsvColumns, wanted: Collection[str] | None = None) -> pa.Table:
    kept = {name: values for name, values in columns.items() if wanted is None or name in wanted}
    return pa.table({name: pa.array(values, pa.string()) for name, values in kept.items()})


def _numbered(stream: Iterable[str]) -> Iterator[_NumberedRow]:
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


def _within(rows: Iterator[_NumberedRow], width: int, budget: Budget) -> Iterator[_NumberedRow]:
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
