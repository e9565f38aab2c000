"""`feedback-loop serve`: online inference over HTTP."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from feedback_loop.cli.output import ConfigOption, configure_logging, fail
from feedback_loop.errors import FeedbackLoopError

if TYPE_CHECKING:
    from feedback_loop.serving import App


def serve(
    models: Annotated[
        list[str], typer.Argument(help="Models to serve: name or name@alias; the first is the default.")
    ],
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: serving.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: serving.port.")] = None,
    clock_start: Annotated[str | None, typer.Option(hidden=True, help="Begin at this time (for replays).")] = None,
    config: ConfigOption = None,
) -> None:
    """Answers predictions over HTTP (MLflow's scoring protocol), each one durable before its answer."""
    from feedback_loop.config import load_settings
    from feedback_loop.serving import Certificate, run_server, shared_folder

    loaded = load_settings(config)
    settings = loaded.serving
    given = {"host": host, "port": port}
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    certificate = None
    if settings.tls_certificate:
        certificate = Certificate(loaded.path(settings.tls_certificate), loaded.path(settings.tls_key))
    address = f"{'https' if certificate else 'http'}://{settings.host}:{settings.port}"
    typer.echo(f"Serving {', '.join(models)} at {address} (Ctrl-C ends it).", err=True)
    with shared_folder(loaded.path(settings.cache)) as figures:
        load = partial(_load, config, models, clock_start, settings.host, settings.port, figures)
        run_server(load, settings, certificate)


def _load(
    config: Path | None, models: list[str], clock_start: str | None, host: str, port: int, figures: Path
) -> App:
    """The application, made in the worker's process: what it holds can't cross from one process to another."""
    from feedback_loop.clock import clock_from, parse_moment, system_clock
    from feedback_loop.loop import FeedbackLoop

    configure_logging()
    try:
        clock = clock_from(parse_moment(clock_start)) if clock_start else system_clock
        loop = FeedbackLoop.open(config, clock=clock)
        return loop.app(models, loop.settings.serving.model_copy(update={"host": host, "port": port}), figures)
    except FeedbackLoopError as error:  # here, since the process that started this one would show a stack trace
        raise SystemExit(fail(error, as_json=False)) from error
