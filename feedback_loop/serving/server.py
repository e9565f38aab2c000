"""The server process: Granian in front of the application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from feedback_loop.config import ServingSettings


def run_server(load: Callable[[], Any], settings: ServingSettings) -> None:
    """Serves until SIGTERM or SIGINT; requests that are in flight then are answered.

    `load` makes the application, in the worker's process, before it takes its first request.
    """
    from granian.constants import Interfaces
    from granian.log import LogLevels
    from granian.server import Server

    server = Server(
        "feedback_loop",  # a name for the logs: the application comes from `load`
        address=settings.host,
        port=settings.port,
        interface=Interfaces.RSGI,
        workers=1,
        websockets=False,
        log_level=LogLevels.warning,
        workers_kill_timeout=30,
    )
    server.serve(target_loader=load, wrap_loader=False)
