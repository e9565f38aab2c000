"""What every benchmark prints: one line per figure, the same with `--json` and for people."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Line:
    """One figure: of whom (`subject`), and against whom (`baseline`) it is `ratio` times as much."""

    benchmark: str
    case: str
    metric: str
    value: float
    unit: str
    subject: str
    baseline: str | None = None
    ratio: float | None = None


Benchmark = Callable[[bool], Iterator[Line]]
"""Gives its lines as they come; the argument says whether it is to be quick (within 60 s)."""


def run(benchmark: Benchmark, description: str | None) -> None:
    """The command line of one benchmark."""
    options = command_line(description).parse_args()
    show(benchmark(options.quick), as_json=options.json)


def command_line(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have; one may add its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--quick", action="store_true", help="the same lines within 60 s, from smaller work")
    return parser


def show(lines: Iterable[Line], *, as_json: bool) -> None:
    """Prints lines as they come."""
    for line in lines:
        plain = {name: value for name, value in asdict(line).items() if value is not None}
        print(json.dumps(plain) if as_json else words(line), flush=True)


def words(line: Line) -> str:
    """A line for people."""
    against = f"  {line.ratio:.3g} x {line.baseline}" if line.ratio is not None else ""
    return f"{line.case:32} {line.metric:22} {figure(line.value):>12} {line.unit:10} {line.subject}{against}"


def wide(lines: Iterable[Line]) -> list[str]:
    """A table in Markdown with a row for each case and subject, and a column for each metric."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for line in lines:
        against = f" to {line.baseline}" if line.baseline else ""
        rows.setdefault((line.case, line.subject), {})[line.metric] = figure(line.value) + against
    metrics = list(dict.fromkeys(metric for values in rows.values() for metric in values))
    head = [f"| case | who | {' | '.join(metrics)} |", f"|---|---|{'---:|' * len(metrics)}"]
    cells = {key: [values.get(metric, "") for metric in metrics] for key, values in rows.items()}
    return [*head, *(f"| {case} | {who} | {' | '.join(values)} |" for (case, who), values in cells.items())]


def figure(value: float) -> str:
    """A value to four significant digits, whole numbers in full."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 10_000 else f"{value:.4g}"


def median(values: Sequence[float]) -> float:
    """The middle one: noise on a shared machine is ±50%, and never to the good."""
    return float(statistics.median(values))
