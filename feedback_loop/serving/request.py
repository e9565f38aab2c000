"""One request on its way: what is asked, by whom, and what is learned of it for the access log and the trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from feedback_loop.schema.budget import CELL_BYTES, UNPACKED
from feedback_loop.serving.guard import ANYONE

if TYPE_CHECKING:
    from feedback_loop.serving.room import Share
    from feedback_loop.tracing import Traced

Unpacked = Callable[[int, int, int], None]
"""Is told that so many bytes have become so many rows and columns; raises HttpError where there is no room."""


class Request:
    """What all that look at a request share. `scope` is RSGI's, `asked` the model that the path names, if any."""

    __slots__ = (
        "asked",
        "began",
        "caller",
        "has_gone",
        "headers",
        "is_read",
        "model",
        "path",
        "rows",
        "scope",
        "share",
        "traced",
        "version",
    )

    def __init__(self, scope: Any) -> None:
        self.began = time.perf_counter()
        self.scope = scope
        self.headers = scope.headers  # once: the server below makes them anew whenever it is asked
        self.path = scope.path.rstrip("/") or "/"
        self.asked: str | None = None
        self.caller = ANYONE
        self.is_read = False  # its body
        self.has_gone = False  # its caller, before the body was whole
        self.share: Share | None = None  # of the room for bodies
        self.traced: Traced | None = None
        self.model: str | None = None
        self.version: str | None = None
        self.rows: int | None = None

    def header(self, name: str) -> str | None:
        """A header's value, by its name in lower case."""
        value: str | None = self.headers.get(name)
        return value

    def came(self, size: int) -> None:
        """Takes room for so many bytes of a body, unpacked; raises HttpError (503)."""
        if self.share is not None:
            self.share.grow(UNPACKED * size)

    def unpacked(self, size: int, rows: int, columns: int) -> None:
        """Takes room for what so many bytes have become, where that is more (Arrow, Parquet); raises HttpError."""
        if self.share is not None:
            self.share.grow(CELL_BYTES * rows * columns - UNPACKED * size)

    def answered_by(self, model: str, version: str | None, rows: int) -> None:
        """Notes which model and version (None: several) answer how many rows."""
        self.model, self.version, self.rows = model, version, rows
