"""feedback_loop: closes the loop that a deployed MLflow model leaves open."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feedback_loop.capture import CaptureMiddleware
    from feedback_loop.clock import Window
    from feedback_loop.errors import FeedbackLoopError
    from feedback_loop.loop import FeedbackLoop, open_client
    from feedback_loop.monitoring import SumMetric

__version__ = "0.2.0"

__all__ = [
    "CaptureMiddleware",
    "FeedbackLoop",
    "FeedbackLoopError",
    "SumMetric",
    "Window",
    "__version__",
    "open_client",
]

_HOMES = {
    "CaptureMiddleware": "capture",
    "FeedbackLoop": "loop",
    "FeedbackLoopError": "errors",
    "SumMetric": "monitoring",
    "Window": "clock",
    "open_client": "loop",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used: `import feedback_loop` costs next to nothing."""
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(f"feedback_loop.{_HOMES[name]}"), name)
