"""Files and folders that nobody but their owner reads or changes, and what of them others could."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

OTHERS = 0o077
"""The bits of a file's mode that open it to its group and to everybody."""

_SHOWN = 3
_GROUP, _WORLD = 0o010, 0o001


class _Umask:
    """How many blocks want new files to be private, in all threads: the process has one mask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted, self._before = 0, 0

    def enter(self) -> None:
        with self._lock:
            if not self._wanted:
                self._before = os.umask(OTHERS)
            self._wanted += 1

    def leave(self) -> None:
        with self._lock:
            self._wanted -= 1
            if not self._wanted:
                os.umask(self._before)


_umask = _Umask()


@contextmanager
def private_files() -> Iterator[None]:
    """Files and folders made within the block, by any library or thread, have the modes 0600 and 0700."""
    _umask.enter()
    try:
        yield
    finally:
        _umask.leave()


def new_folder(folder: Path) -> None:
    """Makes a folder, and those above it, that are not there."""
    with private_files():
        folder.mkdir(parents=True, exist_ok=True)


def new_file(path: Path) -> None:
    """Makes an empty file where there is none: whoever opens it next keeps its mode."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return


@dataclass(frozen=True)
class Exposed:
    """Something that others can read or write, or that is not where it seems to be."""

    path: Path
    cause: str

    def __str__(self) -> str:
        return f"{self.path} {self.cause}"


def exposed(places: Sequence[Path], *, written: Sequence[Path] = ()) -> list[Exposed]:
    """What of these files and folders, and of all in them, other users can read or write, and which are links.

    Of `written` only whether others can write to them matters, not what is in them. What lies in a folder that lets
    nobody through is out of reach.
    """
    exposures: list[Exposed] = []
    for place in dict.fromkeys(path.absolute() for path in (*places, *written)):
        if place.is_symlink():
            exposures.append(Exposed(place, f"is a link to {place.resolve()}"))
        real = place.resolve()  # what is meant is there
        if not real.exists():
            continue
        if place in places:
            exposures += _look(real, _reach(real), 0o066)
        elif cause := _opened(real.stat(), _reach(real), 0o022):
            exposures.append(Exposed(place, cause))
    return exposures


def exposure_words(exposures: Sequence[Exposed]) -> str:
    """The first of them in words."""
    more = f" and {len(exposures) - _SHOWN:,} more" if len(exposures) > _SHOWN else ""
    return "; ".join(map(str, exposures[:_SHOWN])) + more


def _reach(path: Path) -> int:
    """Which others can come as far as to what is in a path's folder: bits of its group's and everybody's."""
    reach = _GROUP | _WORLD
    for folder in path.parents:
        reach &= folder.stat().st_mode
    return reach


def _look(path: Path, reach: int, bits: int) -> list[Exposed]:
    try:
        status = path.lstat()
        through = reach & status.st_mode if stat.S_ISDIR(status.st_mode) else 0
        children = sorted(path.iterdir()) if through else []
    except FileNotFoundError:  # it went while this looked
        return []
    if stat.S_ISLNK(status.st_mode):
        return [Exposed(path, f"is a link to {path.resolve()}")]
    exposures = []
    if status.st_uid not in (os.geteuid(), 0) and os.geteuid():
        exposures.append(Exposed(path, "belongs to another user"))
    if cause := _opened(status, reach, bits):
        exposures.append(Exposed(path, cause))
    for child in children:
        exposures += _look(child, through, bits)
    return exposures


def _opened(status: os.stat_result, reach: int, bits: int) -> str:
    """What others may do with a file that they can reach, in words; empty: nothing."""
    mode = status.st_mode & bits
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        mode &= ~0o022  # as in /tmp: others may add files, and not replace ours
    if not reach & _GROUP or _is_own_group(status):
        mode &= 0o007
    if not reach & _WORLD:
        mode &= 0o070
    if not mode:
        return ""
    kinds = [name for name, mask in (("read", 0o044), ("written", 0o022)) if mode & mask]
    return f"can be {' and '.join(kinds)} by others ({stat.S_IMODE(status.st_mode):04o})"


def _is_own_group(status: os.stat_result) -> bool:
    """Whether a file's group is its owner's alone, as many systems make one for each user."""
    import grp
    import pwd

    try:
        group, owner = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid)
    except KeyError:
        return False
    return group.gr_name == owner.pw_name and not set(group.gr_mem) - {owner.pw_name}
