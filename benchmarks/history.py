"""A long history of predictions with outcomes, as the benchmark of monitoring reads it: 20 features, two classes."""

from __future__ import annotations

import random
import sys
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from feedback_loop.clock import Window
from feedback_loop.monitoring import Profile, fold_news, profile_of_reference
from feedback_loop.monitoring.profile_store import establish
from feedback_loop.outcomes import record_outcomes
from feedback_loop.schema import Column, ColumnType, Contract, Task, make_contract, prediction_id
from feedback_loop.store import Store
from feedback_loop.store.joins import join_new
from feedback_loop.store.predictions import PredictionLog, prediction_schema

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DAYS = 90
"""So long is the history, however many rows it has."""

CHUNK = 50_000
NUMBERS, WORDS = 15, 5
REFERENCE_ROWS = 100_000


def contract() -> Contract:
    """15 numbers, 5 columns of words, a probability, and a label that comes by key."""
    numbers = tuple(Column(f"number_{place}", ColumnType.DOUBLE) for place in range(NUMBERS))
    words = tuple(Column(f"word_{place}", ColumnType.STRING) for place in range(WORDS))
    return make_contract(
        model="orders",
        task=Task.BINARY,
        features=(*numbers, *words),
        label="late",
        label_type=ColumnType.BOOLEAN,
        key=("order_id",),
        key_types={"order_id": ColumnType.LONG},
        classes=(False, True),
        has_probabilities=True,
    )


def columns_of(first: int, count: int) -> dict[str, object]:
    """Features, outputs and label of so many rows; the same for the same numbers."""
    drawn = np.random.default_rng(first)
    numbers = drawn.normal(size=(NUMBERS, count))
    words = (drawn.random((WORDS, count)) ** 2 * (8 + 4 * np.arange(WORDS))[:, None]).astype(np.int64)
    named = [pa.array([f"w{place}" for place in range(40)]).take(pa.array(each)) for each in words]
    score = 1 / (1 + np.exp(-(numbers[0] + 0.5 * numbers[1] - 1.5 + 0.1 * words[0])))
    return {
        "order_id": np.arange(first, first + count),
        **{f"number_{place}": each for place, each in enumerate(numbers)},
        **{f"word_{place}": each for place, each in enumerate(named)},
        "prediction": score > 0.5,
        "probability": score,
        "late": drawn.random(count) < score,
    }


def fill(store: Store, size: int) -> datetime:
    """Predictions and outcomes in the order of time, joined and folded as they come. Returns when it ends."""
    step = DAYS * DAY / size
    establish(store, "orders", "1", reference(), START)
    began = time.perf_counter()
    for first in range(0, size, CHUNK):
        count = min(CHUNK, size - first)
        append(store, first, [START + row * step for row in range(first, first + count)])
        print(f"\r{first + count:,} of {size:,} rows, {time.perf_counter() - began:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    with store.write() as connection:
        connection.exec_driver_sql("ANALYZE")
    return START + DAYS * DAY


def append(store: Store, first: int, moments: list[datetime]) -> None:
    """Rows of these moments, their outcomes, and one run of the join."""
    predict(store, first, moments)
    learn(store, first, len(moments), moments[-1])
    join_new(store, contract(), DAY, moments[-1], fold_news)


def predict(store: Store, first: int, moments: list[datetime]) -> None:
    """Logs predictions of these moments."""
    values, count = columns_of(first, len(moments)), len(moments)
    schema = prediction_schema(contract())
    bits = random.Random(first).getrandbits  # noqa: S311 (ids of a benchmark)
    own: dict[str, object] = {
        "prediction_id": [prediction_id(moment, bits) for moment in moments],
        "predicted_at": moments,
        "model_version": ["1"] * count,
        "role": ["champion"] * count,
        "source": ["online"] * count,
        "sample_weight": np.ones(count),
    }
    table = pa.table({name: ({**values, **own}).get(name, pa.nulls(count)) for name in schema.names}).cast(schema)
    PredictionLog(store).append(contract(), table, moments[-1])


def learn(store: Store, first: int, count: int, now: datetime) -> None:
    """Records the outcomes of these rows."""
    values = columns_of(first, count)
    outcomes = pa.table({name: values[name] for name in ("order_id", "late")})
    record_outcomes(store, contract(), outcomes, now=now, source="benchmark")


def reference() -> Profile:
    """The profile of the reference, of 30 days."""
    return profile_of_reference(contract(), reference_rows(), DAY)


def reference_rows() -> pa.Table:
    """100,000 rows of the month before, as the log would hold them."""
    values = columns_of(-REFERENCE_ROWS & 0xFFFFFFFF, REFERENCE_ROWS)
    times = [START - 30 * DAY + row * (30 * DAY / REFERENCE_ROWS) for row in range(REFERENCE_ROWS)]
    stored = {column.name: column.stored for column in (*contract().features, *contract().outputs, contract().label)}
    named = {stored[name]: value for name, value in values.items() if name in stored}
    return pa.table({"predicted_at": pa.array(times, pa.timestamp("us", "UTC")), **named})


WHOLE = Window(START, START + DAYS * DAY)
"""The window that everything is in."""
