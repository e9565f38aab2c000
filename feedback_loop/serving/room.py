"""Room for bodies: what all requests under way may take together once they are unpacked."""

from __future__ import annotations

from feedback_loop.serving.http_errors import HttpError


class Room:
    """Counts bytes on one event loop, from whose thread alone it is used. Where nothing is held, anything fits."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held = 0

    def take(self, size: int) -> int:
        """Holds so many bytes until they are given back, and returns how many; raises HttpError (503)."""
        if size and self._held and self._held + size > self._most_bytes:
            message = (
                f"The requests under way may take {self._most_bytes:,} bytes together, and there is no room now."
            )
            raise HttpError(503, "TEMPORARILY_UNAVAILABLE", message, retry_after="1")
        self._held += size
        return size

    def give(self, size: int) -> None:
        """Gives back what was held."""
        self._held -= size
