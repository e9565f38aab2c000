"""What a backtest costs: a year of daily looks played again under other policies, beside reading its log once.

The log (SQLite) has a million labelled predictions of 365 days. "Reading" is every day's cohort through the reader
that looks use, once; a backtest reads, and judges each day under every policy.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.lines import Line, median, run
from feedback_loop.clock import ManualClock, Window, windows_between
from feedback_loop.config_policy import PolicySettings
from feedback_loop.decisions.backtest import SharedReader
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import fold_news
from feedback_loop.registry import Origin
from feedback_loop.schema import Contract, prediction_id
from feedback_loop.store.joins import join_new
from feedback_loop.store.predictions import PredictionLog, prediction_schema

START, DAY, REFERENCE = datetime(2025, 1, 1, tzinfo=UTC), timedelta(days=1), 10_000
READING = "reading the log once"

CONFIG = """
[store]
url = "sqlite:///store.db"
[registry]
tracking_uri = "sqlite:///mlflow.db"
[models.orders]
task = "binary"
label = "late"
key = ["order_id"]
key_types = { order_id = "long" }
maturity = "1d"
[models.orders.policy]
refresh = "never"
"""


def benchmark(quick: bool) -> Iterator[Line]:
    """Seconds of the reading, and of backtests of two and of eight policies."""
    rows, days = (40_000, 30) if quick else (1_000_000, 365)
    with tempfile.TemporaryDirectory() as name:
        loop = _made(Path(name), rows, days)
        case = f"{rows:,} rows, {days} days"
        runs = range(1 if quick else 3)
        spent = median([_seconds(lambda: _read(loop, days))[0] for _ in runs])
        yield Line("backtest", case, "time", spent, "s", READING)
        for policies in ((PolicySettings(rule="harm", refresh="never"),), ()):
            timed = [_seconds(partial(loop.backtest, "orders", policies, every=DAY)) for _ in runs]
            took, played = median([seconds for seconds, _ in timed]), timed[0][1]
            subject = f"{len(played.played)} policies, {len(played.looks)} looks"
            yield Line("backtest", case, "time", took, "s", subject, READING, took / spent)
        loop.close()


def _made(folder: Path, rows: int, days: int) -> FeedbackLoop:
    """A loop whose champion has answered so many rows within so many days, all with their outcomes."""
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    (folder / "feedback_loop.toml").write_text(CONFIG)
    clock = ManualClock(START)
    loop = FeedbackLoop.open(folder / "feedback_loop.toml", clock=clock)
    known = _columns(np.random.default_rng(0), REFERENCE)
    features = pd.DataFrame({"size": known["size"], "weight": known["weight"]})
    model = LogisticRegression().fit(features, known["late"])
    reference = features.assign(
        late=known["late"],
        prediction=model.predict(features),
        probability=model.predict_proba(features)[:, 1],
        predicted_at=pd.date_range(START - 30 * DAY, START - DAY, REFERENCE).as_unit("us"),
    )
    table = pa.Table.from_pandas(reference, preserve_index=False)
    origin = Origin("benchmarks", REFERENCE, START - 31 * DAY, table, {}, {})
    version = loop.registry.register("orders", model, origin, START, example=features.head(3))
    loop.promote("orders", version.version)
    contract = loop.scorer(loop.champion("orders")).logged
    with loop.progress.track("fill the log", days) as advance:
        for day in range(days):
            _day(loop, contract, model, clock, day, rows // days)
            advance(1)
    clock.set(START + (days + 3) * DAY)
    return loop


def _day(loop: FeedbackLoop, contract: Contract, model: Any, clock: ManualClock, day: int, count: int) -> None:
    """A day's predictions and outcomes, joined and folded as they come."""
    import pandas as pd

    drawn = _columns(np.random.default_rng(day + 1), count)
    features = pd.DataFrame({"size": drawn["size"], "weight": drawn["weight"]})
    moments = [START + day * DAY + row * (DAY / count) for row in range(count)]
    bits = random.Random(day).getrandbits  # noqa: S311 (ids of a benchmark)
    order = np.arange(day * count, (day + 1) * count)
    values: dict[str, Any] = {
        **drawn,
        "order_id": order,
        "prediction": model.predict(features),
        "probability": model.predict_proba(features)[:, 1],
        "prediction_id": [prediction_id(moment, bits) for moment in moments],
        "predicted_at": moments,
        "model_version": ["1"] * count,
        "role": ["champion"] * count,
        "source": ["online"] * count,
        "sample_weight": np.ones(count),
    }
    schema = prediction_schema(contract)
    table = pa.table({name: values.get(name, pa.nulls(count)) for name in schema.names}).cast(schema)
    clock.set(START + (day + 1) * DAY)
    PredictionLog(loop.store).append(contract, table, clock())
    loop.record_outcomes("orders", {"order_id": order, "late": drawn["late"]})
    join_new(loop.store, contract, DAY, clock(), fold_news)


def _columns(drawn: np.random.Generator, count: int) -> dict[str, Any]:
    size, weight = drawn.normal(size=count), drawn.normal(size=count)
    late = drawn.random(count) < 1 / (1 + np.exp(2 - size - 0.5 * weight))
    return {"size": size, "weight": weight, "late": late}


def _read(loop: FeedbackLoop, days: int) -> None:
    contract = loop.scorer(loop.champion("orders")).logged
    reader = SharedReader(loop.store, contract, "1")
    for window in windows_between(START, START + days * DAY, DAY):
        reader.cohort(Window(window.start, window.end), loop.clock())


def _seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long it took, and what it gave."""
    began = time.perf_counter()
    given = work()
    return time.perf_counter() - began, given


if __name__ == "__main__":
    run(benchmark, __doc__)
