"""The recorder: what was scored becomes rows of the prediction log, durable before anybody is answered."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from feedback_loop.capture.sink import Sink
from feedback_loop.errors import BadInput
from feedback_loop.inference import Scored, Scorer
from feedback_loop.schema import (
    PredictionId,
    RandomBits,
    Redaction,
    Role,
    Source,
    check_prediction_id,
    in_sample,
    prediction_id,
)
from feedback_loop.store.predictions import prediction_schema


@dataclass(frozen=True)
class Recorded:
    """What became of scored rows: so many were new to the log, so many are left out of the sample."""

    new: int
    unsampled: int


class Recorder:
    """Writes to one sink. Thread-safe; `bits` makes the ids' random part."""

    def __init__(self, log: Sink, bits: RandomBits = secrets.randbits) -> None:
        self._log = log
        self._bits = bits

    def identify(self, rows: pa.Table, moment: datetime) -> list[PredictionId]:
        """An id for each row: the caller's own where it gave one, else a new one; raises BadInput."""
        given = rows.column("prediction_id").to_pylist()
        ids = [
            prediction_id(moment, self._bits) if text is None else check_prediction_id(text, moment, row=row)
            for row, text in enumerate(given)
        ]
        if len(set(ids)) < len(ids):
            raise BadInput.of("prediction_id", "the same id is given to several rows")
        return ids

    def record(
        self,
        scorer: Scorer,
        rows: pa.Table,
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
        contract, count = scorer.contract, rows.num_rows
        values: dict[str, object] = {
            "prediction_id": list(ids),
            "predicted_at": [moment] * count,
            "sample_weight": [1.0] * count,
            "model_version": [scorer.version.version] * count,
            "role": [str(role)] * count,
            "source": [str(source)] * count,
            "request_id": request_ids if request_ids is not None else [None] * count,
            "latency_us": latency_us if latency_us is not None else [None] * count,
        }
        values |= {column.stored: rows.column(column.name) for column in (*contract.extra_key, *contract.features)}
        values |= {column.stored: scored.outputs.column(column.stored) for column in contract.outputs}
        schema = prediction_schema(contract)
        table = pa.table({name: values[name] for name in schema.names}, schema=schema)
        return keep(self._log, scorer.redaction, scorer.sample, table, moment)


def keep(sink: Sink, redaction: Redaction, sample: float, rows: pa.Table, now: datetime) -> Recorded:
    """Gives rows of the served contract to a sink as they are to be logged: redacted, and a sample of them."""
    count = rows.num_rows
    if sample < 1.0:
        rows = rows.filter(pa.array(in_sample(rows.column("prediction_id").to_pylist(), sample), pa.bool_()))
        weights = pa.repeat(pa.scalar(1.0 / sample, pa.float64()), rows.num_rows)
        rows = rows.set_column(rows.column_names.index("sample_weight"), "sample_weight", weights)
    unsampled = count - rows.num_rows
    if redaction.logged != redaction.served:
        schema = prediction_schema(redaction.logged)
        rows = redaction.redact(rows).select(schema.names).cast(schema)
    new = sink.append(redaction.logged, rows, now) if rows.num_rows or not count else 0
    return Recorded(new, unsampled)
