"""FeedbackLoop: the facade that wires the rooms. Whoever uses the package from Python holds one of these."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feedback_loop.loop.facade import FeedbackLoop, open_client

__all__ = ["FeedbackLoop", "open_client"]


def __getattr__(name: str) -> object:
    """Imports the facade when it is first used: a server's workers need its serving part only."""
    if name not in __all__:
        raise AttributeError(name)
    from feedback_loop.loop import facade

    return getattr(facade, name)
