"""What a label costs each monitor: of errors, of numbers, by strata, by units of windows, and of harm.

A stream in windows of 500 or 5,000 labels is taken in window by window, as a look does that finds one matured. What a
look costs besides, the state stored as JSON and read again, stands on lines of its own.
Times are of the processor: one thread works, and what else the machine does is not its cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import msgspec
import numpy as np

from benchmarks.lines import Line, median, run
from feedback_loop.decisions.monitors import Method, Monitor, start_monitor
from feedback_loop.decisions.monitors.window_means import Units
from feedback_loop.monitoring import Floats

REFERENCE, ROUNDS = 5000, 5
MONITORS: tuple[tuple[str, Method, str, Units], ...] = (
    ("D, 10% errors", "change", "error", Units()),
    ("D, 10% errors, 7 strata", "change", "error", Units(strata=7)),
    ("D, 30% errors", "change", "error", Units()),
    ("D, Brier", "change", "brier", Units()),
    ("D, Brier, 7 strata", "change", "brier", Units(strata=7)),
    ("D, t-units of 7 windows", "change", "brier", Units("unit", windows=7)),
    ("B, 10% errors", "harm", "error", Units()),
    ("B, Brier", "harm", "brier", Units()),
)


def benchmark(quick: bool) -> Iterator[Line]:
    """Microseconds a label, milliseconds a state, and its size."""
    labels = 50_000 if quick else 200_000
    random = np.random.default_rng(0)
    for subject, method, loss, units in MONITORS:
        losses = random.beta(1, 9, REFERENCE + labels)
        if loss == "error":
            losses = (losses > np.quantile(losses, 0.7 if "30%" in subject else 0.9)).astype(float)
        windows = np.arange(REFERENCE) // 500
        monitor = start_monitor(method, loss, losses[:REFERENCE], windows, units, alpha=0.05, seed=0)
        for size in (500, 5000):
            taken = _seconds(partial(_stream, monitor, losses[REFERENCE:], size))
            yield Line("monitors", f"windows of {size:,}", "time", taken / labels * 1e6, "us a label", subject)
        state = _stream(monitor, losses[REFERENCE:], 500)
        yield Line(
            "monitors", "stored and read", "time", _seconds(partial(_through_json, state)) * 1e3, "ms", subject
        )
        yield Line("monitors", "stored", "size", len(msgspec.json.encode(state)) / 1000, "kB", subject)


def _stream(monitor: Monitor, losses: Floats, size: int) -> Monitor:
    for place, start in enumerate(range(0, len(losses), size)):
        monitor = monitor.update(losses[start : start + size], place)
    return monitor


def _through_json(monitor: Monitor) -> Monitor:
    restored: Monitor = msgspec.json.decode(msgspec.json.encode(monitor), type=Monitor)
    return restored


def _seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return median(taken)


if __name__ == "__main__":
    run(benchmark, __doc__)
