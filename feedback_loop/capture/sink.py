"""Where rows of the prediction log go to be kept: the door between those who answer and whatever makes it durable."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import pyarrow as pa

from feedback_loop.schema import Contract


class Sink(Protocol):
    """A spool, or the prediction log itself. Thread-safe."""

    def append(self, contract: Contract, rows: pa.Table, now: datetime) -> int:
        """Takes rows of `prediction_schema(contract)`, each id once; on return they are durable.

        Returns how many it did not have yet. Raises Unavailable (and other children of FeedbackLoopError) where it
        could not keep them: then none of them counts as taken.
        """
        ...
