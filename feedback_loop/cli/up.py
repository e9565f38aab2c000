"""`feedback-loop up`: server, scheduler and pages in one command."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import typer

from feedback_loop.cli.options import ConfigGiven
from feedback_loop.cli.output import configure_logging
from feedback_loop.errors import Refused

END_SECONDS = 30.0
"""So long a child may take to end: the scheduler lets the job that runs finish."""


def up(given: ConfigGiven) -> None:
    """Runs the server of all configured models, the scheduler and the pages, until Ctrl-C ends all of them.

    Each is a process of its own, started again (after 1 s, 2 s, … 60 s) where it dies; none is left when this one
    ends. What they would be told by options is in the configuration: serving.port, dashboard.port.
    """
    from feedback_loop.config import load_settings
    from feedback_loop.loop import FeedbackLoop
    from feedback_loop.serving.children import Child, Life

    configure_logging()
    settings = load_settings(given.config)
    if not settings.models:
        raise Refused("There is no model to serve.", cure="Configure one: feedback-loop init.")
    FeedbackLoop.open(given.config).close()  # makes the tables of an empty store before three processes want to
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Life() as life, ExitStack() as stack:
        children = [
            stack.enter_context(Child(words[0], _command(given.config, *words), life, END_SECONDS))
            for words in (["serve", *settings.models], ["scheduler"], ["dashboard"])
        ]
        pages = f"http://{settings.dashboard.host}:{settings.dashboard.port}"
        typer.echo(f"Server, scheduler and pages ({pages}) run; Ctrl-C ends them.", err=True)
        stop.wait()
        for child in children:
            child.ask_to_end()


def _command(config: Path | None, *words: str) -> list[str]:
    where = ["--config", str(config)] if config is not None else []
    return [sys.executable, "-m", "feedback_loop", "--with-parent", *words, *where]


def end_with_parent() -> None:
    """Has this process end, as by SIGTERM, when the one is gone that holds the other side of its standard input."""
    from feedback_loop.serving.children import end_with

    end_with(sys.stdin.fileno(), lambda: os.kill(os.getpid(), signal.SIGTERM))
