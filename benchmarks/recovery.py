"""How often an incident is closed while the model is still bad, and how long one stays open that is over.

A reference of 5,000 labels in windows of 500, then 100 windows after an alarm. Their mean loss stands at the limit
that counts as recovered, or half above the reference's: each closing is a wrong one. Or it is back at the mean of the
reference, or at 90% of it: labels until it is closed. Beside our test, what people do by hand: it is over after one
window, or after three running, that are no worse than the reference's mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.lines import Line, command_line, show
from benchmarks.streams import LOOK, Random, first
from feedback_loop.decisions.recovery import Level, reference_level, start_recovery
from feedback_loop.monitoring import Floats

ALPHA, REFERENCE, WINDOWS = 0.05, 10, 100

Draw = Callable[[Random, float], Floats]
"""Losses of a window with this mean."""

BETA = 0.2
"""The mean of Beta(2, 8) losses."""


def _errors(random: Random, mean: float) -> Floats:
    return (random.random(LOOK) < mean).astype(np.float64)


def _beta(random: Random, mean: float) -> Floats:
    return np.asarray(np.minimum(random.beta(2, 8, LOOK) * mean / BETA, 1.0))


SOURCES: dict[str, tuple[Draw, float]] = {
    **{f"error rate {rate:g}": (_errors, rate) for rate in (0.02, 0.1, 0.2, 0.3)},
    "Beta losses": (_beta, BETA),
}


def benchmark(quick: bool, streams: int = 1000) -> Iterator[Line]:
    """Shares of incidents that are closed wrongly, and the median patience with those that are over."""
    from joblib import Parallel, delayed

    streams, windows = (16, 40) if quick else (streams, WINDOWS)
    for name, (draw, mean) in SOURCES.items():
        played = Parallel(n_jobs=-1, batch_size=4)(
            delayed(_play)(draw, mean, windows, seed) for seed in range(streams)
        )
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for each in played:
            for place, closed_after in each.items():
                found[place].append(closed_after)
        for (case, subject), closed in found.items():
            yield from _lines(f"{name}, {case}, {streams:,} streams", subject, case, np.asarray(closed))


def _lines(label: str, subject: str, case: str, closed: Floats) -> Iterator[Line]:
    if case in WRONG:
        yield Line("recovery", label, "closed wrongly", float(np.isfinite(closed).mean()), "share", subject)
        return
    yield Line("recovery", label, "still open at the end", float(np.isinf(closed).mean()), "share", subject)
    if np.isfinite(np.median(closed)):
        yield Line("recovery", label, "labels until it is closed", float(np.median(closed)), "labels", subject)


WRONG = ("still at the limit", "still half worse")


def _play(draw: Draw, mean: float, windows: int, seed: int) -> Mapping[tuple[str, str], float]:
    """By case and subject after how many labels the incident is closed; infinite: never."""
    random = np.random.default_rng(seed)
    known = np.concatenate([draw(random, mean) for _ in range(REFERENCE)])
    level = reference_level(known, np.repeat(np.arange(REFERENCE), LOOK))
    means = dict(zip(WRONG, (level.limit(), 1.5 * mean), strict=True)) | {"back": mean, "better": 0.9 * mean}
    found = {}
    for case, now in means.items():
        coming = [draw(random, now) for _ in range(windows)]
        good = np.array([window.mean() for window in coming]) <= level.mean
        three = good & np.roll(good, 1) & np.roll(good, 2)
        three[:2] = False
        subjects = {"ours": partial(_ours, level, coming), "one good window": partial(first, good)}
        subjects["three good windows"] = partial(first, three)
        for subject, closes in subjects.items():
            window = closes()
            found[case, subject] = np.inf if window is None else float(window * LOOK)
    return found


def _ours(level: Level, coming: list[Floats]) -> int | None:
    recovery = start_recovery(level, alpha=ALPHA)
    for number, losses in enumerate(coming, 1):
        recovery = recovery.update([losses])
        if recovery.recovered:
            return number
    return None


def main() -> None:
    """The command line."""
    parser: Any = command_line(__doc__)
    parser.add_argument("--streams", type=int, default=1000, help="of each case")
    options = parser.parse_args()
    show(benchmark(options.quick, options.streams), as_json=options.json)


if __name__ == "__main__":
    main()
