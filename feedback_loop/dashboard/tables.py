"""Tables of a page: shown as HTML, and exported as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Row = Mapping[str, Any]

Kind = Literal["text", "number", "share", "moment", "state", "code"]
"""How a column's values are shown. CSV has them as they are."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A text that begins so would be obeyed by a spreadsheet."""


@dataclass(frozen=True)
class Column:
    """One column: the rows' field, its title, how it is shown; `link` gives the address that a cell leads to."""

    key: str
    title: str
    kind: Kind = "text"
    link: Callable[[Row], str | None] | None = None

    @property
    def is_numeric(self) -> bool:
        """Whether it stands at the right."""
        return self.kind in ("number", "share")


@dataclass(frozen=True)
class Table:
    """Rows of plain values. `name` is that of its CSV file; `empty` is said where there are none.

    A page shows `most` of them from the row number `first` on, the CSV has all.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row] = field(default_factory=list)
    empty: str = "Nothing yet."
    most: int = 200
    first: int = 0


def as_csv(table: Table) -> str:
    """The table as CSV, with the columns' keys as its head."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([column.key for column in table.columns])
    for row in table.rows:
        writer.writerow([_cell(row.get(column.key)) for column in table.columns])
    return text.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        value = " ".join(str(part) for part in value)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def number_words(value: float | str | None, digits: int = 4) -> str:
    """A number for people: whole ones with separators, others to so many significant digits."""
    if value is None or isinstance(value, str):
        return value or "–"
    if abs(value) >= 1e12:
        return f"{value:.3g}"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def share_words(value: float | None, digits: int = 1) -> str:
    """A share in percent; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}%}"
