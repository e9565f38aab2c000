"""Spools that were looked at, held nothing, and have not been written since: they need not be opened again."""

from __future__ import annotations

import threading
import time
from pathlib import Path

SETTLED_SECONDS = 1.0
"""A file that was written so recently may be written again with the same time: clocks of files are coarse."""

Stamp = tuple[int, int, int, int]
"""When a spool and its log were written, and their sizes."""


def stamp_of(path: Path) -> Stamp | None:
    """What tells whether a spool was written, taken before it is looked at; None where that can't be told yet."""
    try:
        file = path.stat()
    except OSError:
        return None
    try:
        log = path.with_name(f"{path.name}-wal").stat()
    except OSError:
        log = None
    written = max(file.st_mtime_ns, log.st_mtime_ns if log is not None else 0)
    if time.time_ns() - written < SETTLED_SECONDS * 1e9:
        return None
    return file.st_mtime_ns, file.st_size, *((log.st_mtime_ns, log.st_size) if log is not None else (0, 0))


class Quiet:
    """Remembers them by their stamps. Thread-safe."""

    def __init__(self) -> None:
        self._stamps: dict[Path, Stamp] = {}
        self._lock = threading.Lock()

    def has(self, path: Path) -> bool:
        """Whether nothing can have come to a spool that held nothing."""
        with self._lock:
            return path in self._stamps and self._stamps[path] == stamp_of(path)

    def note(self, path: Path, stamp: Stamp | None) -> None:
        """Remembers that a spool of that stamp held nothing."""
        with self._lock:
            if stamp is not None:
                self._stamps[path] = stamp
            else:
                self._stamps.pop(path, None)

    def keep(self, paths: set[Path]) -> None:
        """Forgets all others."""
        with self._lock:
            self._stamps = {path: stamp for path, stamp in self._stamps.items() if path in paths}
