"""What commands have in common: their options, how they open the loop, how they print and how they fail."""

from __future__ import annotations

import inspect
import json
import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from feedback_loop.clock import format_moment
from feedback_loop.errors import BadInput, FeedbackLoopError
from feedback_loop.shown import all_as_text, as_text, without_secrets

if TYPE_CHECKING:
    from feedback_loop.loop import FeedbackLoop

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The configuration file.", show_default="./feedback_loop.toml"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of words for people.")]
ModelArgument = Annotated[str, typer.Argument(help="The model's name in the configuration.")]
VersionArgument = Annotated[str, typer.Argument(metavar="MODEL", help="name, name@alias or name/version.")]


@dataclass(frozen=True)
class Shell:
    """What every command is given: where its configuration is, and whether it prints for people or programs."""

    config: Path | None
    as_json: bool

    def loop(self, **options: Any) -> FeedbackLoop:
        """The loop of the configuration; with a progress bar where a person looks."""
        return open_loop(self.config, as_json=self.as_json, **options)

    def emit(self, value: Any, words: Callable[[Any], str]) -> None:
        """Prints a result: as one JSON value, or as `words` makes of it."""
        emit(value, as_json=self.as_json, words=words)


class Commands(typer.Typer):
    """Commands that are given a shell first: it is made of `--config` and `--json`, which they all have."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Registers a function as a command; one that takes no shell as it is."""
        register = super().command(name, **options)
        return lambda function: register(_with_options(function))


def _with_options(function: Callable[..., None]) -> Callable[..., None]:
    first, *own = inspect.signature(function, eval_str=True).parameters.values()
    if first.annotation is not Shell:
        return function
    shared = [
        inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigOption),
        inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption),
    ]

    def run(config: Path | None, as_json: bool, **given: Any) -> None:
        function(Shell(config, as_json), **given)

    run.__doc__, run.__name__ = function.__doc__, function.__name__
    run.__dict__["__signature__"] = inspect.Signature([*own, *shared])
    run.__annotations__ = {each.name: each.annotation for each in (*own, *shared)}
    return run


ESTIMATES_TOLD = 3
"""The rest of them is in `--json`."""


def open_loop(config: Path | None, *, as_json: bool, **options: Any) -> FeedbackLoop:
    """The loop of the configuration; with a progress bar where a person looks."""
    from feedback_loop.loop import FeedbackLoop
    from feedback_loop.progress import Bar, Silent

    configure_logging()
    progress = Silent() if as_json or not sys.stderr.isatty() else Bar()
    return FeedbackLoop.open(config, progress=progress, **options)


def emit(value: Any, *, as_json: bool, words: Callable[[Any], str]) -> None:
    """Prints a result: as one JSON value, or as `words` makes of it, whose texts are made fit to be shown first."""
    if as_json:
        print(json.dumps(value, default=_plain, allow_nan=False))
    else:
        say(words(all_as_text(value)))


def say(text: str, *, to: TextIO | None = None) -> None:
    """Prints lines for people; whatever is in them, the terminal is sent nothing but text."""
    print(as_text(text, keep="\n"), file=to or sys.stdout)


def fail(error: FeedbackLoopError, *, as_json: bool) -> int:
    """Prints an error, cause and cure, and returns the exit code."""
    if as_json:
        problem: dict[str, Any] = {"error": error.cause, "cure": error.cure}
        if isinstance(error, BadInput):
            problem["problems"] = [vars(each) for each in error.problems]
        print(json.dumps(problem))
    else:
        say(f"feedback-loop: {as_text(str(error))}", to=sys.stderr)
    return 1


def table(rows: list[dict[str, Any]], empty: str) -> str:
    """Rows as a plain table with the first row's keys as its head."""
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


def estimate_words(estimates: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first estimates (with what was `realised`, and `past` error), a line each; none where there are none."""
    told = []
    for each in sorted(estimates, key=lambda each: str(each["metric"]))[:ESTIMATES_TOLD]:
        if each["metric"] == "insufficient_data":
            return [f"no estimates yet: {each['value']:.0f} rows more are needed"]
        past, error = each["past"], each["standard_error"]
        beside = [f"realised {each['realised']:.4g}"] if each["realised"] is not None else []
        if past is not None:
            plural = "s" if past["windows"] > 1 else ""
            beside.append(f"past error {past['error']:.2g} over {past['windows']} window{plural}")
        chance = f" ± {error:.2g}" if error is not None else ""
        shown = f" ({'; '.join(beside)})" if beside else ""
        told.append(f"estimated {each['metric']} {each['value']:.4g}{chance}{shown}")
    return told


def configure_logging(stream: TextIO | None = None) -> None:
    """Structured logs go to standard error (or that stream): words for a terminal, JSON lines for a collector."""
    import structlog

    stream = stream or sys.stderr
    renderer: Any = structlog.processors.JSONRenderer()  # which writes out all that is not ASCII
    processors: list[Any] = [_without_secrets]
    if stream.isatty():
        renderer, processors = structlog.dev.ConsoleRenderer(), [_without_secrets, _as_text]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *processors,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # Each line in one write, its end included: several workers write to the same place.
        logger_factory=structlog.WriteLoggerFactory(stream),
    )


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


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_moment(value)
    return str(value)
