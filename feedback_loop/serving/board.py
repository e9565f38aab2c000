"""One worker's figures in a file that the server's other workers can read at any moment.

Prometheus scrapes one port behind which several workers answer, and reaches any of them. Each must therefore tell of
all, and never less than another has told already: a counter that falls looks like a restart. So the figures are not
copied from time to time; each worker counts in the shared memory of its own file (numbers of 8 bytes at places that
follow from the models' names), and whoever is asked adds the files up. A number has one writing thread, which makes a
lock needless and a count cost a tenth of a microsecond; prometheus_client's own way costs several and a lock.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import shutil
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from feedback_loop.capture.files import take_lock

ROUTES = (
    "invocations", "infer", "outcomes", "events", "metrics", "metadata", "openapi",
    "ping", "health", "ready", "version", "webhooks", "other",
)  # fmt: skip
"""What requests are counted under: few names, whatever callers ask for."""

STATUSES = (200, 202, 204, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503, 0)
"""0: any other one."""

SECONDS = (
    0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
"""Upper bounds of the buckets of a request's time."""

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Upper bounds of the buckets of a batch's size."""

READINGS = 100
"""So often a text is read that is being written to."""

SUFFIX = ".figures"
_FOLDER = "figures-"
_LOCK = "lock"
_TEXT_BYTES = 4096  # for the versions in service; and as many for each model

InService = tuple[str, str, str]
"""Model, role and version."""


@dataclass(frozen=True)
class Places:
    """Where each number stands, by the models that are served; the same for all workers of a server."""

    models: tuple[str, ...]

    requests = 0
    times = len(ROUTES) * len(STATUSES)  # per route: its buckets, those above all, and the sum in nanoseconds
    per_time = len(SECONDS) + 2
    batches = times + len(ROUTES) * per_time
    in_flight = batches + len(ROWS) + 2
    swaps = in_flight + 1

    @property
    def dropped(self) -> int:
        """The first of the shadows' dropped rows, by model."""
        return self.swaps + len(self.models)

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return self.dropped + len(self.models)

    @property
    def text(self) -> int:
        """How many bytes the versions in service may take."""
        return _TEXT_BYTES * (1 + len(self.models))


_IN_FLIGHT, _SUM, _OTHER_STATUS = Places.in_flight, len(SECONDS) + 1, len(STATUSES) - 1
"""At hand, since they are needed with every request."""


@dataclass(frozen=True)
class Figures:
    """What one worker has counted; `is_alive` is False once its process is gone."""

    pid: int
    numbers: Sequence[int]
    in_service: list[InService]
    is_alive: bool


class Board:
    """The figures of this worker. Nothing is opened before `open`; until then nothing may be counted.

    `request_began`, `request_done` and `shadow_dropped` are called by the event loop's thread, `batch_done` by that
    which computes a batch (there is one at a time); the others each always by the same one.
    """

    def __init__(self, folder: Path, models: Sequence[str]) -> None:
        self.folder = folder
        self.places = Places(tuple(models))
        self._routes = {
            route: (number * len(STATUSES), Places.times + number * Places.per_time)
            for number, route in enumerate(ROUTES)
        }
        self._statuses = {status: number for number, status in enumerate(STATUSES)}
        self._model = {model: number for number, model in enumerate(models)}
        self._shown: dict[str, set[InService]] = {}
        self._numbers = memoryview(b"").cast("q")
        self._memory: mmap.mmap | None = None
        self._descriptor = -1

    def open(self) -> None:
        """Makes the file, which is this process's for as long as it lives: it holds its lock."""
        self.folder.mkdir(parents=True, exist_ok=True)
        size = self.places.count * 8 + self.places.text
        path = self.folder / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._descriptor, size)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._memory = mmap.mmap(self._descriptor, size)
        self._numbers = memoryview(self._memory)[: self.places.count * 8].cast("q")
        self.show_versions([])
        path.rename(path.with_name(path.name + SUFFIX))  # whoever sees it sees all of it

    def close(self) -> None:
        """Gives the file up; what is in it goes on counting for the server."""
        self._numbers.release()
        if self._memory is not None:
            self._memory.close()
            os.close(self._descriptor)
            self._memory = None

    def request_began(self) -> None:
        """Counts a request as being in flight."""
        self._numbers[_IN_FLIGHT] += 1

    def request_done(self, route: str, status: int, seconds: float) -> None:
        """Counts a request whose answer has left."""
        numbers = self._numbers
        requests, times = self._routes.get(route) or self._routes["other"]
        numbers[_IN_FLIGHT] -= 1
        numbers[requests + self._statuses.get(status, _OTHER_STATUS)] += 1
        numbers[times + bisect_left(SECONDS, seconds)] += 1
        numbers[times + _SUM] += int(seconds * 1e9)

    def batch_done(self, rows: int) -> None:
        """Counts a batch that was scored together."""
        self._numbers[Places.batches + bisect_left(ROWS, rows)] += 1
        self._numbers[Places.batches + len(ROWS) + 1] += rows

    def shadow_dropped(self, model: str, rows: int) -> None:
        """Counts rows that shadows did not score, since they were too slow."""
        self._numbers[self.places.dropped + self._model[model]] += rows

    def show_versions(self, in_service: Sequence[InService]) -> None:
        """Says which versions are in service in this worker from now on; what differs from before was swapped."""
        assert self._memory is not None  # it is open
        for model, before in self._shown.items():
            if before != {each for each in in_service if each[0] == model}:
                self._numbers[self.places.swaps + self._model[model]] += 1
        self._shown.clear()
        for each in in_service:
            self._shown.setdefault(each[0], set()).add(each)
        text = msgspec.json.encode(in_service)
        start = self.places.count * 8
        room = self.places.text - 8
        if len(text) > room:  # names of kilobytes: there is no use in showing a part
            text = b"[]"
        head = zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little")
        self._memory[start : start + 8 + len(text)] = head + text

    def read_all(self) -> list[Figures]:
        """The figures of all of the server's workers, this one and ended ones too."""
        return [self._read(path) for path in sorted(self.folder.glob(f"*{SUFFIX}"))]

    def _read(self, path: Path) -> Figures:
        body = path.read_bytes()
        split = self.places.count * 8
        return Figures(
            pid=int(path.name.partition("-")[0]),
            numbers=memoryview(body)[:split].cast("q"),
            in_service=_versions(path, split, body[split:]),
            is_alive=_is_locked(path),
        )


def _versions(path: Path, start: int, body: bytes) -> list[InService]:
    """What stands in the text; read again where it was written to at that very moment.

    Nothing where it stays so: its worker died while it wrote.
    """
    for _ in range(READINGS):
        crc, size = int.from_bytes(body[:4], "little"), int.from_bytes(body[4:8], "little")
        text = body[8 : 8 + size]
        if zlib.crc32(text) == crc:
            return msgspec.json.decode(text, type=list[InService])
        body = path.read_bytes()[start:]
    return []


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def shared_folder(cache: Path) -> Iterator[Path]:
    """A folder for the figures of one server's workers, gone at the end. What killed servers left goes now."""
    cache.mkdir(parents=True, exist_ok=True)
    for left in cache.glob(f"{_FOLDER}*"):
        lock = take_lock(left / _LOCK, creates=False)
        if lock is not None:
            shutil.rmtree(left)
            os.close(lock)
    folder = cache / f"{_FOLDER}{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    lock = take_lock(folder / _LOCK, creates=True)
    assert lock is not None  # nobody else knows its name
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
