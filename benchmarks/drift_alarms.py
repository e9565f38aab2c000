"""What looking at many columns every day costs in false alarms, and how soon a shift is told.

Tables of 20 columns of numbers, a reference of 15 days of 400 rows, then days of 400 rows, profiled and compared
as the product does it. Each day's means differ by 0.05 standard deviations, as weather does. A rule has cried falsely
if it told of any column on a stream that never changes. Delay: days from a shift of one column to the day that tells.

Then tables of few-valued numbers, missing values and text (of 5,000 values, of more and more, unique) in windows of
300 or 100 rows, with references of 6,000 rows and of 1,500, whose checks of data quality count too; where the
reference has whole weeks, weekends are other than days of work. And counts of predictions for `volume`: by hours, by
days with weekends, and by weeks.

A window is profiled and measured once, and all rules judge that: no store is in it, the arithmetic is the product's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

import numpy as np
import pyarrow as pa

from benchmarks.drift_streams import DAY, ODD, START, WEATHER, Odd, contract, day_of, odd_contract, odd_day
from benchmarks.lines import Line, command_line, median, show
from feedback_loop.clock import Window
from feedback_loop.config_policy import DriftSettings
from feedback_loop.decisions.drift import start_watch, watch_values
from feedback_loop.monitoring import drift_values, profile_of_reference, quality_values, volume_notice
from feedback_loop.monitoring.profiles.fold import fold_predictions
from feedback_loop.monitoring.profiles.profile import Profile

OWN_DAYS = 15
"""So many days are in the reference of 20 numbers."""

CONTROLLED = "windows, alpha .05"
RULES = {
    "Evidently's thresholds": DriftSettings(rule="thresholds"),
    "rows, alpha .05": DriftSettings(rule="rows"),
    CONTROLLED: DriftSettings(rule="windows"),
}
QUALITY, VOLUME = "data quality", "volume"

First = dict[str, int | None]
"""In which look each subject first tells something; None: never."""

LENGTHS = {"hours": timedelta(hours=1), "days": DAY, "weeks": timedelta(days=7)}


def benchmark(quick: bool, only: str = "", streams: int = 400) -> Iterator[Line]:
    """Shares of streams with any alarm, and the median delay in days."""
    many, wide, looks = (4, 2, 12) if quick else (streams, max(streams // 4, 1), 30)
    cases: list[tuple[str, Callable[[int], First], int]] = [
        ("counts by hours, 60 days", partial(_volume_told, "hours", 60), many),
        ("counts by days, 365 days", partial(_volume_told, "days", 365), many),
        ("counts by weeks, 730 days", partial(_volume_told, "weeks", 730), many),
        *((f"{odd.name}, {looks} days", partial(_odd_told, odd, looks), many) for odd in ODD),
        *(
            (f"20 numbers, weather {weather:g}, {looks} days", partial(_first_told, looks, weather, 0.0), wide)
            for weather in (0.0, WEATHER)
        ),
    ]
    for case, play, count in cases:
        if re.search(only, case):
            yield from _shares(f"{case}, {count} streams", play, count)
    for shift in (0.25, 0.5, 1.0):
        case = f"one column + {shift:g} sd"
        if re.search(only, case):
            yield from _delays(case, partial(_first_told, 25, WEATHER, shift), 2 if quick else 20)


def _played(play: Callable[[int], First], seeds: range) -> Iterator[First]:
    from joblib import Parallel, delayed

    yield from Parallel(n_jobs=-1, return_as="generator_unordered")(delayed(play)(seed) for seed in seeds)


def _shares(case: str, play: Callable[[int], First], count: int) -> Iterator[Line]:
    cried: Counter[str] = Counter()
    for first in _played(play, range(count)):
        cried.update({name: int(look is not None) for name, look in first.items()})
    for name, times in cried.items():
        yield Line("drift_alarms", case, "cried at least once", times / count, "share", name)


def _delays(case: str, play: Callable[[int], First], count: int) -> Iterator[Line]:
    told = list(_played(play, range(1000, 1000 + count)))
    for rule in list(RULES)[1:]:
        days = [float(first[rule] or np.inf) for first in told]
        yield Line("drift_alarms", case, "found", float(np.isfinite(days).mean()), "share", rule)
        if np.isfinite(median(days)):
            yield Line("drift_alarms", case, "median delay", median(days), "days", rule)


def first_told(reference: Profile, tables: Iterator[pa.Table], begins: int, seed: int) -> First:
    """In which of these days, the first of that number, each rule first tells of a column, and quality of a check."""
    watches = {rule: start_watch(reference, settings, "m", seed) for rule, settings in RULES.items()}
    told: First = dict.fromkeys((*RULES, QUALITY))
    for look, table in enumerate(tables, 1):
        profile = Profile.of(reference.layout, fold_predictions(reference.layout, table))
        values, checks = drift_values(reference, profile), quality_values(reference, profile)
        window = Window(START + (begins + look - 1) * DAY, START + (begins + look) * DAY)
        for rule, settings in RULES.items():
            watches[rule], messages = watch_values(
                watches[rule], reference, profile, values, checks, settings, "m", window
            )
            for message in messages:
                subject = rule if message.subject.startswith("drift:") else QUALITY
                told[subject] = told[subject] or look
    return told


def _odd_told(odd: Odd, looks: int, seed: int) -> First:
    random = np.random.default_rng(seed)
    history = pa.concat_tables([odd_day(random, odd, day) for day in range(odd.days)])
    reference = profile_of_reference(odd_contract(), history, DAY)
    days = (odd_day(random, odd, day) for day in range(odd.days, odd.days + looks))
    return first_told(reference, days, odd.days, seed)


def _volume_told(kind: str, days: int, seed: int) -> First:
    """By hours there are nights, by hours and days weekends; each window's rate is its own."""
    random, counts, length = np.random.default_rng(seed), {}, LENGTHS[kind]
    looks = timedelta(days=days) // length
    for look in range(looks):
        opens = START + look * length
        week = (0.2, 0.15)[opens.weekday() - 5] if opens.weekday() >= 5 and kind != "weeks" else 1.0
        night = 0.1 if kind == "hours" and opens.hour < 6 else 1.0
        counts[opens] = int(random.poisson(400 * week * night * random.lognormal(sigma=0.15)))
    for look in range(1, looks + 1):
        if volume_notice(counts, length, START + look * length) is not None:
            return {VOLUME: look}
    return {VOLUME: None}


def _first_told(looks: int, weather: float, shift: float, seed: int) -> First:
    """On which day each tells of a column; with a shift from the sixth day on: how many days after it."""
    random, before = np.random.default_rng(seed), 5 if shift else 0
    days = [day_of(random, day, 0.0, weather) for day in range(OWN_DAYS)]
    reference = profile_of_reference(contract(), pa.concat_tables(days), DAY)
    later = (day_of(random, OWN_DAYS + d, shift if d >= before else 0.0, weather) for d in range(before + looks))
    first = first_told(reference, later, OWN_DAYS, seed)
    return {name: look - before if look is not None else None for name, look in first.items()}


def main() -> None:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--only", default="", help="a pattern of the cases' names")
    parser.add_argument("--streams", type=int, default=400, help="a case; a quarter of them for 20 numbers")
    options = parser.parse_args()
    show(benchmark(options.quick, options.only, options.streams), as_json=options.json)


if __name__ == "__main__":
    main()
