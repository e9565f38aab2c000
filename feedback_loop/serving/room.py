"""Room for bodies: what all requests under way may take together once they are unpacked."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from feedback_loop.serving.http_errors import HttpError


class Room:
    """Counts the bytes that requests take. Thread-safe."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._taken = 0
        self._lock = threading.Lock()

    def share(self) -> Share:
        """The share of one request, which has nothing yet."""
        return Share(self)

    def take(self, size: int, had: int) -> None:
        """Takes so many bytes more for who `had` some already; raises HttpError (503).

        Whoever is alone may take any number: each body is within its own limits.
        """
        with self._lock:
            if size and self._taken > had and self._taken + size > self._most_bytes:
                message = (
                    f"The requests under way may take {self._most_bytes:,} bytes together, and there is no room now."
                )
                raise HttpError(503, "TEMPORARILY_UNAVAILABLE", message, retry_after="1")
            self._taken += size

    def give(self, size: int) -> None:
        """Gives back what was taken."""
        with self._lock:
            self._taken -= size


class Share:
    """What one request takes of the room, given back at the end of a `with`."""

    __slots__ = ("_room", "_size")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._size = 0

    def grow(self, size: int) -> None:
        """Takes so many bytes more (none where it is negative); raises HttpError (503) where there is no room."""
        if size > 0:
            self._room.take(size, self._size)
            self._size += size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.give(self._size)
