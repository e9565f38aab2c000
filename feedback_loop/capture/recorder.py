"""The recorder: what was scored becomes rows of the prediction log, durable before anybody is answered."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from feedback_loop.capture.sink import Sink, ValuesSink
from feedback_loop.capture.values import Values
from feedback_loop.errors import BadInput
from feedback_loop.inference import Scored, Scorer
from feedback_loop.schema import (
    Contract,
    PredictionId,
    RandomBits,
    Redaction,
    Role,
    Source,
    check_prediction_id,
    in_sample,
    prediction_ids,
)
from feedback_loop.schema.protocol import Rows, rows_table
from feedback_loop.store.predictions import SYSTEM_TYPES, prediction_schema

REMEMBERED = 64
"""So many contracts have their log's form kept; a process serves a few versions at a time."""


@dataclass(frozen=True)
class Recorded:
    """What became of scored rows: so many were new to the log, so many are left out of the sample."""

    new: int
    unsampled: int


class Recorder:
    """Writes to one sink. Thread-safe; `bits` makes the ids' random part."""

    def __init__(self, log: Sink, bits: RandomBits = secrets.randbits) -> None:
        self._log = log
        self._values = log if isinstance(log, ValuesSink) else None
        self._bits = bits

    def identify(self, rows: pa.Table, moment: datetime) -> list[PredictionId]:
        """An id for each row: the caller's own where it gave one, else a new one; raises BadInput."""
        return self.complete(rows.column("prediction_id").to_pylist(), moment)

    def complete(self, given: Sequence[str | None], moment: datetime) -> list[PredictionId]:
        """The ids of rows, with a new one in the place of each that is None; raises BadInput."""
        return self.fill(checked_ids(given, moment), moment)

    def fill(self, ids: Sequence[str | None], moment: datetime) -> list[PredictionId]:
        """The same ids (checked ones), with a new one in the place of each that is None."""
        missing = sum(each is None for each in ids)
        made = prediction_ids(moment, missing, self._bits)
        if missing == len(ids):
            return made
        new = iter(made)
        return [next(new) if each is None else PredictionId(each) for each in ids]

    def record(
        self,
        scorer: Scorer,
        rows: pa.Table | Rows,
        scored: Scored,
        ids: Sequence[PredictionId],
        moment: datetime,
        *,
        role: Role = Role.CHAMPION,
        source: Source,
        request_ids: Sequence[str | None] | None = None,
        latency_us: Sequence[int] | None = None,
    ) -> Recorded:
        """Stores scored rows in the form that the log has; on return they are durable."""
        same = {
            "predicted_at": moment,
            "sample_weight": 1.0,
            "model_version": scorer.version.version,
            "role": str(role),
            "source": str(source),
        }
        each = {"prediction_id": ids, "request_id": request_ids, "latency_us": latency_us}
        same |= dict.fromkeys(name for name, values in each.items() if values is None)
        of_rows = {name: values for name, values in each.items() if values is not None}
        if isinstance(rows, Rows):
            if self._values is not None and scorer.sample >= 1.0 and not scorer.redaction.changes:
                return self._record_values(self._values, scorer, rows, scored, same, of_rows)
            rows = rows_table(scorer.contract, rows)
        contract, count = scorer.contract, rows.num_rows
        arrays = {name: pa.repeat(pa.scalar(value, SYSTEM_TYPES[name]), count) for name, value in same.items()}
        arrays |= {name: pa.array(values, SYSTEM_TYPES[name]) for name, values in of_rows.items()}
        arrays |= {column.stored: rows.column(column.name) for column in (*contract.extra_key, *contract.features)}
        arrays |= {column.stored: scored.outputs.column(column.stored) for column in contract.outputs}
        schema = _schema(contract)
        table = pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)
        return keep(self._log, scorer.redaction, scorer.sample, table, moment)

    @staticmethod
    def _record_values(
        sink: ValuesSink,
        scorer: Scorer,
        rows: Rows,
        scored: Scored,
        same: dict[str, Any],
        of_rows: dict[str, Any],
    ) -> Recorded:
        """The short way for a few rows that are logged as they are."""
        contract = scorer.contract
        columns = of_rows | scored.values()
        columns |= {column.stored: rows.columns[column.name] for column in (*contract.extra_key, *contract.features)}
        schema = _schema(contract)
        values = Values(rows.count, same, [columns[name] for name in schema.names if name not in same])
        return Recorded(sink.append_values(scorer.logged, schema, values, same["predicted_at"]), 0)


def checked_ids(given: Sequence[str | None], moment: datetime) -> list[PredictionId | None]:
    """Callers' own ids, if each is one and none is there twice; raises BadInput."""
    ids = [None if text is None else check_prediction_id(text, moment, row=row) for row, text in enumerate(given)]
    own = [each for each in ids if each is not None]
    if len(set(own)) < len(own):
        raise BadInput.of("prediction_id", "the same id is given to several rows")
    return ids


def keep(sink: Sink, redaction: Redaction, sample: float, rows: pa.Table, now: datetime) -> Recorded:
    """Gives rows of the served contract to a sink as they are to be logged: redacted, and a sample of them."""
    count = rows.num_rows
    if sample < 1.0:
        rows = rows.filter(pa.array(in_sample(rows.column("prediction_id").to_pylist(), sample), pa.bool_()))
        weights = pa.repeat(pa.scalar(1.0 / sample, pa.float64()), rows.num_rows)
        rows = rows.set_column(rows.column_names.index("sample_weight"), "sample_weight", weights)
    unsampled = count - rows.num_rows
    if redaction.changes:
        schema = _schema(redaction.logged)
        rows = redaction.redact(rows).select(schema.names).cast(schema)
    new = sink.append(redaction.logged, rows, now) if rows.num_rows or not count else 0
    return Recorded(new, unsampled)


# What is the same for every batch of a version is worked out once: for one row it would cost more than the row.

_schemas: dict[int, tuple[Contract, pa.Schema]] = {}


def _schema(contract: Contract) -> pa.Schema:
    """`prediction_schema`, remembered by the object: to compare contracts would cost as much as to make it."""
    known = _schemas.get(id(contract))
    if known is None or known[0] is not contract:
        if len(_schemas) >= REMEMBERED:
            _schemas.clear()
        known = _schemas[id(contract)] = contract, prediction_schema(contract)
    return known[1]
