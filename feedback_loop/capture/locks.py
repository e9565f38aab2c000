"""Beside each spool: the lock that its owner holds as long as it lives, with a note of how many rows it took."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

LOCK = ".lock"


def lock_of(path: Path) -> Path:
    """The file that the spool's owner holds locked."""
    return path.with_name(path.name + LOCK)


def sync(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_mark(lock: int, spooled: dict[str, int]) -> None:
    """Notes beside the spool how many rows of each model it took, into its lock file.

    A log that was torn off looks to SQLite like one that ends there: by this it is seen that there was more. It is
    not synced, so after a power cut it may say less than there is; of a process that was killed it says all.
    """
    os.pwrite(lock, msgspec.json.encode(spooled), 0)  # counts only grow, so nothing old is left behind it


def read_mark(path: Path) -> dict[str, int]:
    """What was noted of the spool at that place; nothing where nothing (that makes sense) was."""
    try:
        return msgspec.json.decode(lock_of(path).read_bytes(), type=dict[str, int])
    except (OSError, msgspec.DecodeError):
        return {}


def take_lock(lock: Path, *, creates: bool) -> int | None:
    """Locks a file; returns its descriptor (closing it unlocks), or None where another has it or it is not there."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if creates else 0), 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(lock).st_ino == os.fstat(descriptor).st_ino:  # noqa: PTH116 (beside fstat)
            return descriptor
    except (BlockingIOError, FileNotFoundError):  # another has it, or has just done away with it
        pass
    os.close(descriptor)
    return None
