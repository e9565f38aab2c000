"""Between an answer and the store: every prediction is made durable here before it is given out."""

from feedback_loop.capture.recorder import Recorder

__all__ = ["Recorder"]
