"""What commands are given: their options, and groups of these that several commands have."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feedback_loop.cli.output import configure_logging, emit
from feedback_loop.clock import Window, parse_duration, parse_moment
from feedback_loop.errors import BadInput

if TYPE_CHECKING:
    from feedback_loop.loop import FeedbackLoop

ModelArgument = Annotated[str, typer.Argument(help="The model's name in the configuration.")]
ByOption = Annotated[str | None, typer.Option("--by", help="Who does so; default: who is logged in.")]
VersionArgument = Annotated[str, typer.Argument(metavar="MODEL", help="name, name@alias or name/version.")]


def moment_option(*names: str, **options: Any) -> Any:
    """An option that is a moment, ISO 8601."""
    return typer.Option(*names, parser=parse_moment, metavar="<moment>", **options)


def duration_option(*names: str, **options: Any) -> Any:
    """An option that is a duration: `8h`, `2d`."""
    return typer.Option(*names, parser=parse_duration, metavar="<duration>", **options)


FromOption = Annotated[datetime | None, moment_option("--from", help="Start of the window, ISO 8601 (UTC if bare).")]
ToOption = Annotated[datetime | None, moment_option("--to", help="End of the window (not part of it).")]
AsOfOption = Annotated[datetime | None, moment_option(help="With what was known at this moment; default: now.")]


@dataclass(frozen=True)
class Printer:
    """A command's result is printed for people, or with `--json` for programs."""

    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of words for people.")] = (
        False
    )

    def emit(self, value: Any, words: Callable[[Any], str]) -> None:
        """Prints a result: as one JSON value, or as `words` makes of it."""
        emit(value, as_json=self.as_json, words=words)

    def open_loop(self, config: Path | None) -> FeedbackLoop:
        """The loop of a configuration; with a progress bar where a person looks."""
        from feedback_loop.loop import FeedbackLoop
        from feedback_loop.progress import Bar, Silent

        configure_logging()
        progress = Silent() if self.as_json or not sys.stderr.isatty() else Bar()
        return FeedbackLoop.open(config, progress=progress)


@dataclass(frozen=True)
class ConfigGiven:
    """Where the configuration is."""

    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="The configuration file.", show_default="./feedback_loop.toml"),
    ] = None


@dataclass(frozen=True)
class Shell(Printer, ConfigGiven):
    """What nearly every command is given: where its configuration is, and for whom it prints."""

    def loop(self) -> FeedbackLoop:
        """The loop of the configuration."""
        return self.open_loop(self.config)


@dataclass(frozen=True)
class WindowGiven:
    """A window, as one text or by its ends."""

    within: Annotated[
        str | None, typer.Option("--window", help="A month (2026-05), a day (2026-05-03), or START/END (ISO 8601).")
    ] = None
    start: FromOption = None
    end: ToOption = None

    def window(self) -> Window | None:
        """The window that is meant, if any; raises BadInput."""
        start, end = self.start, self.end
        if self.within is not None:
            if start is not None or end is not None:
                raise BadInput.of("window", "is given twice", cure="Give --window, or --from and --to.")
            if "/" not in self.within:
                return _calendar(self.within)
            start, end = (parse_moment(text) for text in self.within.split("/", 1))
        if (start is None) != (end is None):
            raise BadInput.of("window", "has only one end", cure="Give both --from and --to, or neither.")
        return Window(start, end) if start is not None and end is not None else None


def _calendar(text: str) -> Window:
    """A month, or a day."""
    if text.count("-") > 1:
        start = parse_moment(text)
        return Window(start, start + timedelta(days=1))
    start = parse_moment(f"{text}-01")
    return Window(start, (start + timedelta(days=32)).replace(day=1))


def group(help_text: str) -> Commands:
    """A group of commands, also where it has but one."""
    return Commands(help=help_text, no_args_is_help=True, callback=lambda: None)


class Commands(typer.Typer):
    """Commands whose parameters may be groups of options: a dataclass stands for its fields."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Registers a function as a command."""
        register = super().command(name, **options)
        return lambda function: register(_with_groups_expanded(function))


def _with_groups_expanded(function: Callable[..., None]) -> Callable[..., None]:
    """The function as Typer takes it. The group that comes first has its options last in the help."""
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    groups: dict[str, Any] = {
        parameter.name: parameter.annotation for parameter in parameters if is_dataclass(parameter.annotation)
    }
    if not groups:
        return function
    if parameters[0].name in groups:
        parameters.append(parameters.pop(0))
    names: dict[str, list[str]] = {}
    expanded: list[inspect.Parameter] = []
    for parameter in parameters:
        fields = [parameter]
        if parameter.name in groups:
            fields = list(inspect.signature(groups[parameter.name], eval_str=True).parameters.values())
            names[parameter.name] = [field.name for field in fields]
        expanded += [field.replace(kind=inspect.Parameter.KEYWORD_ONLY) for field in fields]

    def run(**given: Any) -> None:
        made = {name: groups[name](**{field: given.pop(field) for field in names[name]}) for name in groups}
        function(**made, **given)

    run.__doc__, run.__name__ = function.__doc__, function.__name__
    run.__dict__["__signature__"] = inspect.Signature(expanded)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in expanded}
    return run
