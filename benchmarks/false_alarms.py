"""On how many streams that never change a rule cries at least once: ours, and those of others.

200 looks of 500 labels after a reference (5,000 labels, more where days differ), and 2,000 looks. Exchangeable
streams, to which the methods are told nothing; then streams with seasons, days of their own and late bad outcomes, on
which D goes label by label, and all of ours by what `policy suggest` says. A share is of streams with any alarm.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from benchmarks import streams
from benchmarks.lines import Line, command_line, show
from benchmarks.peers.rules import Method, start_method
from benchmarks.streams import ADWIN, DEPENDENT, UNCHANGED, Stream
from feedback_loop.clock import parse_duration
from feedback_loop.decisions.monitors.window_means import Units
from feedback_loop.decisions.suggest import suggest_maturity, suggest_tolerance, suggest_units
from feedback_loop.monitoring import Floats

ALPHA, LOOKS, LONG, CALL = 0.05, 200, 2000, 10
"""CALL looks are given to a monitor at once: how labels are grouped makes no difference to it, but for its speed."""

METHODS: dict[str, Method] = {"D": "change", "A": "harm_a", "B": "harm"}

Alarms = dict[str, int | None]
Play = Callable[[int], Alarms]
"""In which look each subject first cries on the stream of this seed."""


def benchmark(quick: bool, only: str = "", many: int = 1000, few: int = 100) -> Iterator[Line]:
    """Shares of streams, with how many there were; `many` short ones, `few` long ones and for slow detectors."""
    many, few, looks, long = (16, 4, 40, 80) if quick else (many, few, LOOKS, LONG)
    parts = [
        *(_exchangeable(stream, looks, many, few) for stream in UNCHANGED),
        *(_exchangeable(stream, long, few, few) for stream in (UNCHANGED[2], UNCHANGED[5])),
        *((stream.name, partial(_dependent, stream, looks), many) for stream in DEPENDENT),
        ("late bad outcomes", partial(_late, looks), many),
    ]
    for case, play, count in chain.from_iterable(part if isinstance(part, list) else [part] for part in parts):
        if re.search(only, case):
            yield from _shares(f"{case}, {count:,} streams", play, count)


def _exchangeable(stream: Stream, looks: int, many: int, few: int) -> list[tuple[str, Play, int]]:
    case = f"{stream.name}, {looks * streams.LOOK:,} labels"
    slow = ["PageHinkley", *(["DDM", "EDDM"] if stream.loss == "error" else [])]
    parts: list[tuple[str, Play, int]] = [
        (case, partial(_ours_and_rules, stream, looks), many),
        (case, partial(_river, stream, looks, slow), few),
    ]
    if stream is UNCHANGED[2] and looks <= LOOKS:
        parts.append((case, partial(_river, stream, looks, ["KSWIN"]), max(few // 10, 1)))
    return parts


def _shares(case: str, play: Play, count: int) -> Iterator[Line]:
    from joblib import Parallel, delayed

    cried: Counter[str] = Counter()
    for alarms in Parallel(n_jobs=-1, return_as="generator_unordered", batch_size=4)(
        delayed(play)(seed) for seed in range(count)
    ):
        cried.update({name: int(look is not None) for name, look in alarms.items()})
    for name, times in cried.items():
        yield Line("false_alarms", case, "cried at least once", times / count, "share", name)


def monitor_alarm(
    method: Method,
    stream: Stream,
    looks: Sequence[Floats],
    units: Units,
    *,
    seed: int,
    tolerance: float = 0.0,
    alpha: float = ALPHA,
) -> int | None:
    """In which look of the stream a monitor of ours first alarms."""
    known, after = looks[: stream.reference], looks[stream.reference :]
    monitor = start_method(
        method,
        stream.loss,
        np.concatenate(known),
        streams.numbered(known),
        units,
        alpha=alpha,
        seed=seed,
        tolerance=tolerance,
    )
    # Where places in a cycle or ends of windows mean nothing, looks are as good as one long one.
    call = CALL if units == Units("label") or method != "change" else 1
    for start in range(0, len(after), call):
        place = streams.FIRST + stream.reference + start
        monitor = monitor.update(np.concatenate(after[start : start + call]), place)
        if monitor.alarmed_at is not None:
            break
    return streams.told(monitor.alarmed_at, after)


def _ours_and_rules(stream: Stream, looks: int, seed: int) -> Alarms:
    made = streams.cut(stream.make(np.random.default_rng(seed), stream.reference + looks))
    ours = {
        f"{name}, label by label": monitor_alarm(method, stream, made, Units("label"), seed=seed)
        for name, method in METHODS.items()
    }
    rules = streams.window_rules(made, stream.reference)
    return {**ours, **rules, ADWIN: streams.adwin(made, stream.reference)}


def _river(stream: Stream, looks: int, names: Sequence[str], seed: int) -> Alarms:
    made = streams.cut(stream.make(np.random.default_rng(seed), stream.reference + looks))
    return streams.river_detectors(made, stream.reference, names)


def _dependent(stream: Stream, looks: int, seed: int) -> Alarms:
    made = streams.cut(stream.make(np.random.default_rng(seed), stream.reference + looks))
    return {**_unaware(stream, made, seed), **_suggested(stream, made, seed)}


def _unaware(stream: Stream, made: Sequence[Floats], seed: int) -> Alarms:
    found = {"D, label by label": monitor_alarm("change", stream, made, Units("label"), seed=seed)}
    return {**found, **streams.window_rules(made, stream.reference), ADWIN: streams.adwin(made, stream.reference)}


def _suggested(stream: Stream, made: Sequence[Floats], seed: int) -> Alarms:
    known = np.concatenate(made[: stream.reference]), streams.numbered(made[: stream.reference])
    units, tolerance = suggest_units(*known), suggest_tolerance(*known)
    return {
        f"{name}, as suggested": monitor_alarm(method, stream, made, units, seed=seed, tolerance=tolerance)
        for name, method in METHODS.items()
    }


def _late(looks: int, seed: int) -> Alarms:
    """Outcomes of errors come ten times as late: as they arrive, and when they have matured as suggested."""
    random, history, stream = np.random.default_rng(seed), 120, Stream("late", streams.errors)
    wrong = streams.errors(random, history + looks)
    waits = streams.delays(random, wrong)
    arrived = streams.as_arrived(wrong, waits)[: stream.reference + looks]
    ages = np.repeat(np.arange(history)[::-1], streams.LOOK).astype(np.float64)
    unseen = waits[:history].ravel() > ages
    seen = [np.where(unseen, np.nan, values[:history].ravel()) for values in (waits, wrong)]
    day = 86_400.0
    suggestion = suggest_maturity(ages * day, seen[0] * day, seen[1])
    maturity = int(np.ceil(parse_duration(str(suggestion.value)).total_seconds() / day))
    whole = streams.matured(wrong, waits, maturity, stream.reference)[: stream.reference + looks]
    as_they_come = {f"{name}, as they come": look for name, look in _unaware(stream, arrived, seed).items()}
    return {**as_they_come, **_suggested(stream, whole, seed)}


def main() -> None:
    """The command line."""
    parser: Any = command_line(__doc__)
    parser.add_argument("--only", default="", help="a pattern of the cases' names")
    parser.add_argument("--streams", type=int, default=1000, help="of 100,000 labels, a case")
    parser.add_argument("--long", type=int, default=100, help="streams of 1M labels, and of river's other detectors")
    options = parser.parse_args()
    lines = benchmark(options.quick, options.only, options.streams, options.long)
    show(lines, as_json=options.json)


if __name__ == "__main__":
    main()
