"""What a label costs each monitor: of errors, of numbers, by strata, by units of windows, and of harm.

A stream of windows of 500 or 5,000 labels is taken in window by window, as a look does that finds one matured; the
state goes through JSON after each, as it does between looks, on its own line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.lines import Line, median, run
from feedback_loop.decisions.monitors import Method, Monitor, monitor_from_json, monitor_to_json, start_monitor
from feedback_loop.decisions.units import Units
from feedback_loop.monitoring import Floats

REFERENCE, ROUNDS = 5000, 5
MONITORS: tuple[tuple[str, Method, str, Units], ...] = (
    ("D, errors", "change", "error", Units()),
    ("D, errors, 7 strata", "change", "error", Units(strata=7)),
    ("D, Brier", "change", "brier", Units()),
    ("D, Brier, 7 strata", "change", "brier", Units(strata=7)),
    ("D, t-units of 7 windows", "change", "brier", Units("unit", windows=7)),
    ("A, errors", "harm_a", "error", Units()),
    ("B, errors", "harm_b", "error", Units()),
    ("B, Brier", "harm_b", "brier", Units()),
)


def benchmark(quick: bool) -> Iterator[Line]:
    """Microseconds a label, milliseconds a state, and its size."""
    labels = 50_000 if quick else 200_000
    random = np.random.default_rng(0)
    for subject, method, loss, units in MONITORS:
        losses = random.beta(1, 9, REFERENCE + labels)
        losses = (losses > 0.226).astype(float) if loss == "error" else losses  # an error rate of 10%
        windows = np.arange(REFERENCE) // 500
        monitor = start_monitor(method, loss, losses[:REFERENCE], windows, units, alpha=0.05, seed=0)
        for size in (500, 5000):
            taken = [_seconds(lambda size=size: _stream(monitor, losses[REFERENCE:], size)) for _ in range(ROUNDS)]
            yield Line(
                "monitors", f"windows of {size:,}", "time", median(taken) / labels * 1e6, "us a label", subject
            )
        state = _stream(monitor, losses[REFERENCE:], 500)
        taken = [_seconds(lambda state=state: _through_json(state)) for _ in range(ROUNDS)]
        yield Line("monitors", "stored and read", "time", median(taken) * 1e3, "ms", subject)
        yield Line("monitors", "stored", "size", len(json.dumps(monitor_to_json(state))) / 1000, "kB", subject)


def _stream(monitor: Monitor, losses: Floats, size: int) -> Monitor:
    for place, start in enumerate(range(0, len(losses), size)):
        monitor = monitor.update(losses[start : start + size], place)
    return monitor


def _through_json(monitor: Monitor) -> Monitor:
    return monitor_from_json(json.loads(json.dumps(monitor_to_json(monitor))))


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    run(benchmark, __doc__)
