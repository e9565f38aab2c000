"""Tables of days for `benchmarks.drift_alarms`: 20 numbers that differ from day to day, and columns that are odd."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from feedback_loop.schema import Column, ColumnType, Contract, Task, make_contract

COLUMNS, ROWS, WEATHER, DAY = 20, 400, 0.05, timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Odd:
    """A table of odd columns: so many rows a day, so many days in the reference, and whether weekends are others."""

    rows: int
    days: int
    weekends: bool

    @property
    def name(self) -> str:
        """What it is called in a line."""
        return f"text and few values, {self.rows * self.days:,} rows{', weekends' if self.weekends else ''}"


ODD = (Odd(100, 15, weekends=True), Odd(300, 5, weekends=False), Odd(300, 20, weekends=True))


@cache
def odd_contract() -> Contract:
    """Three columns of numbers and five of text."""
    numbers = tuple(Column(name, ColumnType.DOUBLE) for name in ("few", "flag", "sparse"))
    texts = tuple(Column(name, ColumnType.STRING) for name in ("plan", "hundred", "article", "growing", "note"))
    features = (*numbers, *texts)
    made = make_contract(model="m", task=Task.REGRESSION, features=features, label="y", label_type=ColumnType.DOUBLE)
    return replace(made, segments=())


def odd_day(random: np.random.Generator, odd: Odd, day: int) -> pa.Table:
    """The rows of one day; days differ in nothing but chance, and weekends where there are any."""
    rows, free = odd.rows, odd.weekends and (START + day * DAY).weekday() >= 5
    columns: dict[str, Any] = {
        "few": random.choice([1.0, 2.0, 5.0], rows, p=[0.4, 0.4, 0.2] if free else [0.6, 0.3, 0.1]),
        "flag": (random.random(rows) < (0.05 if free else 0.02)).astype(np.float64),
        "sparse": np.where(
            random.random(rows) < (0.1 if free else 0.05), np.nan, np.maximum(random.normal(size=rows), 0.5)
        ),
        "plan": random.choice(["basic", "plus", "pro"], rows, p=[0.8, 0.18, 0.02] if free else [0.9, 0.09, 0.01]),
        "hundred": random.integers(0, 100, rows).astype(str),
        "article": random.integers(0, 5000, rows).astype(str),
        "growing": random.zipf(1.5, rows).astype(str),
        "note": random.bytes(8 * rows).hex(" ", 8).split(),
        odd_contract().outputs[0].stored: random.normal(size=rows) + (0.3 if free else 0.0),
    }
    table = {name: pa.array(values) for name, values in columns.items()}
    table["predicted_at"] = pa.array([START + day * DAY] * rows, pa.timestamp("us", "UTC"))
    table[odd_contract().label.stored] = pa.nulls(rows, pa.float64())
    return pa.table(table)


@cache
def contract() -> Contract:
    """Columns of numbers, one of which is the prediction."""
    features = tuple(Column(f"x{place}", ColumnType.DOUBLE) for place in range(COLUMNS - 1))
    made = make_contract(model="m", task=Task.REGRESSION, features=features, label="y", label_type=ColumnType.DOUBLE)
    return replace(made, segments=())


def day_of(random: np.random.Generator, day: int, shift: float, weather: float) -> pa.Table:
    """The rows of one day: means differ by `weather`, and that of the first column is `shift` higher."""
    values = random.normal(size=(ROWS, COLUMNS)) + weather * random.normal(size=COLUMNS)
    values[:, 0] += shift
    names = [column.stored for column in (*contract().features, contract().outputs[0])]
    columns: dict[str, Any] = {name: pa.array(values[:, place]) for place, name in enumerate(names)}
    columns["predicted_at"] = pa.array([START + day * DAY] * ROWS, pa.timestamp("us", "UTC"))
    columns[contract().label.stored] = pa.nulls(ROWS, pa.float64())
    return pa.table(columns)
