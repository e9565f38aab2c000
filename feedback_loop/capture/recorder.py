"""The recorder: what was scored becomes rows of the prediction log, durable before anybody is answered."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa

from feedback_loop.errors import BadInput
from feedback_loop.inference import Scored, Scorer
from feedback_loop.schema import PredictionId, RandomBits, Role, Source, check_prediction_id, prediction_id
from feedback_loop.store.predictions import PredictionLog, prediction_schema


class Recorder:
    """Writes to one prediction log. Thread-safe; `bits` makes the ids' random part."""

    def __init__(self, log: PredictionLog, bits: RandomBits = secrets.randbits) -> None:
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
    ) -> int:
        """Stores scored rows; on return they are durable. Returns how many were new (a retry's are not)."""
        contract, count = scorer.contract, rows.num_rows
        values: dict[str, object] = {
            "prediction_id": list(ids),
            "predicted_at": [moment] * count,
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
        return self._log.append(contract, table, moment)
