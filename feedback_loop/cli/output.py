"""How commands print and fail: a result for people or for programs, tables, errors, logs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, TextIO

from feedback_loop.errors import BadInput, FeedbackLoopError
from feedback_loop.plain import plain
from feedback_loop.safe_text import all_as_text, as_text, without_secrets
from feedback_loop.tracing import trace_id

ESTIMATES_SHOWN = 3
"""The rest of them is in `--json`."""


def emit(value: Any, *, as_json: bool, words: Callable[[Any], str]) -> None:
    """Prints a result: as one JSON value, or as `words` makes of its plain values, made fit to be shown first."""
    if as_json:
        print(json.dumps(plain(value), allow_nan=False))
    else:
        say(words(all_as_text(plain(value))))


def say(text: str, *, to: TextIO | None = None) -> None:
    """Prints lines for people; whatever is in them, the terminal is sent nothing but text."""
    print(as_text(text, keep="\n"), file=to or sys.stdout)


def fail(error: FeedbackLoopError, *, as_json: bool) -> int:
    """Prints an error, cause and cure, and returns the exit code."""
    if as_json:
        problem: dict[str, Any] = {"error": error.cause, "cure": error.cure}
        if isinstance(error, BadInput):
            problem["problems"] = [vars(row_error) for row_error in error.problems]
        print(json.dumps(problem))
    else:
        say(f"feedback-loop: {as_text(str(error))}", to=sys.stderr)
    return 1


def table(rows: Sequence[Mapping[str, Any]], empty: str) -> str:
    """Rows as a plain table with the first row's keys as its head; `empty` where there are none."""
    if not rows:
        return empty
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False)
    for name in rows[0]:
        drawn.add_column(Text(as_text(name)), overflow="fold")
    for row in rows:
        drawn.add_row(*(Text("" if value is None else as_text(str(value))) for value in row.values()))
    text = StringIO()
    Console(file=text, width=_width(), color_system=None, force_terminal=False).print(drawn)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def span(window: Sequence[str]) -> str:
    """A window in words."""
    return " – ".join(window)


def share(value: float | None, digits: int = 1) -> str:
    """A share in percent; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}%}"


def estimate_words(estimates: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first estimates (with what was `realised`, and `past` error), a line each; none where there are none."""
    lines = []
    for estimate in sorted(estimates, key=lambda estimate: str(estimate["metric"]))[:ESTIMATES_SHOWN]:
        if estimate["metric"] == "insufficient_data":
            return [f"no estimates yet: {estimate['value']:.0f} rows more are needed"]
        past, error = estimate["past"], estimate["standard_error"]
        remarks = [f"realised {estimate['realised']:.4g}"] if estimate["realised"] is not None else []
        if past is not None:
            plural = "s" if past["windows"] > 1 else ""
            remarks.append(f"past error {past['error']:.2g} over {past['windows']} window{plural}")
        chance = f" ± {error:.2g}" if error is not None else ""
        remark = f" ({'; '.join(remarks)})" if remarks else ""
        lines.append(f"estimated {estimate['metric']} {estimate['value']:.4g}{chance}{remark}")
    return lines


def configure_logging(stream: TextIO | None = None) -> None:
    """Structured logs go to standard error (or that stream): words for a terminal, JSON lines for a collector."""
    import structlog

    stream = stream or sys.stderr
    structlog.configure(
        processors=[structlog.processors.add_log_level, *_processors(stream)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # Each line in one write, its end included: several workers write to the same place.
        logger_factory=structlog.WriteLoggerFactory(stream),
    )


def take_library_logs(stream: TextIO | None = None) -> logging.Handler:
    """Warnings and errors that libraries log are lines like our own, in a process that stays; returns the handler."""
    import structlog

    stream = stream or sys.stderr
    own = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_processors(stream)]
    named: list[Any] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=own, foreign_pre_chain=named))
    logging.getLogger().addHandler(handler)
    return handler


def _processors(stream: TextIO) -> list[Any]:
    """What makes a line of an event."""
    import structlog

    renderer: Any = structlog.processors.JSONRenderer()  # which writes out all that is not ASCII
    processors: list[Any] = [_without_secrets]
    if stream.isatty():
        renderer, processors = structlog.dev.ConsoleRenderer(), [_without_secrets, _as_text]
    stamped = structlog.processors.TimeStamper(fmt="iso", utc=True)
    return [_with_trace, stamped, structlog.processors.format_exc_info, *processors, renderer]


def _with_trace(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Lines that are written within a trace name it."""
    trace = trace_id()
    return event if trace is None else {**event, "trace_id": trace}


def _without_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A log's texts, a traceback too, may quote a URL."""
    return {name: without_secrets(value) if isinstance(value, str) else value for name, value in event.items()}


def _as_text(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A log's values as text: many come from callers. A traceback keeps its lines."""
    traceback = event.pop("exception", None)
    shown = {
        as_text(name): value if isinstance(value, int | float | None) else as_text(str(value))
        for name, value in event.items()
    }
    return shown if traceback is None else {**shown, "exception": as_text(str(traceback), keep="\n")}


_UNFOLDED = 1000


def _width() -> int:
    """A terminal's columns; what goes into a file or another program is not folded."""
    import os
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else _UNFOLDED
