"""Predictions that somebody else's server made, as rows of the log: checked as ours are, their source `external`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from feedback_loop.capture.recorder import LONGEST_REQUEST_ID, Recorded, as_logged, log_table
from feedback_loop.capture.sink import Sink
from feedback_loop.clock import as_utc
from feedback_loop.errors import BadInput, RowError, Unavailable
from feedback_loop.schema import (
    EARLIEST,
    PREDICTION_ID,
    SLACK,
    Column,
    ColumnType,
    Contract,
    PredictionId,
    RandomBits,
    Redaction,
    Role,
    Source,
    as_table,
    check_prediction_id,
    coerce,
    prediction_id,
)

PREDICTED_AT = Column("predicted_at", ColumnType.DATETIME, required=False)
REQUEST_ID = Column("request_id", ColumnType.STRING, required=False)
LATENCY = Column("latency_us", ColumnType.INTEGER, required=False)
OWN = (PREDICTED_AT, REQUEST_ID, LATENCY)
"""Columns of ours that a caller may give beside features and key."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Deployed:
    """A version that somebody else's server answers with, and what it takes and answers."""

    redaction: Redaction
    version: str
    sample: float = 1.0

    @property
    def contract(self) -> Contract:
        """What it takes and answers; rows of it are redacted on their way to the log."""
        return self.redaction.served

    def log(self, sink: Sink, rows: pa.Table, now: datetime) -> Recorded:
        """Gives rows of `external_rows` to a sink, as they are to be logged."""
        part, unsampled = as_logged(self.redaction, self.sample, rows)
        new = sink.append(part.contract, part.rows, now) if part.count or not unsampled else 0
        return Recorded(new, unsampled)


Find = Callable[[str, str | None], Deployed]
"""A model's version by its number, or (None) the one that its alias means now; raises NotFound and Unavailable."""


class Deployments:
    """Remembers versions: a numbered one for good, an alias's for so long. Thread-safe."""

    def __init__(self, find: Find, remember: timedelta, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._find = find
        self._remember = remember.total_seconds()
        self._monotonic = monotonic
        self._known: dict[tuple[str, str | None], tuple[float, Deployed]] = {}

    def find(self, model: str, version: str | None = None) -> Deployed:
        """The version; while the registry is away, the one that the alias last meant."""
        key, now = (model, version), self._monotonic()
        since, remembered = self._known.get(key, (0.0, None))
        if remembered is not None and (version is not None or now - since < self._remember):
            return remembered
        try:
            deployed = self._find(model, version)
        except Unavailable as error:
            if remembered is None:
                raise
            _log.warning("alias not read again", model=model, version=remembered.version, cause=str(error))
            deployed = remembered
        self._known[key] = (now, deployed)
        return deployed


def external_rows(
    deployed: Deployed,
    inputs: pa.Table,
    outputs: pa.Table,
    now: datetime,
    *,
    bits: RandomBits = secrets.randbits,
    make_id: Callable[[int, datetime], PredictionId] | None = None,
) -> pa.Table:
    """Rows of the log from `input_rows(contract, …, OWN)` and `read_outputs`; raises BadInput.

    A row without a time is of now; one without an id gets one of its time: `make_id` of the row's number and time,
    or a random one.
    """
    contract, count = deployed.contract, inputs.num_rows
    if outputs.num_rows != count:
        raise BadInput.of("predictions", f"there are {outputs.num_rows} for {count} rows of features")
    moments = [
        now if moment is None else moment for moment in inputs.column(contract.own(PREDICTED_AT.name)).to_pylist()
    ]
    _refuse_untimely(moments, now)
    make = make_id or (lambda _, moment: prediction_id(moment, bits))
    same = {
        "sample_weight": 1.0,
        "model_version": deployed.version,
        "role": str(Role.CHAMPION),
        "source": str(Source.EXTERNAL),
    }
    by_row = {
        PREDICTION_ID: _identified(inputs.column(contract.own(PREDICTION_ID)).to_pylist(), moments, now, make),
        "predicted_at": moments,
        "request_id": pc.utf8_slice_codeunits(inputs.column(contract.own(REQUEST_ID.name)), 0, LONGEST_REQUEST_ID),
        "latency_us": inputs.column(contract.own(LATENCY.name)),
    }
    return log_table(contract, same, by_row, inputs, outputs)


def with_own(contract: Contract, inputs: pa.Table, own: dict[Column, Any]) -> pa.Table:
    """The inputs with our columns beside them (in place of those that they had)."""
    count = inputs.num_rows
    columns = {name: inputs.column(name) for name in inputs.column_names}
    for column, value in own.items():
        # A time without a zone may be anybody's: `datetime.now()` is not UTC.
        values = [as_utc(single) if isinstance(single, datetime) else single for single in _repeated(value, count)]
        if len(values) != count:
            raise BadInput.of(column.name, f"there are {len(values)} for {count} rows")
        columns[contract.own(column.name)] = coerce(as_table({column.name: values}), [column]).column(0)
    return pa.table(columns)


def _repeated(value: Any, count: int) -> list[Any]:
    """One value for all rows, or what was given for each."""
    is_by_row = isinstance(value, Sequence) and not isinstance(value, str)
    return list(value) if is_by_row or hasattr(value, "__array__") else [value] * count


def _identified(
    own: Sequence[str | None],
    moments: Sequence[datetime],
    now: datetime,
    make: Callable[[int, datetime], PredictionId],
) -> list[PredictionId]:
    ids: list[PredictionId] = []
    problems: list[RowError] = []
    for row, (text, moment) in enumerate(zip(own, moments, strict=True)):
        try:
            ids.append(make(row, moment) if text is None else check_prediction_id(text, now, row=row))
        except BadInput as error:
            problems.extend(error.problems)
    if problems:
        raise BadInput(problems, cure="Give a UUIDv7 of the prediction's time, or none: then one is made.")
    return ids


def _refuse_untimely(moments: Sequence[datetime], now: datetime) -> None:
    latest = as_utc(now) + SLACK
    problems = [
        RowError(row, PREDICTED_AT.name, "is from the future" if moment > latest else "is before the year 2000")
        for row, moment in enumerate(moments)
        if not EARLIEST <= moment <= latest
    ]
    if problems:
        raise BadInput(problems, cure="Give the time at which it was predicted, with its zone.")
