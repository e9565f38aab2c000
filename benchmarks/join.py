"""What a scheduled join costs: 10,000 new outcomes joined and accounted for, with few and with many predictions.

A run should cost what is new, not what is old. Intake (revisions, what matches) and join (accounts, windows) are
measured apart, on SQLite and on PostgreSQL, in stores of two sizes that are otherwise alike. Outcomes are of
predictions of the newest million (as they come in practice), and of predictions from anywhere.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from benchmarks.lines import Line, median, run
from benchmarks.stores import temporary_store
from feedback_loop.outcomes import record_outcomes
from feedback_loop.schema import Column, ColumnType, Contract, Task, make_contract, prediction_id
from feedback_loop.store import Store
from feedback_loop.store.joins import join_new
from feedback_loop.store.predictions import PredictionLog, prediction_schema

OURS = "the incremental join"
NEW = 10_000
CHUNK = 50_000
START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
STEP = timedelta(milliseconds=800)  # 108,000 predictions a day: 10 million in three months


def benchmark(quick: bool) -> Iterator[Line]:
    """Seconds for intake and join at both sizes, and their ratio."""
    small, large, runs = (50_000, 250_000, 3) if quick else (1_000_000, 10_000_000, 5)
    for kind in ("sqlite", "postgresql"):
        found: dict[tuple[int, str, str], float] = {}
        for size in (small, large):
            with temporary_store(kind) as store:
                _fill(store, size)
                found |= {(size, *key): value for key, value in _measure(store, size, small, runs).items()}
        for where in ("the newest", "anywhere"):
            for what in ("intake", "join", "both"):
                for size in (small, large):
                    ratio = found[size, where, what] / found[small, where, what]
                    case = f"{kind}, {size:,} predictions"
                    name = f"{what} of {NEW:,} outcomes of {where}"
                    against = (f"{small:,} predictions", ratio) if size == large else (None, None)
                    yield Line("join", case, name, found[size, where, what], "s", OURS, *against)


def _measure(store: Store, size: int, newest: int, runs: int) -> dict[tuple[str, str], float]:
    contract, now = _contract(), START + size * STEP + DAY
    numbers = np.random.default_rng(size)
    fresh = {
        "the newest": iter(size - newest + numbers.permutation(newest)),
        "anywhere": iter(numbers.permutation(size)),
    }
    spent: dict[tuple[str, str], list[float]] = {}
    for _ in range(runs):
        for where, places in fresh.items():
            now += timedelta(hours=1)
            keys = [int(next(places)) for _ in range(NEW)]
            frame = pa.table({"order": keys, "late": [key % 7 == 0 for key in keys]})
            began = time.perf_counter()
            record_outcomes(store, contract, frame, now=now, source="benchmark")
            taken = time.perf_counter()
            joined = join_new(store, contract, DAY, now)
            ended = time.perf_counter()
            assert joined.outcomes <= NEW  # a prediction that was drawn before says nothing new
            for what, seconds in (("intake", taken - began), ("join", ended - taken), ("both", ended - began)):
                spent.setdefault((where, what), []).append(seconds)
    return {key: median(seconds) for key, seconds in spent.items()}


def _fill(store: Store, size: int) -> None:
    """Predictions in the order of time, as many chunks as there would be appends; then the first join."""
    contract, log, bits = _contract(), PredictionLog(store), random.Random(0).getrandbits  # noqa: S311 (ids of a benchmark)
    schema = prediction_schema(contract)
    for first in range(0, size, CHUNK):
        rows = range(first, min(first + CHUNK, size))
        moments = [START + row * STEP for row in rows]
        values = np.random.default_rng(first).random((2, len(rows)))
        columns: dict[str, object] = {
            "prediction_id": [prediction_id(moment, bits) for moment in moments],
            "predicted_at": moments,
            "model_version": ["1"] * len(rows),
            "role": ["champion"] * len(rows),
            "source": ["online"] * len(rows),
            "sample_weight": np.ones(len(rows)),
            "order": list(rows),
            "prediction": values[0] > 0.5,
            "probability": values[0],
            "distance": values[1],
        }
        count = len(rows)
        table = pa.table({name: columns.get(name, [None] * count) for name in schema.names}, schema=schema)
        log.append(contract, table, moments[-1])
        print(f"\r{rows[-1] + 1:,} of {size:,} predictions", end="", file=sys.stderr)
    began = time.perf_counter()
    join_new(store, contract, DAY, START + size * STEP + DAY)
    print(f", first join {time.perf_counter() - began:.0f} s", file=sys.stderr)
    with store.write() as connection:
        connection.exec_driver_sql("ANALYZE")


def _contract() -> Contract:
    return make_contract(
        model="orders",
        task=Task.BINARY,
        features=(Column("distance", ColumnType.DOUBLE),),
        label="late",
        label_type=ColumnType.BOOLEAN,
        key=("order",),
        key_types={"order": ColumnType.LONG},
        classes=(False, True),
        has_probabilities=True,
    )


if __name__ == "__main__":
    run(benchmark, __doc__)
