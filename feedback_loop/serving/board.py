"""What a server's workers count, in files that whoever is asked adds up: prometheus_client's multiprocess format.

Prometheus scrapes one port behind which several workers answer, and reaches any of them. Each must therefore tell of
all. Each worker counts in memory-mapped files of its own, which outlive it: what it counted stays counted. They are
written here and not by prometheus_client's metrics, which choose their folder by a variable of the environment when
they are imported, and look labels up for each count.
"""

from __future__ import annotations

import os
import secrets
import shutil
import struct
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

from feedback_loop.capture.locks import take_lock
from feedback_loop.private import new_folder

ROUTES = (
    "invocations", "infer", "outcomes", "actions", "events", "metrics", "metadata", "openapi",
    "ping", "health", "ready", "version", "webhooks", "other",
)  # fmt: skip
"""What requests are counted under: few names, whatever callers ask for."""

SECONDS = (
    0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    float("inf"),
)  # fmt: skip
"""Upper bounds of the buckets of a request's time."""

ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, float("inf"))
"""Upper bounds of the buckets of a batch's size."""

MEANINGS = {
    "requests": "Requests by route and status.",
    "errors": "Requests that failed, by whose fault it was.",
    "request_seconds": "Time to the answer.",
    "batch_rows": "Rows that were scored together.",
    "swaps": "Times that a worker has begun to answer with another version.",
    "shadow_rows_dropped": "Rows that shadows did not score, since they were too slow.",
    "model_loads": "Models that were loaded when they were asked for: not all that are served may be in memory.",
    "models_put_away": "Models that made room for another.",
    "workers": "Workers that answer.",
    "requests_in_flight": "Requests that wait for their answer.",
    "version_in_service": "Workers in which the version is in service.",
}

COUNTER, HISTOGRAM, NOW = "counter", "histogram", "gauge_livesum"
"""What files are called by what is in them, as prometheus_client knows them. `NOW` goes with its worker."""

_FOLDER = "figures-"
_LOCK = "lock"

InService = tuple[str, str, str]
"""Model, role and version."""

Labels = tuple[tuple[str, str], ...]

_PACK = struct.Struct("d").pack


def _key(name: str, suffix: str, labels: Labels) -> str:
    names, values = ([label[place] for label in labels] for place in (0, 1))
    family = f"feedback_loop_{name}"
    return mmap_key(family, family + suffix, names, values, MEANINGS[name])


_IN_FLIGHT = _key("requests_in_flight", "", ())


@dataclass(frozen=True)
class _Histogram:
    """The keys of a histogram's numbers."""

    labels: Labels
    sum: str
    buckets: list[str]

    @classmethod
    def of(cls, name: str, bounds: Sequence[float], labels: Labels) -> _Histogram:
        buckets = [_key(name, "_bucket", (*labels, ("le", floatToGoString(bound)))) for bound in bounds]
        return cls(labels, _key(name, "_sum", labels), buckets)


class Board:
    """The figures of this worker. Nothing is opened before `open`; until then nothing may be counted. Thread-safe."""

    def __init__(self, folder: Path, models: Sequence[str]) -> None:
        self.folder = folder
        self._models = tuple(models)
        self._guard = threading.Lock()
        self._files: dict[str, MmapedDict] = {}
        self._numbers: dict[str, dict[str, list[Any]]] = {}  # value and place
        self._requests: dict[str, tuple[_Histogram, dict[int, str]]] = {}
        self._batches: _Histogram | None = None
        self._shown: dict[str, set[InService]] = {}
        self._descriptor: int | None = None

    def open(self) -> None:
        """Makes the files, which are this process's for as long as it lives: it holds their lock."""
        new_folder(self.folder)
        self._descriptor = take_lock(self._lock(os.getpid()), creates=True)
        for kind in (COUNTER, HISTOGRAM, NOW):
            path = self.folder / f"{kind}_{os.getpid()}.db"
            new = path.with_suffix(".new")
            self._files[kind], self._numbers[kind] = MmapedDict(str(path if path.exists() else new)), {}
            if new.exists():
                new.rename(path)  # whoever sees it sees all of it
        for model in self._models:
            for name in ("swaps", "shadow_rows_dropped"):
                self._add(COUNTER, name, "_total", (("model", model),), 0)
        for name in ("model_loads", "models_put_away"):
            self._add(COUNTER, name, "_total", (), 0)
        self._add(NOW, "workers", "", (), 1)
        self._add(NOW, "requests_in_flight", "", (), 0)

    def close(self) -> None:
        """Gives the files up; what is in them goes on counting for the server."""
        if self._descriptor is None:
            return
        for file in self._files.values():
            file.close()
        self._files.clear()
        os.close(self._descriptor)
        self._descriptor = None

    def request_began(self) -> None:
        """Counts a request as being in flight."""
        self._write((NOW, _IN_FLIGHT, 1))

    def request_done(self, route: str, status: int, seconds: float) -> None:
        """Counts a request whose answer has left."""
        times, answers = self._requests.get(route) or self._begun(route)
        key = answers.get(status)
        if key is None:
            key = answers[status] = _key("requests", "_total", (*times.labels, ("status", str(status))))
        self._write(
            (NOW, _IN_FLIGHT, -1),
            (COUNTER, key, 1),
            (HISTOGRAM, times.sum, seconds),
            (HISTOGRAM, times.buckets[bisect_left(SECONDS, seconds)], 1),
        )
        if status >= 400:
            fault = ("fault", "server" if status >= 500 else "caller")
            self._write((COUNTER, _key("errors", "_total", (*times.labels, fault)), 1))

    def batch_done(self, rows: int) -> None:
        """Counts a batch that was scored together."""
        batches = self._batches or self._begun_batches()
        self._write((HISTOGRAM, batches.sum, rows), (HISTOGRAM, batches.buckets[bisect_left(ROWS, rows)], 1))

    def shadow_dropped(self, model: str, rows: int) -> None:
        """Counts rows that shadows did not score, since they were too slow."""
        self._add(COUNTER, "shadow_rows_dropped", "_total", (("model", model),), rows)

    def show_versions(self, in_service: Sequence[InService]) -> None:
        """Says which versions are in service in this worker from now on; what differs from before was swapped."""
        shown: dict[str, set[InService]] = {}
        for version in in_service:
            shown.setdefault(version[0], set()).add(version)
        for model, before in self._shown.items():
            if before != shown.get(model, set()):
                self._add(COUNTER, "swaps", "_total", (("model", model),), 1)
        for version in set().union(*self._shown.values()) ^ set(in_service):
            labels = tuple(zip(("model", "role", "version"), version, strict=True))
            self._add(NOW, "version_in_service", "", labels, 1 if version in in_service else -1)
        self._shown = shown

    def model_moved(self, count: int) -> None:
        """Counts a model that was loaded when it was asked for (1), or put away (-1)."""
        self._add(COUNTER, "model_loads" if count > 0 else "models_put_away", "_total", (), 1)

    def alive(self) -> list[int]:
        """The processes of the workers that live. What others told of now is done away with."""
        living = []
        for path in self.folder.glob(f"{NOW}_*.db"):
            pid = int(path.stem.rpartition("_")[2])
            lock = take_lock(self._lock(pid), creates=False)
            if lock is None:
                living.append(pid)
            else:
                path.unlink(missing_ok=True)
                os.close(lock)
        return living

    def collect(self) -> Iterator[Metric]:
        """The figures of all of the server's workers, added up, also of those that ended."""
        self.alive()
        with suppress(FileNotFoundError):  # a worker's file that was there a moment ago: it has just ended
            for metric in MultiProcessCollector(None, str(self.folder)).collect():
                if metric.type == "gauge":  # a version that is in service nowhere any more is not told
                    metric.samples = [sample for sample in metric.samples if sample.value or not sample.labels]
                yield metric

    def _begun(self, route: str) -> tuple[_Histogram, dict[int, str]]:
        """What a route's requests are counted under, told from the first of them on."""
        labels = (("route", route if route in ROUTES else "other"),)
        times = _Histogram.of("request_seconds", SECONDS, labels)
        faults = [_key("errors", "_total", (*labels, ("fault", fault))) for fault in ("caller", "server")]
        self._write(*((HISTOGRAM, bucket, 0) for bucket in times.buckets), *((COUNTER, fault, 0) for fault in faults))
        if route in ROUTES:
            self._requests[route] = times, {}
        return times, {}

    def _begun_batches(self) -> _Histogram:
        batches = self._batches = _Histogram.of("batch_rows", ROWS, ())
        self._write(*((HISTOGRAM, bucket, 0) for bucket in batches.buckets))
        return batches

    def _add(self, kind: str, name: str, suffix: str, labels: Labels, amount: float) -> None:
        self._write((kind, _key(name, suffix, labels), amount))

    def _write(self, *counts: tuple[str, str, float]) -> None:
        """Adds to the numbers at these keys of these files; what they are is remembered, since nobody else writes."""
        with self._guard:
            for kind, key, amount in counts:
                file, numbers = self._files[kind], self._numbers[kind]
                number = numbers.get(key)
                if number is None:  # the file has a place for it from now on
                    number = [file.read_value(key)[0], file._positions[key]]  # noqa: SLF001
                    numbers[key] = number
                number[0] += amount
                at = number[1]
                file._m[at : at + 8] = _PACK(number[0])  # noqa: SLF001 (as write_value does, without its look-ups)

    def _lock(self, pid: int) -> Path:
        return self.folder / f"{pid}.{_LOCK}"


@contextmanager
def shared_folder(cache: Path) -> Iterator[Path]:
    """A folder for the figures of one server's workers, gone at the end. What killed servers left goes now."""
    new_folder(cache)
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
