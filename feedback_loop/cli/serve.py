"""`feedback-loop serve`: online inference over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from feedback_loop.cli.options import ConfigGiven
from feedback_loop.cli.output import configure_logging, fail, take_library_logs
from feedback_loop.errors import FeedbackLoopError

if TYPE_CHECKING:
    from feedback_loop.clock import Clock
    from feedback_loop.config import Settings
    from feedback_loop.serving import App


def serve(
    given: ConfigGiven,
    models: Annotated[
        list[str], typer.Argument(help="Models to serve: name or name@alias; the first is the default.")
    ],
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: serving.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: serving.port.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that answer; default: serving.workers.")
    ] = None,
    clock_start: Annotated[str | None, typer.Option(hidden=True, help="Begin at this time (for replays).")] = None,
) -> None:
    """Answers predictions over HTTP (MLflow's scoring protocol), each one durable before its answer."""
    from feedback_loop.clock import parse_moment, system_clock
    from feedback_loop.config import load_settings
    from feedback_loop.serving import Certificate, forget_proxied, require_tracing, run_server, shared_folder
    from feedback_loop.serving.places import places_of
    from feedback_loop.serving.worker_process import forward_rest

    configure_logging()
    take_library_logs()
    settings = load_settings(given.config)
    options = {"host": host, "port": port, "workers": workers}
    changed = {name: value for name, value in options.items() if value is not None}
    settings = settings.model_copy(update={"serving": settings.serving.model_copy(update=changed)})
    ahead = (parse_moment(clock_start) - system_clock()).total_seconds() if clock_start else 0.0
    certificate, serving = None, settings.serving
    if serving.tls_certificate:
        certificate = Certificate(settings.path(serving.tls_certificate), settings.path(serving.tls_key))
    if serving.trace:
        require_tracing()
    address = f"{'https' if certificate else 'http'}://{serving.host}:{serving.port}"
    typer.echo(f"Serving {', '.join(models)} at {address} (Ctrl-C ends it).", err=True)
    forget_proxied(settings.path(serving.cache))
    with shared_folder(settings.path(serving.cache)) as figures:
        run_server(
            partial(_load, settings, models, ahead, figures),
            serving,
            _stager(given.config, models, ahead),
            places_of(settings, models),
            certificate,
        )
    forward_rest(settings, _clock(ahead))


def stage(
    given: ConfigGiven,
    models: Annotated[list[str], typer.Argument(help="As of the server that this works for.")],
    ahead: Annotated[float, typer.Option(help="Seconds that its clock is ahead.")] = 0.0,
) -> None:
    """Makes versions ready for the server that started this, and brings what its workers spool to the store."""
    from feedback_loop.serving.stager_process import stage as work

    clock = _clock(ahead)

    def delivery() -> Callable[[], object]:
        from feedback_loop.cycle import watchful_delivery  # with it comes much that a forwarder need not wait for
        from feedback_loop.loop import FeedbackLoop

        return watchful_delivery(FeedbackLoop.open(given.config, clock=clock))

    configure_logging()
    take_library_logs()
    work(given.config, models, clock, delivery)


def _stager(config: Path | None, models: list[str], ahead: float) -> list[str]:
    where = ["--config", str(config)] if config is not None else []
    return [sys.executable, "-m", "feedback_loop", "stage", *models, f"--ahead={ahead}", *where]


def _clock(ahead: float) -> Clock:
    from feedback_loop.clock import shifted_clock, system_clock

    return shifted_clock(timedelta(seconds=ahead)) if ahead else system_clock


def _load(settings: Settings, models: list[str], ahead: float, figures: Path) -> App:
    """The application, made in the worker's process: what it holds can't cross from one process to another."""
    from feedback_loop.serving.worker_process import make_app

    try:
        return make_app(settings, models, _clock(ahead), figures)
    except FeedbackLoopError as error:  # here, since the process that started this one would show a stack trace
        raise SystemExit(fail(error, as_json=False)) from error
