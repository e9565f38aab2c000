"""Whose a run in MLflow is: the process that began it, and whether that one is gone."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

LONGEST = timedelta(days=1)
"""A run of a process that can't be looked at (of another machine, or before its last start) has so long to end."""

APART_SECONDS = 5.0
"""A process with the same number that began so much later or sooner is another one."""


@dataclass(frozen=True)
class Owner:
    """A process, by the machine (or container) that it runs on, its number and when it began (seconds after the
    machine did); `lineage` is whoever begins runs within it.
    """

    machine: str
    process: int
    began: float
    lineage: str

    def __str__(self) -> str:
        return f"{self.machine} {self.process} {self.began:.0f} {self.lineage}"

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Reads such a text; None for one that is none."""
        try:
            machine, process, began, lineage = text.rsplit(" ", 3)
            return cls(machine, int(process), float(began), lineage)
        except ValueError:
            return None


def this_process(lineage: str) -> Owner:
    """This one. Numbers of processes mean something within one start of a machine and one container only."""
    import psutil

    own = psutil.Process()
    places = []
    with suppress(OSError):
        places.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        places.append(str(Path("/proc/self/ns/pid").readlink()))
    return Owner("/".join([socket.gethostname(), *places]), own.pid, began(own), lineage)


def is_abandoned(owner: str, begun: datetime, own: Owner, now: datetime) -> bool:
    """Whether nobody works any more on a run that `own` does not work on: its process is gone, as far as one can see.

    A run whose owner can't be looked at has `LONGEST` to end by itself.
    """
    theirs = Owner.parse(owner)
    if theirs is None or theirs.machine != own.machine:
        return now - begun > LONGEST
    if theirs.process == own.process and abs(theirs.began - own.began) < APART_SECONDS:
        return theirs.lineage == own.lineage  # of this process: another loop's in it may be under way
    is_alive = _is_alive(theirs)
    return now - begun > LONGEST if is_alive is None else not is_alive


def began(process: Any) -> float:
    """When a process of psutil's began, in seconds after the machine did: the clock may be set meanwhile."""
    import psutil

    started = psutil.boot_time()  # by the same clock
    return float(process.create_time() - started)


def _is_alive(owner: Owner) -> bool | None:
    """None: this process may not look."""
    import psutil

    try:
        process: Any = psutil.Process(owner.process)
        alive = process.status() != psutil.STATUS_ZOMBIE
        return bool(alive and abs(began(process) - owner.began) < APART_SECONDS)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return None
