"""What looking at many columns every day costs in false alarms, and how soon a shift is told.

Tables of 20 columns of numbers, a reference of 15 days of 400 rows, then days of 400 rows, profiled and compared
as the product does it. Each day's means differ by 0.05 standard deviations, as weather does. A rule has cried falsely
if it told of any column on a stream that never changes. Delay: days from a shift of one column to the day that tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.lines import Line, median, run
from feedback_loop.clock import Window
from feedback_loop.config_policy import DriftSettings
from feedback_loop.decisions.drift import start_watch, watch_window
from feedback_loop.monitoring import profile_of_reference
from feedback_loop.monitoring.profiles import Profile, fold_predictions
from feedback_loop.schema import Column, ColumnType, Contract, Task, make_contract

COLUMNS, OWN_DAYS, ROWS, WEATHER, DAY = 20, 15, 400, 0.05, timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
CONTROLLED = "windows, alpha .05"
RULES = {
    "Evidently's thresholds": DriftSettings(rule="thresholds"),
    "rows, alpha .05": DriftSettings(rule="rows"),
    CONTROLLED: DriftSettings(rule="windows"),
}


def benchmark(quick: bool) -> Iterator[Line]:
    """Shares of streams, and the median delay in days."""
    streams, looks = (4, 12) if quick else (30, 60)
    for weather in (0.0, WEATHER):
        case = f"{looks} days, weather {weather:g}"
        first = [_first_told(seed, looks, weather=weather) for seed in range(streams)]
        for rule in RULES:
            cried = sum(days[rule] is not None for days in first) / streams
            yield Line("drift_alarms", case, "cried at least once", cried, "share", rule)
    streams = 2 if quick else 10
    for shift in (0.25, 0.5, 1.0):
        found = [_first_told(1000 + seed, 25, shift=shift, weather=WEATHER) for seed in range(streams)]
        case = f"one column + {shift:g} sd"
        for rule in list(RULES)[1:]:
            days = [float(each[rule] or np.inf) for each in found]
            yield Line("drift_alarms", case, "found", float(np.isfinite(days).mean()), "share", rule)
            if np.isfinite(median(days)):
                yield Line("drift_alarms", case, "median delay", median(days), "days", rule)


def _first_told(seed: int, looks: int, *, shift: float = 0.0, weather: float) -> dict[str, int | None]:
    """On which day each rule first told of a column; None: never. The shift is there from the sixth day on."""
    random = np.random.default_rng(seed)
    before = 5 if shift else 0
    reference = profile_of_reference(
        _contract(), pa.concat_tables([_day(random, day, 0.0, weather) for day in range(OWN_DAYS)]), DAY
    )
    watches = {rule: start_watch(reference, settings, "m", seed) for rule, settings in RULES.items()}
    told: dict[str, int | None] = dict.fromkeys(RULES)
    for look in range(before + looks):
        table = _day(random, OWN_DAYS + look, shift if look >= before else 0.0, weather)
        profile = Profile.of(reference.layout, fold_predictions(reference.layout, table))
        window = Window(START + (OWN_DAYS + look) * DAY, START + (OWN_DAYS + look + 1) * DAY)
        for rule, settings in RULES.items():
            watches[rule], messages = watch_window(watches[rule], reference, profile, settings, "m", window)
            is_told = any(message.subject.startswith("drift:") for message in messages)
            if is_told and told[rule] is None:
                told[rule] = look + 1 - before
    return told


@cache
def _contract() -> Contract:
    features = tuple(Column(f"x{place}", ColumnType.DOUBLE) for place in range(COLUMNS - 1))
    made = make_contract(model="m", task=Task.REGRESSION, features=features, label="y", label_type=ColumnType.DOUBLE)
    return replace(made, segments=())


def _day(random: np.random.Generator, day: int, shift: float, weather: float) -> pa.Table:
    values = random.normal(size=(ROWS, COLUMNS)) + weather * random.normal(size=COLUMNS)
    values[:, 0] += shift
    names = [column.stored for column in (*_contract().features, _contract().outputs[0])]
    columns: dict[str, Any] = {name: pa.array(values[:, place]) for place, name in enumerate(names)}
    columns["predicted_at"] = pa.array([START + day * DAY] * ROWS, pa.timestamp("us", "UTC"))
    columns[_contract().label.stored] = pa.nulls(ROWS, pa.float64())
    return pa.table(columns)


if __name__ == "__main__":
    run(benchmark, __doc__)
