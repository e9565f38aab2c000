"""Outcomes that are sent to a server: stored at once, or durable on this host until the store is back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from feedback_loop.capture import Deployed, Quiet, Spool, outcomes_wait, spool_outcomes
from feedback_loop.clock import Clock
from feedback_loop.errors import RowError, Unavailable
from feedback_loop.outcomes.intake import Checked, OnError, check_outcomes, record_outcomes
from feedback_loop.schema import Contract, Redaction
from feedback_loop.store import Store

OK, ACCEPTED = 200, 202

_log = structlog.get_logger(__name__)


class Receiver:
    """Takes outcomes in for one server. Thread-safe."""

    def __init__(self, store: Store, spool: Spool, clock: Clock) -> None:
        self._store = store
        self._spool = spool
        self._clock = clock
        self._quiet = Quiet()

    def record(self, deployed: Deployed, rows: Any, on_error: OnError, text: bool) -> dict[str, Any]:
        """The same for a process that serves by itself (see `capture.Client`); returns what became of them."""
        contract, redaction = deployed.contract, deployed.redaction
        return self.take(contract, rows, source="python", on_error=on_error, redaction=redaction, text=text)[1]

    def take(
        self,
        contract: Contract,
        rows: Any,
        *,
        source: str,
        on_error: OnError,
        redaction: Redaction,
        text: bool = False,
    ) -> tuple[int, dict[str, Any]]:
        """Takes rows in as `record_outcomes` does; returns an HTTP status and what became of them.

        While the store is away, or earlier ones of the model wait for it, they are made durable in the spool and wait
        too (202). They are checked by the model's contract all the same; what the store alone knows comes later:
        whether predictions match, and that a `recorded_at` as of which the model was asked already is moved behind
        that. Raises BadInput, and Unavailable where the spool takes no rows either.
        """
        now = self._clock()
        if len(rows) == 0 or not outcomes_wait(self._spool.folder, contract.model, self._quiet):
            try:
                result = record_outcomes(
                    self._store,
                    contract,
                    rows,
                    now=now,
                    source=source,
                    on_error=on_error,
                    text=text,
                    redaction=redaction,
                )
                return OK, _result(asdict(result.counts), on_error, result.skipped)
            except Unavailable as error:
                _log.warning("outcomes wait", model=contract.model, cause=str(error))
        checked = check_outcomes(
            contract,
            rows,
            now=now,
            source=source,
            on_error=on_error,
            text=text,
            redaction=redaction,
            asked_until=None,
        )
        spool_outcomes(self._spool, checked.contract, _occurred_by(checked, now), now, timed=checked.timed)
        count = checked.rows.num_rows
        return ACCEPTED, _result({"received": count, "waiting": count}, on_error, checked.skipped)


def _occurred_by(checked: Checked, now: datetime) -> pa.Table:
    """The rows, those without any time as of now: by then they were known, whenever they reach the store."""
    rows = checked.rows
    column = rows.column("occurred_at")
    place = rows.column_names.index("occurred_at")
    return rows.set_column(place, "occurred_at", pc.coalesce(column, pa.scalar(now, column.type)))


def _result(counts: dict[str, Any], on_error: OnError, skipped: Sequence[RowError]) -> dict[str, Any]:
    return counts | ({"skipped": [asdict(error) for error in skipped]} if on_error == "skip" else {})
