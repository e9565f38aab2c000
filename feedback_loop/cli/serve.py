"""`feedback-loop serve`: online inference over HTTP."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from feedback_loop.cli.output import ConfigOption, configure_logging, fail
from feedback_loop.errors import FeedbackLoopError

if TYPE_CHECKING:
    from feedback_loop.config import Settings
    from feedback_loop.serving import App


def serve(
    models: Annotated[
        list[str], typer.Argument(help="Models to serve: name or name@alias; the first is the default.")
    ],
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: serving.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: serving.port.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that answer; default: serving.workers.")
    ] = None,
    clock_start: Annotated[str | None, typer.Option(hidden=True, help="Begin at this time (for replays).")] = None,
    config: ConfigOption = None,
) -> None:
    """Answers predictions over HTTP (MLflow's scoring protocol), each one durable before its answer."""
    from feedback_loop.config import load_settings
    from feedback_loop.loop.serving import places_of
    from feedback_loop.serving import Certificate, require_tracing, run_server, shared_folder

    configure_logging()
    settings = load_settings(config)
    given = {"host": host, "port": port, "workers": workers}
    changed = {name: value for name, value in given.items() if value is not None}
    settings = settings.model_copy(update={"serving": settings.serving.model_copy(update=changed)})
    certificate, serving = None, settings.serving
    if serving.tls_certificate:
        certificate = Certificate(settings.path(serving.tls_certificate), settings.path(serving.tls_key))
    if serving.trace:
        require_tracing()
    address = f"{'https' if certificate else 'http'}://{serving.host}:{serving.port}"
    typer.echo(f"Serving {', '.join(models)} at {address} (Ctrl-C ends it).", err=True)
    with shared_folder(settings.path(serving.cache)) as figures:
        run_server(
            partial(_load, settings, models, clock_start, figures),
            serving,
            _stager(config, models),
            places_of(settings, models),
            certificate,
        )


def stage(
    models: Annotated[list[str], typer.Argument(help="As of the server that this works for.")],
    parent: Annotated[int, typer.Option(help="The server's process.")],
    config: ConfigOption = None,
) -> None:
    """Makes versions ready for the server that started this."""
    from feedback_loop.loop.serving import stage as work

    configure_logging()
    work(config, models, parent)


def _stager(config: Path | None, models: list[str]) -> list[str]:
    where = ["--config", str(config)] if config is not None else []
    return [sys.executable, "-m", "feedback_loop", "stage", *models, "--parent", str(os.getpid()), *where]


def _load(settings: Settings, models: list[str], clock_start: str | None, figures: Path) -> App:
    """The application, made in the worker's process: what it holds can't cross from one process to another."""
    from feedback_loop.clock import clock_from, parse_moment, system_clock
    from feedback_loop.loop.serving import make_app

    try:
        clock = clock_from(parse_moment(clock_start)) if clock_start else system_clock
        return make_app(settings, models, clock, figures)
    except FeedbackLoopError as error:  # here, since the process that started this one would show a stack trace
        raise SystemExit(fail(error, as_json=False)) from error
