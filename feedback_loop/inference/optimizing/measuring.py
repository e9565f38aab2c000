"""What a variant costs and how good it is: size, time of a row, rows per second, score on labelled rows."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from feedback_loop.inference.engines import Engine
from feedback_loop.schema import Contract

CALLS = 200
BATCH = 256
BATCHES = 10


@dataclass(frozen=True)
class Measured:
    """A variant's figures. `score` is the share of right classes, for a regression R²; `size_bytes` the file's."""

    variant: str
    engine: str
    size_bytes: int
    p50_us: float
    p99_us: float
    rows_per_second: float
    score: float
    within_budget: bool = True
    chosen: bool = False


def measure(name: str, engine: Engine, kind: str, size_bytes: int, contract: Contract, rows: pa.Table) -> Measured:
    """The figures of one engine on labelled rows (by the model's names)."""
    single = [rows.slice(place % rows.num_rows, 1) for place in range(CALLS)]
    engine.score(single[0])
    times = [_seconds(engine, row) for row in single]
    batch = _repeated(rows, BATCH)
    best = min(_seconds(engine, batch) for _ in range(BATCHES))
    return Measured(
        variant=name,
        engine=kind,
        size_bytes=size_bytes,
        p50_us=float(np.percentile(times, 50) * 1e6),
        p99_us=float(np.percentile(times, 99) * 1e6),
        rows_per_second=BATCH / best,
        score=score(engine, contract, rows),
    )


def score(engine: Engine, contract: Contract, rows: pa.Table) -> float:
    """Accuracy, or R² of a regression."""
    predicted = engine.score(rows).outputs.column(contract.outputs[0].stored)
    truth = rows.column(contract.label.name)
    if contract.task.is_classification:
        pairs = zip(predicted.to_pylist(), truth.to_pylist(), strict=True)
        return float(sum(one == other for one, other in pairs) / rows.num_rows)
    true, said = truth.to_numpy().astype(np.float64), predicted.to_numpy()
    spread = float(((true - true.mean()) ** 2).sum())
    return 1 - float(((true - said) ** 2).sum()) / spread if spread else 0.0


def _repeated(rows: pa.Table, count: int) -> pa.Table:
    times = -(-count // rows.num_rows)
    return pa.concat_tables([rows] * times).slice(0, count).combine_chunks()


def _seconds(engine: Engine, rows: pa.Table) -> float:
    began = time.perf_counter()
    engine.score(rows)
    return time.perf_counter() - began
