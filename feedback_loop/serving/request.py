"""One request on its way: what is asked, by whom, and what is learned of it for the access log and the trace."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from feedback_loop.serving.guard import ANYONE

if TYPE_CHECKING:
    from feedback_loop.serving.tracing import Traced


class Request:
    """What all that look at a request share. `scope` is RSGI's, `asked` the model that the path names, if any."""

    __slots__ = (
        "asked",
        "began",
        "caller",
        "has_gone",
        "is_read",
        "model",
        "path",
        "rows",
        "scope",
        "traced",
        "version",
    )

    def __init__(self, scope: Any) -> None:
        self.began = time.perf_counter()
        self.scope = scope
        self.path = scope.path.rstrip("/") or "/"
        self.asked: str | None = None
        self.caller = ANYONE
        self.is_read = False  # its body
        self.has_gone = False  # its caller, before the body was whole
        self.traced: Traced | None = None
        self.model: str | None = None
        self.version: str | None = None
        self.rows: int | None = None

    def header(self, name: str) -> str | None:
        """A header's value, by its name in lower case."""
        value: str | None = self.scope.headers.get(name)
        return value

    def answered_by(self, model: str, version: str | None, rows: int) -> None:
        """Notes which model and version (None: several) answer how many rows."""
        self.model, self.version, self.rows = model, version, rows
