"""Outcomes that are put into a folder (here, or of an object store) as files: each is taken in once, then moved."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import structlog

from feedback_loop.errors import BadInput, ConfigError, Unavailable
from feedback_loop.outcomes.intake import IntakeResult
from feedback_loop.outcomes.streaming import OutcomeFile
from feedback_loop.store import outcomes as stored

LOADED = "loaded"
REFUSED = "refused"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class FolderIntake:
    """What became of a folder's files; `waiting` are left where they are, as the store did not answer (`cause`)."""

    counts: stored.Intake
    loaded: int
    refused: dict[str, str]
    waiting: int = 0
    cause: str = ""


@dataclass(frozen=True)
class RefusedFile:
    """A file of a folder that was not taken in. Another content of the same name has another digest."""

    name: str
    digest: str
    error: BadInput


def load_folder(
    folder: str,
    load: Callable[[OutcomeFile], IntakeResult],
    tell: Callable[[RefusedFile], object] = lambda _: None,
) -> FolderIntake:
    """Takes every file of a folder in, by name, and moves it to `loaded/` (or `refused/`, with its cause beside).

    `folder` is a path or a URL that fsspec knows (`s3://bucket/outcomes`, `gs://…`, `abfs://…`). A crash between
    the two leaves the file: it is taken in again, which changes nothing. A name that begins with a dot is a file
    that is still being written. `tell` hears of each refused file before it is moved. While the store is away (`load`
    or `tell` raise Unavailable), files stay where they are. Raises ConfigError (the URL's driver is missing) and
    Unavailable (the folder did not answer).
    """
    with _translated(folder):
        system, root = _open(folder)
        system.makedirs(root, exist_ok=True)
        system.invalidate_cache(root)
        paths = sorted(entry["name"] for entry in system.ls(root, detail=True) if entry["type"] == "file")
    paths = [path for path in paths if not _name(path).startswith(".")]
    counts, loaded, refused = stored.Intake(), 0, {}
    for place, path in enumerate(paths):
        with _local(system, path, folder) as file:
            try:
                try:
                    counts += load(file).counts
                except BadInput as error:
                    refused[file.name] = str(error)
                    tell(RefusedFile(file.name, _digest(file.path), error))
            except Unavailable as error:
                waiting = len(paths) - place
                _log.warning("files of outcomes wait", folder=folder, files=waiting, cause=str(error))
                refused.pop(file.name, None)
                return FolderIntake(counts, loaded, refused, waiting, str(error))
        with _translated(folder):
            if file.name in refused:
                target = _move(system, root, path, REFUSED)
                system.pipe_file(f"{target}.cause.txt", f"{refused[file.name]}\n".encode())
            else:
                loaded += 1
                _move(system, root, path, LOADED)
    return FolderIntake(counts, loaded, refused)


@contextmanager
def copied(stream: IO[bytes], kind: str, name: str) -> Iterator[OutcomeFile]:
    """A stream's content as a file, in a folder of this process for as long as the block takes."""
    with tempfile.TemporaryDirectory(prefix="feedback-loop-outcomes-") as place:
        path = Path(place) / f"outcomes.{kind}"
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file)
        yield OutcomeFile(path, name)


@contextmanager
def _local(system: Any, path: str, folder: str) -> Iterator[OutcomeFile]:
    """A file of the folder on this disk: itself, or a copy of what an object store has."""
    from fsspec.implementations.local import LocalFileSystem

    if isinstance(system, LocalFileSystem):
        with _translated(folder), Path(path).open("rb"):
            pass  # one that can't be opened now is not refused for it: it waits
        yield OutcomeFile.of(Path(path))
        return
    with tempfile.TemporaryDirectory(prefix="feedback-loop-outcomes-") as place:
        here = Path(place) / _name(path)
        with _translated(folder):
            system.get_file(path, str(here))
        yield OutcomeFile.of(here)


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


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
