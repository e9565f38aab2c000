"""What the stager publishes for the workers: which bundle of a model has which role, in one file replaced whole."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

from feedback_loop.errors import FeedbackLoopError
from feedback_loop.private import new_folder, private_files

SPARE_BUNDLES = 2
"""So many bundles that nobody uses any more stay in the cache, those that were used last."""

HALF_MADE_SECONDS = 86_400.0
"""After so long nobody is still making a bundle: its stager was killed."""

HINT = "hint"
"""The file in the cache that is touched to wake the stager."""


class Part(msgspec.Struct, frozen=True):
    """A version that takes part, the folder of its bundle, and the alias that made it take part."""

    version: str
    bundle: str
    alias: str = ""


class Publication(msgspec.Struct, frozen=True):
    """Who answers for a model: the champion, a canary for a share of the keys; and which shadows look on.

    `form` names the configuration that the bundles were made by: what another one made is not used.
    """

    form: str
    champion: Part
    shadows: tuple[Part, ...] = ()
    canary: Part | None = None
    share: float = 0.0

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that take part."""
        return (self.champion, *self.shadows, *((self.canary,) if self.canary is not None else ()))


class Failure(msgspec.Struct, frozen=True):
    """Why there is nothing to publish."""

    cause: str
    cure: str = ""


_Record = TypeVar("_Record", Publication, Failure)


@dataclass(frozen=True)
class Place:
    """The folder of one model's bundles, as one server's reference (`name@alias`) sees it.

    Servers of several aliases share the folder, and the bundles in it.
    """

    folder: Path
    label: str
    form: str

    @classmethod
    def of(cls, cache: Path, model: str, label: str, form: str) -> Place:
        """The place of a model in the cache."""
        # MLflow takes a percent sign in a path for an escape.
        return cls(cache / quote(model, safe="").replace("%", "="), quote(label, safe=""), form)

    @property
    def published(self) -> Path:
        """The file with the publication."""
        return self.folder / f"published-{self.label}.json"

    def bundle(self, name: str) -> Path:
        """The folder of a bundle."""
        return self.folder / name

    def bundle_name(self, version: str) -> str:
        """What the bundle of a version is called: those of another configuration have other names."""
        return f"{quote(version, safe='')}-{self.form}"

    def read(self) -> Publication | None:
        """What is published; None where nothing is, or nothing of this configuration whose bundles are there."""
        publication = _read(self.published, Publication)
        if publication is None or publication.form != self.form:
            return None
        return publication if all(self.bundle(part.bundle).is_dir() for part in publication.parts) else None

    def last(self) -> str | None:
        """The version that answered last, whatever the configuration was then."""
        publication = _read(self.published, Publication)
        return publication.champion.version if publication is not None else None

    def publish(self, publication: Publication) -> None:
        """Replaces what is published."""
        _write(self.published, publication)
        self._failed.unlink(missing_ok=True)

    def fail(self, failure: Failure) -> None:
        """Writes why nothing is published."""
        _write(self._failed, failure)

    def forget_failure(self) -> None:
        """Before a new attempt: a failure that is read later is of this one."""
        self._failed.unlink(missing_ok=True)

    def failure(self) -> Failure | None:
        """Why nothing is published, if a reason was written."""
        return _read(self._failed, Failure)

    def in_use(self) -> set[str]:
        """The bundles that any server's publication names."""
        publications = (_read(path, Publication) for path in self.folder.glob("published-*.json"))
        return {part.bundle for publication in publications if publication is not None for part in publication.parts}

    def clean(self, now: float | None = None, *, beside: Path | None = None) -> list[Path]:
        """Removes bundles that nobody uses any more, but for the last used: a rollback finds its version there.

        `beside` is a bundle that the caller uses itself. What a stager was making when it was killed is removed
        once it is old. Returns what was removed.
        """
        at, used = time.time() if now is None else now, {*self.in_use(), *([beside.name] if beside else [])}
        for name in used:
            self.touch(self.bundle(name), at)
        unused = [(folder.stat().st_mtime, folder) for folder in self.folder.iterdir() if folder.is_dir()]
        unused = sorted((entry for entry in unused if entry[1].name not in used), reverse=True)
        half_made = [
            folder for used_at, folder in unused if folder.name[0] == "." and at - used_at > HALF_MADE_SECONDS
        ]
        gone = [*half_made, *[folder for _, folder in unused if folder.name[0] != "."][SPARE_BUNDLES:]]
        for folder in gone:
            shutil.rmtree(folder, ignore_errors=True)
        return gone

    @staticmethod
    def touch(bundle: Path, now: float | None = None) -> None:
        """Notes that a bundle is used, at its folder."""
        if bundle.is_dir():
            os.utime(bundle, None if now is None else (now, now))

    @property
    def _failed(self) -> Path:
        return self.folder / f"failed-{self.label}.json"


class NotStaged(FeedbackLoopError):
    """There is no version to answer with."""


def hint(cache: Path) -> None:
    """Wakes the stager: something may have changed in the registry."""
    new_folder(cache)
    (cache / HINT).touch(mode=0o600)


def stamp(path: Path) -> tuple[int, int, int] | None:
    """Changes when a file is replaced or touched; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: Path, kind: type[_Record]) -> _Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):  # another release's: it is made again
        return None


def _write(path: Path, record: Publication | Failure) -> None:
    new_folder(path.parent)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with private_files(), new.open("wb") as file:
        file.write(msgspec.json.encode(record))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
