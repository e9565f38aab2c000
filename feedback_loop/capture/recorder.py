"""The recorder: what was scored becomes rows of the prediction log, durable before anybody is answered."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import pyarrow as pa

from feedback_loop.capture.files import microseconds
from feedback_loop.capture.sink import Sink
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
from feedback_loop.store.arrow import UTC_MOMENT
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
        values = {
            "prediction_id": pa.array(ids, pa.string()),
            "predicted_at": pa.repeat(pa.scalar(microseconds(moment), UTC_MOMENT), count),
            "sample_weight": _repeated("sample_weight", 1.0, count),
            "model_version": _repeated("model_version", scorer.version.version, count),
            "role": _repeated("role", str(role), count),
            "source": _repeated("source", str(source), count),
            "request_id": _given("request_id", request_ids, count),
            "latency_us": _given("latency_us", latency_us, count),
        }
        values |= {column.stored: rows.column(column.name) for column in (*contract.extra_key, *contract.features)}
        values |= {column.stored: scored.outputs.column(column.stored) for column in contract.outputs}
        schema = _schema(contract)
        table = pa.Table.from_arrays([values[name] for name in schema.names], schema=schema)
        return keep(self._log, scorer.redaction, scorer.sample, table, moment)


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


def _repeated(name: str, value: object, count: int) -> pa.Array:
    return pa.repeat(_scalar(name, value), count)


def _given(name: str, values: Sequence[object] | None, count: int) -> pa.Array:
    """Values where there are any: a column of nothing costs nothing."""
    kind = SYSTEM_TYPES[name]
    if values is None:
        return pa.nulls(count, kind)
    return pa.array(values, kind)


# What is the same for every batch of a version is worked out once: for one row it would cost more than the row.


@lru_cache(maxsize=256)
def _scalar(name: str, value: object) -> pa.Scalar:
    return pa.scalar(value, SYSTEM_TYPES[name])


_schemas: dict[int, tuple[Contract, pa.Schema]] = {}


def _schema(contract: Contract) -> pa.Schema:
    """`prediction_schema`, remembered by the object: to compare contracts would cost as much as to make it."""
    known = _schemas.get(id(contract))
    if known is None or known[0] is not contract:
        if len(_schemas) >= REMEMBERED:
            _schemas.clear()
        known = _schemas[id(contract)] = contract, prediction_schema(contract)
    return known[1]
