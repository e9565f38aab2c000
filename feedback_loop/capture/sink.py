"""Where rows of the prediction log go to be kept: the door between those who answer and whatever makes it durable."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol, runtime_checkable

import pyarrow as pa

from feedback_loop.capture.values import Values
from feedback_loop.schema import Contract


class Sink(Protocol):
    """A spool, or the prediction log itself. Thread-safe."""

    def append(self, contract: Contract, rows: pa.Table, now: datetime) -> int:
        """Takes rows of `prediction_schema(contract)`, each id once; on return they are durable.

        Returns how many it did not have yet. Raises Unavailable (and other children of FeedbackLoopError) where it
        could not keep them: then none of them counts as taken.
        """
        ...


@runtime_checkable
class ValuesSink(Protocol):
    """A sink that also takes rows as plain values."""

    def append_values(self, contract: Contract, schema: pa.Schema, rows: Values, now: datetime) -> int:
        """As `Sink.append`; the schema is `prediction_schema(contract)`."""
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
