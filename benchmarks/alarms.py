"""What a look a day costs in false alarms: rules with an error rate per look beside the monitor of change.

Streams of 0/1 losses with an error rate of 10%, a reference of 5,000 labels, 200 looks of 500 labels each. A rule
has cried falsely if it cried once on a stream that never changes. Delay: labels from a rise of the error rate by five
points to the alarm.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.lines import Line, median, run
from feedback_loop.decisions.change import start_error_monitor

RATE, REFERENCE, LOOKS, LABELS, RISE = 0.10, 5000, 200, 500, 0.05
OURS = "the monitor of change, alpha .05"
RULES = ("10% above the reference", "z-test at .05 per look", OURS)


def benchmark(quick: bool) -> Iterator[Line]:
    """Shares of streams, and the median delay in labels."""
    streams = 20 if quick else 200
    case = f"{streams} streams that never change"
    first = [_first_alarms(seed, 0.0, LOOKS) for seed in range(streams)]
    shares = {rule: sum(alarms[rule] is not None for alarms in first) / streams for rule in RULES}
    for rule in RULES:
        yield Line("alarms", case, "cried at least once", shares[rule], "share", rule)
    case = f"{streams} streams, +5 points"
    found = [_first_alarms(10_000 + seed, RISE, 40)[OURS] for seed in range(streams)]
    yield Line("alarms", case, "found", sum(each is not None for each in found) / streams, "share", OURS)
    delays = [float(each * LABELS) for each in found if each is not None]
    yield Line("alarms", case, "median delay", median(delays), "labels", OURS)


def _first_alarms(seed: int, rise: float, looks: int) -> dict[str, int | None]:
    """After which look each rule first cried; None: never. The rise is there from the first look."""
    random = np.random.default_rng(seed)
    reference = (random.random(REFERENCE) < RATE).astype(float)
    mean, monitor = float(reference.mean()), start_error_monitor(reference, alpha=0.05, seed=seed)
    alarms: dict[str, int | None] = dict.fromkeys(RULES)
    for look in range(1, looks + 1):
        losses = (random.random(LABELS) < RATE + rise).astype(float)
        current = float(losses.mean())
        monitor = monitor.update(losses)
        error = np.sqrt(mean * (1 - mean) * (1 / LABELS + 1 / REFERENCE))
        cries = (current > 1.1 * mean, current > mean + 1.645 * error, monitor.alarmed_at is not None)
        for rule, crying in zip(RULES, cries, strict=True):
            if crying and alarms[rule] is None:
                alarms[rule] = look
    return alarms


if __name__ == "__main__":
    run(benchmark, __doc__)
