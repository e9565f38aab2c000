"""What the stager publishes for the workers: which bundle of a model has which role, in one file replaced whole."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

from feedback_loop.errors import FeedbackLoopError, Refused, Unavailable
from feedback_loop.inference import Coefficients
from feedback_loop.private import new_folder, private_files

SPARE_BUNDLES = 2
"""So many bundles that nobody uses any more stay in the cache, those that were used last."""

SPARE_SECONDS = 600.0
"""So long an adapter's coefficients stay that nobody uses: a server that writes them publishes them next."""

HALF_MADE_SECONDS = 86_400.0
"""After so long nobody is still making a bundle: its stager was killed."""

HINT = "hint"
"""The file in the cache that is touched to wake the stager."""


class Part(msgspec.Struct, frozen=True):
    """A version that takes part, the folder of its bundle, and the alias that made it take part."""

    version: str
    bundle: str
    alias: str = ""


class AdapterPart(msgspec.Struct, frozen=True):
    """A revision of an adapter, and the file beside the bundles that holds its coefficients."""

    revision: int
    file: str


class Publication(msgspec.Struct, frozen=True):
    """Who answers for a model: the champion, a canary for a share of the keys; and which shadows look on.

    The answers of all of them go through the `adapter`, if there is one. `form` names the configuration that the
    bundles were made by: what another one made is not used.
    """

    form: str
    champion: Part
    shadows: tuple[Part, ...] = ()
    canary: Part | None = None
    share: float = 0.0
    adapter: AdapterPart | None = None

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

    Servers of several aliases share the folder, and the bundles in it. `adapts`: whether its adapter is on.
    """

    folder: Path
    label: str
    form: str
    adapts: bool = False

    @classmethod
    def of(cls, cache: Path, model: str, label: str, form: str, *, adapts: bool = False) -> Place:
        """The place of a model in the cache."""
        # MLflow takes a percent sign in a path for an escape.
        return cls(cache / quote(model, safe="").replace("%", "="), quote(label, safe=""), form, adapts)

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
        """What is published; None where nothing is, or nothing of this configuration whose bundles are there.

        Without the adapter where it is off, or its coefficients are not there as they were written.
        """
        publication = _read(self.published, Publication)
        if publication is None or publication.form != self.form:
            return None
        if not all(self.bundle(part.bundle).is_dir() for part in publication.parts):
            return None
        if publication.adapter is not None and not (self.adapts and self._is_intact(publication.adapter)):
            return msgspec.structs.replace(publication, adapter=None)
        return publication

    def last(self) -> str | None:
        """The version that answered last, whatever the configuration was then."""
        publication = _read(self.published, Publication)
        return publication.champion.version if publication is not None else None

    def keep_coefficients(self, revision: int, digest: str, load: Callable[[], bytes | None]) -> AdapterPart | None:
        """The part of a revision whose coefficients have that digest, written beside the bundles if it is not there.

        None where `load` has none. Raises Refused where what it gives is not what was written.
        """
        part = AdapterPart(revision, f"{_ADAPTER}{revision}-{digest[:16]}")
        if self._is_intact(part):
            return part
        content = load()
        if content is None:
            return None
        Coefficients.from_bytes(content)
        _write(self.folder / part.file, content)
        return part

    def coefficients(self, part: AdapterPart) -> Coefficients:
        """A revision's coefficients; raises OSError, and Refused where they are not what was written."""
        return Coefficients.from_bytes((self.folder / part.file).read_bytes())

    def _is_intact(self, part: AdapterPart) -> bool:
        try:
            self.coefficients(part)
        except (OSError, Refused):
            return False
        return True

    def publish(self, publication: Publication) -> None:
        """Replaces what is published."""
        _write(self.published, publication)
        self._failed.unlink(missing_ok=True)
        self._wanted.unlink(missing_ok=True)

    def fail(self, failure: Failure) -> None:
        """Writes why nothing is published."""
        _write(self._failed, failure)
        self._wanted.unlink(missing_ok=True)

    def want(self) -> None:
        """Notes that somebody asked for the model while it was not ready."""
        with suppress(OSError):  # noted before; or the disk is full, and the caller is told the same
            new_folder(self.folder)
            self._wanted.touch(mode=0o600, exist_ok=False)

    def wanted_at(self) -> float:
        """When somebody first did; infinity where nobody has."""
        wanted = stamp(self._wanted)
        return wanted[1] if wanted is not None else float("inf")

    def forget_failure(self) -> None:
        """Before a new attempt: a failure that is read later is of this one."""
        self._failed.unlink(missing_ok=True)

    def failure(self) -> Failure | None:
        """Why nothing is published, if a reason was written."""
        return _read(self._failed, Failure)

    def in_use(self) -> set[str]:
        """The bundles and the adapters' files that any server's publication names."""
        publications = (_read(path, Publication) for path in self.folder.glob("published-*.json"))
        known = [publication for publication in publications if publication is not None]
        adapters = {publication.adapter.file for publication in known if publication.adapter is not None}
        return adapters | {part.bundle for publication in known for part in publication.parts}

    def clean(self, now: float | None = None, *, beside: Path | None = None) -> list[Path]:
        """Removes bundles that nobody uses any more, but for the last used: a rollback finds its version there.

        `beside` is a bundle that the caller uses itself. What a stager was making when it was killed, and adapters'
        files of before, are removed once they are old. Returns the bundles that were removed.
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
        for path in self.folder.glob(f"{_ADAPTER}*"):
            made = stamp(path)
            if path.name not in used and made is not None and at - made[1] / 1e9 > SPARE_SECONDS:
                path.unlink(missing_ok=True)
        return gone

    @staticmethod
    def touch(bundle: Path, now: float | None = None) -> None:
        """Notes that a bundle is used, at its folder."""
        if bundle.is_dir():
            os.utime(bundle, None if now is None else (now, now))

    @property
    def _failed(self) -> Path:
        return self.folder / f"failed-{self.label}.json"

    @property
    def _wanted(self) -> Path:
        return self.folder / f"wanted-{self.label}"


_ADAPTER = "adapter-"
"""What the files of coefficients begin with."""


class NotStaged(FeedbackLoopError):
    """There is no version to answer with."""


class InTheMaking(Unavailable):
    """Of a model no version is ready yet; the stager is at it, or will be."""

    def __init__(self, model: str) -> None:
        super().__init__(f"model {model!r}", f"Model {model!r} is still being made ready.", cure="Ask again later.")


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


def _write(path: Path, record: Publication | Failure | bytes) -> None:
    new_folder(path.parent)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with private_files(), new.open("wb") as file:
        file.write(record if isinstance(record, bytes) else msgspec.json.encode(record))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
