"""What a body may become once it is decoded: a few bytes of Arrow, Parquet, CSV or JSON can say they are many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from feedback_loop.errors import TooLarge

UNPACKED = 4
"""So many times as large as a body may be it may become when it is unpacked."""

_JSON_CONTAINERS = 2**20
"""Objects and lists that a body of JSON may have in any case: each takes up to 250 bytes, of two in the body."""

_CONTAINERS_PER_ROW = 4

CELL_BYTES = 8

_MOST_COLUMNS = 100_000

_Name = TypeVar("_Name")


@dataclass(frozen=True)
class Budget:
    """Limits of one body, whatever its format: its rows, and the bytes that it may be unpacked.

    Decoders keep to it while they decode: each method raises TooLarge before the memory is taken.
    """

    rows: int = 100_000
    unpacked_bytes: int = 64 * 1024 * 1024

    def check_rows(self, rows: int) -> None:
        """Refuses too many rows."""
        if rows > self.rows:
            raise too_large(f"{rows:,} rows, and {self.rows:,} are allowed")

    def check_bytes(self, size: int) -> None:
        """Refuses what is too large when it is unpacked."""
        if size > self.unpacked_bytes:
            raise too_large(f"{size:,} bytes when it is unpacked, and {self.unpacked_bytes:,} are allowed")

    def check_cells(self, rows: int, columns: int) -> None:
        """Refuses a table of too many values, most of which may be missing."""
        most = self.unpacked_bytes // CELL_BYTES
        if columns > _MOST_COLUMNS and self is not UNLIMITED:
            raise too_large(f"{columns:,} columns, and {_MOST_COLUMNS:,} are allowed")
        if rows * columns > most:
            raise too_large(f"{rows:,} rows of {columns:,} columns, and {most:,} values are allowed")

    def check_json(self, body: bytes) -> None:
        """Refuses JSON of too many objects and lists, without decoding it. Brackets within texts count, too."""
        most = max(_JSON_CONTAINERS, _CONTAINERS_PER_ROW * self.rows)
        if len(body) > most and (containers := body.count(b"{") + body.count(b"[")) > most:
            raise too_large(f"{containers:,} objects and lists, and {most:,} are allowed")


USUAL = Budget()

UNLIMITED = Budget(rows=2**62, unpacked_bytes=2**62)
"""For data whose size was checked before."""

PART = Budget(rows=2**62, unpacked_bytes=128 * 1024 * 1024)
"""For each part of a file: a file may be of any size, what of it is in memory at a time may not."""


def too_large(what: str) -> TooLarge:
    """A body that holds more than is allowed."""
    return TooLarge.of("body", f"holds {what}", cure="Send fewer rows, or score a file.")


def first_repeated(names: Iterable[_Name]) -> _Name | None:
    """The first name that occurs again; None where all are different."""
    earlier: set[_Name] = set()
    for name in names:
        if name in earlier:
            return name
        earlier.add(name)
    return None
