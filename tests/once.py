"""Folders that tests copy (a registry's tables, homes with days played): one test process makes each, all copy it."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

_base: Path | None = None


def begin(base: Path) -> None:
    """The folder that all test processes of this run share."""
    global _base  # noqa: PLW0603 (builders are called without fixtures)
    _base = base


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder of this name, filled by the first test process of this run that asks; all give the same `make`."""
    assert _base is not None, "tests.once.begin says where"  # not where the process happens to be
    maker = getattr(make, "func", make)
    content = f"{maker.__module__}.{maker.__qualname__}"
    folder, done = _base / "once" / name, _base / "once" / f"{name}.done"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.write_text(content)
    assert done.read_text() == content, f"{name!r} is the name of two folders"
    return folder
