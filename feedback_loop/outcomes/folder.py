"""Outcomes that are put into a folder (here, or of an object store) as files: each is taken in once, then moved."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback_loop.errors import BadInput, ConfigError, NotFound, Unavailable
from feedback_loop.outcomes.formats import decode_outcomes, format_of
from feedback_loop.outcomes.intake import IntakeResult
from feedback_loop.store import outcomes as stored

LOADED = "loaded"
REFUSED = "refused"


@dataclass(frozen=True)
class FolderIntake:
    """What became of a folder's files."""

    counts: stored.Intake
    loaded: int
    refused: dict[str, str]


@dataclass(frozen=True)
class RefusedFile:
    """A file of a folder that was not taken in. Another content of the same name has another digest."""

    name: str
    digest: str
    error: BadInput


def read_outcomes(path: Path) -> tuple[Any, bool]:
    """A file's rows, and whether their values are text; raises NotFound and BadInput."""
    if not path.exists():
        raise NotFound("file", str(path))
    if path.is_dir():
        raise BadInput.of("file", f"{path} is a folder", cure="Name one file of it.")
    return decode_outcomes(path.read_bytes(), format_of(path.name), path.name)


def load_folder(
    folder: str,
    take: Callable[[Any, bool], IntakeResult],
    tell: Callable[[RefusedFile], object] = lambda _: None,
) -> FolderIntake:
    """Takes every file of a folder in, by name, and moves it to `loaded/` (or `refused/`, with its cause beside).

    `folder` is a path or a URL that fsspec knows (`s3://bucket/outcomes`, `gs://…`, `abfs://…`). A crash between
    the two leaves the file: it is taken in again, which changes nothing. A name that begins with a dot is a file
    that is still being written. `tell` hears of each refused file before it is moved. Raises ConfigError (the URL's
    driver is missing) and Unavailable.
    """
    with _translated(folder):
        system, root = _open(folder)
        system.makedirs(root, exist_ok=True)
        system.invalidate_cache(root)
        paths = sorted(each["name"] for each in system.ls(root, detail=True) if each["type"] == "file")
    counts, loaded, refused = stored.Intake(), 0, {}
    for path in paths:
        name = path.rstrip("/").rpartition("/")[2]
        if name.startswith("."):
            continue
        with _translated(folder):
            content = system.cat_file(path)
        try:
            counts += take(*decode_outcomes(content, format_of(name), name)).counts
        except BadInput as error:
            refused[name] = str(error)
            tell(RefusedFile(name, hashlib.sha256(content).hexdigest()[:16], error))
            with _translated(folder):
                target = _move(system, root, path, REFUSED)
                system.pipe_file(f"{target}.cause.txt", f"{error}\n".encode())
            continue
        loaded += 1
        with _translated(folder):
            _move(system, root, path, LOADED)
    return FolderIntake(counts, loaded, refused)


def _open(folder: str) -> tuple[Any, str]:
    import fsspec

    system, root = fsspec.core.url_to_fs(folder)
    return system, str(root).rstrip("/")


def _move(system: Any, root: str, path: str, into: str) -> str:
    """Where a file lies now: renamed where the store can do that, else copied and then deleted."""
    target = f"{root}/{into}/{path.rpartition('/')[2]}"
    system.makedirs(f"{root}/{into}", exist_ok=True)
    system.mv(path, target)
    return target


@contextmanager
def _translated(folder: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"The folder {folder} can't be opened: {error}.",
            cure="Install what fsspec needs for it (s3fs, gcsfs, adlfs, …) beside this package, or correct it.",
            key="outcomes.folder",
        ) from error
    except OSError as error:
        raise Unavailable(
            "folder", f"The folder {folder} did not answer: {error}.", cure="The next run tries again."
        ) from error
