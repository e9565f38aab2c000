"""Is the loop worth more than any calendar? Real streams, each kept by a boosting and a linear model in every way.

Frozen; fitted again monthly, every 28 days and weekly on recent, 3x recent and all rows; at every look; adapters;
the product's own loop. Then the same streams with their days in random order, where nothing changes, and with
poisoned outcomes: what learning costs there. All of it takes hours; `--only` names what is played.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import structlog

from benchmarks.lines import Line, command_line, show, wide
from benchmarks.yardstick.calendars import frozen
from benchmarks.yardstick.harm import AFTER_DAYS, start_of
from benchmarks.yardstick.measures import Judged, best, figures
from benchmarks.yardstick.models import BOOSTING, LINEAR, pipeline
from benchmarks.yardstick.play import ADAPTERS, CALENDARS, EVERYTHING, QUICK, Strategy, play, poisoned, refreshed
from benchmarks.yardstick.rows import TIME
from benchmarks.yardstick.streams import SHIFT, STREAMS, Stream, shuffled, sparse

if TYPE_CHECKING:
    import pandas as pd

NAME = "closed_loop"

QUICK_DAYS = 60
QUICK_SHARE = 8
"""Quick: so many days of one stream, of which one row in so many."""

PARTS = ("streams", "unchanged", "poisoned", "sparse")

SPARSE_ROWS, SPARSE_SEEDS = (1, 3, 10), 6
"""So many rows a day; and so many simulated streams of each."""


def benchmark(quick: bool, only: str = "", parts: tuple[str, ...] = PARTS) -> Iterator[Line]:
    """Plays the streams whose case (as in the table) has the text `only` in it."""
    from threadpoolctl import threadpool_limits

    streams = (_quick(STREAMS[0]),) if quick else STREAMS
    kinds = (LINEAR,) if quick else (BOOSTING, LINEAR)
    with threadpool_limits(1):  # threads that wait for each other would count as work
        for stream in streams:
            for kind in kinds:
                if only in f"{stream.name}, {kind}":
                    if "streams" in parts:
                        yield from _table(stream, kind, QUICK if quick else EVERYTHING)
                    if "unchanged" in parts:
                        yield from _unchanged(stream, kind)
                    if "poisoned" in parts:
                        yield from _poisoned(stream, kind)
        if "sparse" in parts and not quick:
            yield from _sparse(only)


def _table(stream: Stream, kind: str, strategies: Sequence[Strategy]) -> Iterator[Line]:
    """Every way of keeping the model, beside the calendar that was best in hindsight."""
    frame, settings = stream.read(), stream.settings
    judged = list(play(frame, pipeline(kind, frame, settings), settings, strategies))
    best_calendar = best(judged[1 : 1 + len(CALENDARS)])
    for one in judged:
        yield from _lines(f"{stream.name}, {kind}", one, best_calendar)


def _lines(case: str, judged: Judged, baseline: Judged) -> Iterator[Line]:
    for metric, value, unit in figures(judged, baseline):
        against = baseline.answers.name if metric == "difference" else None
        yield Line(NAME, case, metric, value, unit, judged.answers.name, against)


def _unchanged(stream: Stream, kind: str) -> Iterator[Line]:
    """An adapter beside what it is on, where nothing changes."""
    frame, settings = shuffled(stream.read()), stream.settings
    strategies = (frozen, ADAPTERS[0], refreshed, ADAPTERS[1])
    played = list(play(frame, pipeline(kind, frame, settings), settings, strategies))
    for without, with_adapter in (played[:2], played[2:]):
        yield from _lines(f"{stream.name}, {kind}, days in random order", with_adapter, without)


def _sparse(only: str) -> Iterator[Line]:
    """An adapter beside the frozen model it is on, with few rows a day: the mean over streams, and its error."""
    for rows_a_day in SPARSE_ROWS:
        for shift, what in ((0.0, "nothing changes"), (SHIFT, "the level moves")):
            case = f"{rows_a_day} simulated rows a day, {what}"
            if only not in case:
                continue
            streams = (sparse(rows_a_day, shift, seed) for seed in range(SPARSE_SEEDS))
            gaps = [_gap(stream) for stream in streams]
            yield Line(NAME, case, "difference", float(np.mean(gaps)), "nats", "frozen + adapter", "frozen")
            yield Line(
                NAME, case, "its error", float(np.std(gaps, ddof=1)) / len(gaps) ** 0.5, "nats", "frozen + adapter"
            )


def _gap(stream: Stream) -> float:
    frame, settings = stream.read(), stream.settings
    without, with_adapter = play(frame, pipeline(LINEAR, frame, settings), settings, (frozen, ADAPTERS[0]))
    return with_adapter.value - without.value


def _poisoned(stream: Stream, kind: str) -> Iterator[Line]:
    """What poison costs, over the stream and over the days from its start."""
    frame, settings = stream.read(), stream.settings
    start = np.datetime64(start_of(frame, settings).tz_localize(None))
    for name, judged, clean in poisoned(frame, pipeline(kind, frame, settings), settings):
        case, who = f"{stream.name}, {kind}, {name}", judged.answers.name
        unit = "" if judged.metric == "RMSE" else "nats"
        yield Line(NAME, case, "cost", judged.value - clean.value, unit, who)
        after = judged.within(start, AFTER_DAYS) - clean.within(start, AFTER_DAYS)
        yield Line(NAME, case, f"cost of {AFTER_DAYS} days", after, unit, who)
        if judged.answers.holds is not None:
            yield Line(NAME, case, "holds", judged.answers.holds, "count", who)


def _quick(stream: Stream) -> Stream:
    """Two months of a stream, and of its rows one in some."""
    settings = replace(stream.settings, reference=1000, min_rows=250)
    end = settings.begin + timedelta(days=QUICK_DAYS)

    def read() -> pd.DataFrame:
        frame = stream.read()
        return frame[frame[TIME] < end].iloc[::QUICK_SHARE].reset_index(drop=True)

    return replace(stream, read=read, settings=settings)


def main() -> None:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases that have this in their name")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what is played")
    options = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is the figures'
    lines = benchmark(options.quick, options.only, tuple(options.parts))
    if options.json:
        show(lines, as_json=True)
    else:
        for _, of_case in groupby(lines, key=lambda line: line.case):
            print("\n".join(wide(of_case)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
