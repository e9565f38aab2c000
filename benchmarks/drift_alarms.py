"""What looking at many columns every day costs in false alarms, and how soon a shift is told.

Tables of 20 columns of numbers, a reference of 15 days of 400 rows, then days of 400 rows, profiled and compared
as the product does it. Each day's means differ by 0.05 standard deviations, as weather does. A rule has cried falsely
if it told of any column on a stream that never changes. Delay: days from a shift of one column to the day that tells.

Then tables of few-valued numbers, missing values and text (of 5,000 values, of more and more, unique), in windows
of 300 rows, with a reference of 6,000 rows and one of 1,500, whose checks of data quality count too; and counts of
predictions by day with weekends, for `volume`.
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
from feedback_loop.monitoring import profile_of_reference, volume_notice
from feedback_loop.monitoring.profiles import Profile, fold_predictions
from feedback_loop.schema import Column, ColumnType, Contract, Task, make_contract

COLUMNS, OWN_DAYS, ROWS, WEATHER, DAY = 20, 15, 400, 0.05, timedelta(days=1)
ODD_ROWS = 300
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
    yield from _odd(*((2, 6) if quick else (60, 30)))
    streams, looks = (10, 70) if quick else (400, 365)
    cried = sum(_volume_cries(seed, looks) for seed in range(streams)) / streams
    yield Line(
        "drift_alarms",
        f"{looks} days with weekends, {streams} streams",
        "cried at least once",
        cried,
        "share",
        "volume",
    )


def _odd(streams: int, looks: int) -> Iterator[Line]:
    from joblib import Parallel, delayed

    for days in (20, 5):
        case = f"text and few values, reference of {days * ODD_ROWS:,}, {looks} days, {streams} streams"
        for rule, settings in RULES.items():
            told = Parallel(n_jobs=-1)(delayed(_odd_told)(seed, days, looks, settings) for seed in range(streams))
            cried = sum("drift" in kinds for kinds in told) / streams
            yield Line("drift_alarms", case, "cried at least once", cried, "share", rule)
        failed = sum("quality" in kinds for kinds in told) / streams
        yield Line("drift_alarms", case, "cried at least once", failed, "share", "data quality")


def _odd_told(seed: int, days: int, looks: int, settings: DriftSettings) -> set[str]:
    """Of what kinds alarms were on such a stream."""
    random = np.random.default_rng(seed)
    history = pa.concat_tables([_odd_day(random, day) for day in range(days)])
    reference = profile_of_reference(_odd_contract(), history, DAY)
    watch, told = start_watch(reference, settings, "m", seed), set()
    for look in range(days, days + looks):
        profile = Profile.of(reference.layout, fold_predictions(reference.layout, _odd_day(random, look)))
        window = Window(START + look * DAY, START + (look + 1) * DAY)
        watch, messages = watch_window(watch, reference, profile, settings, "m", window)
        told |= {message.subject.partition(":")[0] for message in messages}
    return told


@cache
def _odd_contract() -> Contract:
    numbers = tuple(Column(name, ColumnType.DOUBLE) for name in ("few", "flag", "sparse"))
    texts = tuple(Column(name, ColumnType.STRING) for name in ("plan", "hundred", "article", "growing", "note"))
    features = (*numbers, *texts)
    made = make_contract(model="m", task=Task.REGRESSION, features=features, label="y", label_type=ColumnType.DOUBLE)
    return replace(made, segments=())


def _odd_day(random: np.random.Generator, day: int) -> pa.Table:
    rows = ODD_ROWS
    columns: dict[str, Any] = {
        "few": random.choice([1.0, 2.0, 5.0], rows, p=[0.6, 0.3, 0.1]),
        "flag": (random.random(rows) < 0.02).astype(np.float64),
        "sparse": np.where(random.random(rows) < 0.05, np.nan, np.maximum(random.normal(size=rows), 0.5)),
        "plan": random.choice(["basic", "plus", "pro"], rows, p=[0.9, 0.09, 0.01]),
        "hundred": random.integers(0, 100, rows).astype(str),
        "article": random.integers(0, 5000, rows).astype(str),
        "growing": random.zipf(1.5, rows).astype(str),
        "note": random.bytes(8 * rows).hex(" ", 8).split(),
        _odd_contract().outputs[0].stored: random.normal(size=rows),
    }
    table = {name: pa.array(values) for name, values in columns.items()}
    table["predicted_at"] = pa.array([START + day * DAY] * rows, pa.timestamp("us", "UTC"))
    table[_odd_contract().label.stored] = pa.nulls(rows, pa.float64())
    return pa.table(table)


def _volume_cries(seed: int, looks: int) -> bool:
    random, counts = np.random.default_rng(seed), {}
    for day in range(looks):
        rate = 400 * (0.15 if day % 7 == 6 else 0.2 if day % 7 == 5 else 1.0) * random.lognormal(sigma=0.15)
        counts[START + day * DAY] = int(random.poisson(rate))
    return any(volume_notice(counts, DAY, START + look * DAY) is not None for look in range(1, looks + 1))


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
