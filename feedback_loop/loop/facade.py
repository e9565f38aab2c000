"""The facade itself, and what is made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feedback_loop.capture import Client
from feedback_loop.loop.advising import Advising
from feedback_loop.loop.backtesting import Backtesting
from feedback_loop.loop.diagnosing import Diagnosing
from feedback_loop.loop.improving import Improving
from feedback_loop.loop.incidents import Incidents
from feedback_loop.loop.optimizing import Optimizing
from feedback_loop.loop.predicting import Predicting
from feedback_loop.loop.watching import Watching


class FeedbackLoop(Predicting, Watching, Advising, Backtesting, Diagnosing, Improving, Optimizing, Incidents):
    """The whole loop over one store and one registry. Methods raise FeedbackLoopError's children only."""


def open_client(path: str | Path | None = None, **options: Any) -> Client:
    """A capture client by the configuration alone; at its end (or that of a `with`) it gives all back."""
    loop = FeedbackLoop.open(path, **options)
    return loop.capture_client(close=loop.close)
