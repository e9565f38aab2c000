"""What this process takes of the host's memory."""

from __future__ import annotations

import ctypes


def held_bytes() -> int:
    """Its own memory, without files' pages (libraries), once what it has freed is given back to the system.

    By itself glibc's allocator keeps most of what a model took for what comes next: models that are put away would
    cost as much as loaded ones. Others have no `malloc_trim`, and give back by themselves.
    """
    import psutil

    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))
