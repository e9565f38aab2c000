"""Does the loop pay? The demo's year of flights: the loop beside a frozen version and beside a calendar.

Log loss and Brier of all labelled flights, with the retrainings each took. Seeds differ in the model's own
randomness, in the monitor's, and in the order of rows; the flights are the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.lines import Line, median, run


def benchmark(quick: bool) -> Iterator[Line]:
    """Plays the demo once per seed; medians over seeds, and the worst."""
    seeds = (0,) if quick else (0, 1, 2)
    case = "2 months, a quarter of flights" if quick else "11 months, all flights"
    played = [_play(seed, ["--fast", "--months", "2"] if quick else ["--months", "11"]) for seed in seeds]
    tables = [{row["strategy"]: row for row in result["strategies"]} for result in played]
    frozen = "frozen first version"
    for strategy in tables[0]:
        for metric, unit in (("log_loss", "nats"), ("brier", "1"), ("retrainings", "count"), ("promotions", "count")):
            value = median([float(table[strategy][metric]) for table in tables])
            if metric in ("log_loss", "brier") and strategy != frozen:
                ratio = median([table[strategy][metric] / table[frozen][metric] for table in tables])
                yield Line("loop", case, metric, value, unit, strategy, frozen, ratio)
            else:
                yield Line("loop", case, metric, value, unit, strategy)
    ratios = [table["the loop"]["log_loss"] / table[frozen]["log_loss"] for table in tables]
    yield Line("loop", case, "log_loss, best seed", min(ratios), "x", "the loop", frozen, min(ratios))
    yield Line("loop", case, "log_loss, worst seed", max(ratios), "x", "the loop", frozen, max(ratios))
    for name in ("flights", "answered", "logged", "answered_over_http", "incidents", "reports"):
        yield Line("loop", case, name, median([float(result[name]) for result in played]), "count", "the loop")
    yield Line("loop", case, "coverage", median([result["coverage"] for result in played]), "share", "the loop")


def _play(seed: int, options: list[str]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "feedback_loop", "demo", "--json", "--seed", str(seed), *options]
        done = subprocess.run(
            [*command, "--folder", str(Path(folder) / "demo")], check=True, stdout=subprocess.PIPE, text=True
        )
    return json.loads(done.stdout)


if __name__ == "__main__":
    run(benchmark, __doc__)
