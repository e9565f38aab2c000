"""`feedback-loop dashboard`: the web pages."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from feedback_loop.cli.options import ConfigGiven
from feedback_loop.cli.output import configure_logging, take_library_logs


def dashboard(
    given: ConfigGiven,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: dashboard.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: dashboard.port.")] = None,
) -> None:
    """Shows the loop's web pages; elsewhere than on loopback to who has a key (keys create NAME --scope read)."""
    import uvicorn

    from feedback_loop.dashboard import create_app
    from feedback_loop.dashboard.searching import end_left, give_up
    from feedback_loop.loop import FeedbackLoop
    from feedback_loop.serving.server import refuse_taken
    from feedback_loop.tracing import require_tracing

    configure_logging()
    take_library_logs()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again at its end
    loop = FeedbackLoop.open(given.config)
    settings = loop.settings.dashboard
    if settings.trace:
        require_tracing(key="dashboard.trace")
    host, port = host or settings.host, settings.port if port is None else port
    refuse_taken(host, port)
    typer.echo(f"The pages are at http://{host}:{port} (Ctrl-C ends it).", err=True)
    try:
        end_left(loop)
        app = create_app(loop, host=host)
        uvicorn.run(app, host=host, port=port, log_level="warning", log_config=None, server_header=False)
    finally:
        if give_up(loop):
            os._exit(0)  # a search that does not end would keep the process from ending
        loop.close()
