"""Bodies of requests: no more of one in memory than is allowed, and none that takes for ever to come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from feedback_loop.serving.http_errors import HttpError


class CutOff(HttpError):
    """A body whose caller went away before it was whole."""


class Bodies:
    """Reads bodies on one event loop, from whose thread alone it is used.

    A timer for each request would cost microseconds; so one look at all that are being read, every now and then,
    ends those that take too long.
    """

    def __init__(self, most_bytes: int, seconds: float) -> None:
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._reading: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to look for bodies that take too long."""
        self._loop = loop
        self._look()

    def stop(self) -> None:
        """Ends looking."""
        if self._next is not None:
            self._next.cancel()

    async def read(
        self, headers: Any, protocol: Any, came: Callable[[int], None], most_bytes: int | None = None
    ) -> bytes:
        """The whole body of a request; raises HttpError: 413 too large, 408 too slow, 400 cut off.

        `came` is told of bytes as they come, and may raise to end it; of a short body, that was announced, at once.
        """
        most_bytes = min(most_bytes or self._most_bytes, self._most_bytes)
        task = asyncio.current_task()
        assert task is not None  # each request has one
        self._reading[task] = time.monotonic()
        try:
            length = headers.get("content-length")
            if length is None or not length.isdecimal():
                return await self._read_parts(protocol, came, most_bytes)
            size = int(length[:_MOST_DIGITS])
            _refuse_large(size, most_bytes)
            if size > _SHORT:
                return await self._read_parts(protocol, came, most_bytes, size)
            came(size)
            return await protocol()  # type: ignore[no-any-return] # the server below takes no more than was announced
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            self._late.discard(task)
            task.uncancel()
            message = f"The body was not there within {self._seconds:g} seconds."
            raise HttpError(408, "REQUEST_TIMEOUT", message) from None
        except RuntimeError as error:
            from granian.rsgi import ProtocolClosed

            if isinstance(error, ProtocolClosed):
                raise _cut_off() from error
            raise
        finally:
            del self._reading[task]

    async def _read_parts(
        self, protocol: Any, came: Callable[[int], None], most_bytes: int, announced_bytes: int | None = None
    ) -> bytes:
        parts, size, empty = [], 0, 0
        async for part in protocol:
            size += len(part)
            empty += not part
            _refuse_large(size, most_bytes)
            came(len(part))
            parts.append(bytes(part))
        if (empty != _AT_THE_END) if announced_bytes is None else (size < announced_bytes):
            raise _cut_off()
        return b"".join(parts)

    def _look(self) -> None:
        assert self._loop is not None  # it was started
        since = time.monotonic() - self._seconds
        for task, began in list(self._reading.items()):
            if began < since and task not in self._late:
                self._late.add(task)
                task.cancel()
        self._next = self._loop.call_later(min(1.0, self._seconds / 2), self._look)


def _refuse_large(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        message = f"The body is over {most_bytes:,} bytes. Send fewer rows, or score a file."
        raise HttpError(413, "REQUEST_LIMIT_EXCEEDED", message)


_SHORT = 64 * 1024
"""A body of more bytes takes room as it comes: many that come slowly would take all of it by what they announce."""

_MOST_DIGITS = 18
_AT_THE_END = 1
"""So many empty parts Granian gives where a body has ended. Where it was cut off (and behind trailers, which nobody
sends) there is another before it: that is all it tells of a chunk that never came.
"""


def _cut_off() -> CutOff:
    return CutOff(400, "BAD_REQUEST", "The body was cut off: its last chunk or byte did not come.")
