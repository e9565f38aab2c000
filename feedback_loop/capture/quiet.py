"""Spools that held nothing when they were looked at, and have not been written since: they are not opened again."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

from feedback_loop.capture.spool_file import WAL, SpoolFile

SETTLED_SECONDS = 3.0
"""A file that was written so recently may be written again with the same time: some file systems count by 2 s."""

Stamp = tuple[int, int, int, int]
"""When a spool and its log were written, and their sizes."""


def stamp_of(path: Path) -> Stamp | None:
    """What differs once a spool is written again; None where it can't be told yet."""
    try:
        file = path.stat()
    except OSError:
        return None
    try:
        log = path.with_name(path.name + WAL).stat()
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
        stamp = self._stamps.get(path)
        return stamp is not None and stamp == stamp_of(path)

    def note(self, file: SpoolFile, version: int) -> None:
        """Remembers a spool that held nothing in that `SpoolFile.version`, if it is the last one.

        A commit writes the log first, waits for the disk, and is seen only then. So the stamp is taken while nobody
        commits: of one under way it would be the stamp already, though its rows are still to come.
        """
        if stamp_of(file.path) is None:
            return
        try:
            with file.alone():
                stamp = stamp_of(file.path) if file.version() == version else None
        except sqlite3.OperationalError:
            return  # somebody writes to it: it is looked at again
        if stamp is not None:
            with self._lock:
                self._stamps[file.path] = stamp

    def keep(self, paths: set[Path]) -> None:
        """Forgets all others."""
        with self._lock:
            self._stamps = {path: stamp for path, stamp in self._stamps.items() if path in paths}
