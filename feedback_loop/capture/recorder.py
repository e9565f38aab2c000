"""The recorder: what was scored becomes rows of the prediction log, durable before anybody is answered."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from feedback_loop.capture.groups import Values, spread
from feedback_loop.capture.sink import GroupSink, Part, Sink
from feedback_loop.errors import BadInput
from feedback_loop.inference import Scored, Scorer
from feedback_loop.schema import (
    ENDS,
    Column,
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
from feedback_loop.store.predictions import prediction_schema

REMEMBERED = 64
"""So many contracts have their log's form kept; a process serves a few versions at a time."""


@dataclass(frozen=True)
class Recorded:
    """What became of scored rows: so many were new to the log, so many are left out of the sample."""

    new: int
    unsampled: int


Requests = list[tuple[str | None, int]]
"""Requests' own ids, each with how many rows it has."""

LONGEST_REQUEST_ID = 200
"""Letters of a request's own id that are kept: it is stored with each of its rows, and callers choose it."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one version scored, and what else is logged of it."""

    scorer: Scorer
    rows: pa.Table | Rows
    scored: Scored
    ids: list[PredictionId] | pa.StringArray
    role: Role = Role.CHAMPION
    requests: Requests | None = None
    latency_us: Sequence[int] | None = None


class Recorder:
    """Writes to one sink. Thread-safe; `bits` makes the ids' random part."""

    def __init__(self, log: Sink, bits: RandomBits = secrets.randbits) -> None:
        self._log = log
        self._groups = log if isinstance(log, GroupSink) else None  # looked at once: it takes long
        self._bits = bits

    def identify(self, rows: pa.Table, moment: datetime, column: str = "prediction_id") -> list[PredictionId]:
        """An id for each row: the caller's own where it gave one, else a new one; raises BadInput."""
        return self.complete(rows.column(column).to_pylist(), moment)

    def complete(self, given: Sequence[str | None], moment: datetime) -> list[PredictionId]:
        """The ids of rows, with a new one in the place of each that is None; raises BadInput."""
        return self.fill(checked_ids(given, moment), moment)

    def fill(self, ids: Sequence[str | None], moment: datetime) -> list[PredictionId]:
        """The same ids (checked ones), with a new one in the place of each that is None."""
        missing = ids.count(None)
        made = prediction_ids(moment, missing, self._bits)
        if missing == len(ids):
            return made
        new = iter(made)
        return [next(new) if own is None else PredictionId(own) for own in ids]

    def is_free(self) -> bool:
        """Whether rows would be recorded now without waiting for others who use the sink."""
        return self._groups is None or self._groups.is_free()

    def record(
        self,
        scorer: Scorer,
        rows: pa.Table | Rows,
        scored: Scored,
        ids: list[PredictionId] | pa.StringArray,
        moment: datetime,
        *,
        role: Role = Role.CHAMPION,
        source: Source,
        requests: Requests | None = None,
        latency_us: Sequence[int] | None = None,
    ) -> Recorded:
        """Stores scored rows in the form that the log has; on return they are durable."""
        record = Record(scorer, rows, scored, ids, role, requests, latency_us)
        return self.record_all([record], moment, source)

    def record_all(self, records: Sequence[Record], moment: datetime, source: Source) -> Recorded:
        """The same for what several versions scored: all of it is stored, or nothing."""
        made = [_part(record, moment, source, takes_values=self._groups is not None) for record in records]
        unsampled = sum(left_out for _, left_out in made)
        if self._groups is not None:
            return Recorded(self._groups.append_all([part for part, _ in made], moment), unsampled)
        parts = [part for part, left_out in made if part.count or not left_out]
        return Recorded(sum(self._log.append(part.contract, part.rows, moment) for part in parts), unsampled)


def _part(record: Record, moment: datetime, source: Source, *, takes_values: bool) -> tuple[Part, int]:
    """A record's rows as they are logged, and how many are left out of the sample."""
    scorer, rows, scored = record.scorer, record.rows, record.scored
    contract = scorer.contract
    same = {
        "predicted_at": moment,
        "sample_weight": 1.0,
        "model_version": scorer.version.version,
        "role": str(record.role),
        "source": str(source),
    }
    runs: dict[str, Requests] = {}
    by_row: dict[str, Any] = {"prediction_id": record.ids}
    if record.latency_us is not None:
        by_row["latency_us"] = record.latency_us
    else:
        same["latency_us"] = None
    if record.requests is None or len(record.requests) == 1:
        same["request_id"] = record.requests[0][0] if record.requests else None
    else:
        runs["request_id"] = record.requests
    extra: tuple[Column, ...] = ()
    if scored.revision is not None:
        extra = (contract.adapter_revision, *contract.raw_outputs)
        same[contract.adapter_revision.stored] = scored.revision
    if scored.marks is not None:
        explored, propensity = contract.exploration_columns
        extra = (*extra, explored, propensity)
        by_row |= {explored.stored: scored.marks.explored, propensity.stored: scored.marks.propensity}
    if scored.interval is not None:
        extra = (*extra, *contract.interval_columns)
        by_row |= {
            column.stored: scored.beside[name] for column, name in zip(contract.interval_columns, ENDS, strict=True)
        }
    if isinstance(rows, Rows):
        if takes_values and scorer.sample >= 1.0 and not scorer.redaction.changes:
            return _values(record, rows, same, by_row, runs, extra), 0
        rows = rows_table(contract, rows)
    by_row |= {name: spread(values) for name, values in runs.items()}
    by_row |= {column.stored: values for column, values in zip(contract.raw_outputs, scored.raw, strict=False)}
    table = log_table(contract, same, by_row, rows, scored.outputs)
    return as_logged(scorer.redaction, scorer.sample, table)


def log_table(
    contract: Contract, same: Mapping[str, Any], by_row: Mapping[str, Any], inputs: pa.Table, outputs: pa.Table
) -> pa.Table:
    """Rows of the log: what is the `same` for all of them, what differs `by_row`, features and key, outputs."""
    extra = tuple(column for column in contract.log_columns if column.stored in same or column.stored in by_row)
    count, schema = inputs.num_rows, _schema(contract, extra)
    kinds = {field.name: field.type for field in schema}
    arrays = {name: pa.repeat(pa.scalar(value, kinds[name]), count) for name, value in same.items()}
    for name, values in by_row.items():
        is_arrow = isinstance(values, pa.Array | pa.ChunkedArray)
        arrays[name] = values.cast(kinds[name]) if is_arrow else pa.array(values, kinds[name])
    arrays |= {column.stored: inputs.column(column.name) for column in (*contract.extra_key, *contract.features)}
    arrays |= {column.stored: outputs.column(column.stored) for column in contract.outputs}
    return pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _values(
    record: Record,
    rows: Rows,
    same: dict[str, Any],
    by_row: dict[str, Any],
    runs: dict[str, Requests],
    extra: tuple[Column, ...],
) -> Part:
    """The short way for a few rows that are logged as they are."""
    contract = record.scorer.contract
    columns = by_row | record.scored.values()
    columns |= {column.stored: rows.columns[column.name] for column in (*contract.extra_key, *contract.features)}
    schema = _schema(contract, extra)
    own = [columns[name] for name in schema.names if name not in same and name not in runs]
    return Part(record.scorer.logged, schema, Values(rows.count, same, own, runs))


def checked_ids(given: Sequence[str | None], moment: datetime) -> list[PredictionId | None]:
    """Callers' own ids, if each is one and none is there twice; raises BadInput."""
    ids = [None if text is None else check_prediction_id(text, moment, row=row) for row, text in enumerate(given)]
    own = [identifier for identifier in ids if identifier is not None]
    if len(set(own)) < len(own):
        raise BadInput.of("prediction_id", "the same id is given to several rows")
    return ids


def as_logged(redaction: Redaction, sample: float, rows: pa.Table) -> tuple[Part, int]:
    """Rows of the served contract as they are to be logged, redacted and sampled, and how many are left out."""
    count = rows.num_rows
    if sample < 1.0:
        rows = rows.filter(pa.array(in_sample(rows.column("prediction_id").to_pylist(), sample), pa.bool_()))
        weights = pa.repeat(pa.scalar(1.0 / sample, pa.float64()), rows.num_rows)
        rows = rows.set_column(rows.column_names.index("sample_weight"), "sample_weight", weights)
    unsampled = count - rows.num_rows
    pairs = zip(redaction.served.log_columns, redaction.logged.log_columns, strict=True)
    schema = _schema(
        redaction.logged, tuple(logged for served, logged in pairs if served.stored in rows.column_names)
    )
    if redaction.changes:
        rows = redaction.redact(rows).select(schema.names).cast(schema)
    return Part(redaction.logged, schema, rows), unsampled


# What is the same for every batch of a version is worked out once: for one row it would cost more than the row.

_schemas: dict[tuple[int, ...], tuple[Contract, pa.Schema]] = {}


def _schema(contract: Contract, extra: tuple[Column, ...] = ()) -> pa.Schema:
    """`prediction_schema`, remembered by the objects: to compare contracts would cost as much as to make it."""
    key = (id(contract), *map(id, extra))
    remembered = _schemas.get(key)
    if remembered is None or remembered[0] is not contract:
        if len(_schemas) >= REMEMBERED:
            _schemas.clear()
        remembered = _schemas[key] = contract, prediction_schema(contract, extra)
    return remembered[1]
