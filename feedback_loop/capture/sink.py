"""Where rows of the prediction log go to be kept: the door between those who answer and whatever makes it durable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

import pyarrow as pa

from feedback_loop.capture.groups import Values
from feedback_loop.schema import Contract
from feedback_loop.store.spool_accounts import outcomes_of


class Sink(Protocol):
    """A spool, or the prediction log itself. Thread-safe."""

    def append(self, contract: Contract, rows: pa.Table, now: datetime) -> int:
        """Takes rows of `prediction_schema(contract)`, each id once; on return they are durable.

        Returns how many it did not have yet. Raises Unavailable (and other children of FeedbackLoopError) where it
        could not keep them: then none of them counts as taken.
        """
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one contract, whose `prediction_schema` the schema is: as a table, or as plain values.

    Or outcomes, as a table that `feedback_loop.capture.waiting_rows` made.
    """

    contract: Contract
    schema: pa.Schema
    rows: pa.Table | Values
    are_outcomes: bool = False

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self.rows.count if isinstance(self.rows, Values) else int(self.rows.num_rows)

    @property
    def account(self) -> str:
        """The account that the rows are counted in."""
        return outcomes_of(self.contract.model) if self.are_outcomes else self.contract.model


@runtime_checkable
class GroupSink(Protocol):
    """A sink that takes rows of several contracts together, also as plain values."""

    def append_all(self, parts: Sequence[Part], now: datetime) -> int:
        """As `Sink.append`, of all parts or of none."""
        ...

    def is_free(self) -> bool:
        """Whether it would take rows now without waiting for anybody else who uses it."""
        ...


class Accounts(Protocol):
    """Where what became of rows is counted (a spool), by model. Thread-safe; never raises ours."""

    def count(self, model: str, *, answered: int = 0, refused: int = 0, dropped: int = 0, unsampled: int = 0) -> None:
        """Adds so many rows."""
        ...


class NoAccounts:
    """For rows that go to the log itself: there is no way on which any could be lost."""

    def count(self, model: str, *, answered: int = 0, refused: int = 0, dropped: int = 0, unsampled: int = 0) -> None:
        """Counts nothing."""


@dataclass
class Counts:
    """What this process did with the rows of one model."""

    answered: int = 0
    spooled: int = 0
    refused: int = 0
    dropped: int = 0
    unsampled: int = 0


@dataclass(frozen=True)
class Gauges:
    """What became of the rows in this process's spool, by model, and when the first that waits came."""

    waiting: dict[str, int]
    stored: dict[str, int]
    rejected: dict[str, int]
    missing: dict[str, int]  # taken once, and nowhere now
    waiting_since: int | None  # microseconds since 1970
