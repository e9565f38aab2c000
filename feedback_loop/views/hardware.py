"""Settings that ask for more than this machine has: each is told, with what there is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from feedback_loop.config import Settings
from feedback_loop.loop import FeedbackLoop
from feedback_loop.retraining.parallel import cores

_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""A container's limit of memory, or `max`."""


@dataclass(frozen=True)
class Machine:
    """What this process may use; `disk_bytes` is what is free where spools lie."""

    cores: int
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Note:
    """A setting that asks for more, and what to set."""

    cause: str
    cure: str


def notes(loop: FeedbackLoop) -> list[Note]:
    """The settings that ask for more than this machine has."""
    return list(too_much(loop.settings, this_machine(loop.settings.path(loop.settings.capture.folder))))


def too_much(settings: Settings, machine: Machine) -> Iterator[Note]:
    """The settings that ask for more than a machine has."""
    serving, capture = settings.serving, settings.capture
    if serving.workers * serving.threads > machine.cores:
        yield Note(
            f"serving.workers ({serving.workers}) with serving.threads ({serving.threads}) each are more than the "
            f"{machine.cores} cores: they wait for each other.",
            f"Set them so that their product is {machine.cores} at most.",
        )
    unpacked = serving.workers * serving.max_unpacked_bytes
    if unpacked > machine.memory_bytes:
        yield Note(
            f"Requests may take {_gib(unpacked)} in {serving.workers} workers, of {_gib(machine.memory_bytes)}.",
            "Set serving.max_unpacked_bytes, or serving.workers, lower.",
        )
    if capture.max_bytes * serving.workers > machine.disk_bytes:
        yield Note(
            f"Spools may take {_gib(capture.max_bytes * serving.workers)}, and {_gib(machine.disk_bytes)} are free.",
            "Free disk space, or set capture.max_bytes lower: a full spool is told, a full disk ends more than it.",
        )
    for name, model in settings.models.items():
        trainer = model.retraining.trainer
        if trainer is not None and (trainer.memory_limit or 0) > machine.memory_bytes:
            yield Note(
                f"models.{name}.retraining.trainer may take {_gib(trainer.memory_limit or 0)} of "
                f"{_gib(machine.memory_bytes)}: it would be killed by the system, or another process.",
                "Set its memory_limit lower.",
            )


def this_machine(spools: Path) -> Machine:
    """What this process may use; a container's limits count."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"
    there = next(folder for folder in (spools, *spools.parents) if folder.exists())
    return Machine(cores(), min(memory, int(limit)) if limit.isdecimal() else memory, shutil.disk_usage(there).free)


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
