"""The models that a server answers for: each with the versions that take part, swapped when others are published."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import structlog

from feedback_loop.errors import BadInput, ModelFault, NotFound, Unavailable, traceback_of
from feedback_loop.inference import Scorer
from feedback_loop.inference.inputs import made_up_row
from feedback_loop.schema import Role
from feedback_loop.schema.protocol import Decoder, Rows
from feedback_loop.serving.publication import NotStaged, Part, Place, Publication, stamp
from feedback_loop.serving.traffic import Target, Traffic

LOOK_SECONDS = 0.05
"""How often a worker looks whether something new was published: it costs a `stat` per model."""

AGAIN_SECONDS = 5.0
"""How long a worker waits before it tries a publication again that it could not open."""

Open = Callable[[str, Path], tuple[Scorer, Decoder]]
"""Loads a model's bundle, for answers and for requests."""

_log = structlog.get_logger(__name__)


class Endpoints:
    """Traffic by model name; `watch` keeps it at what is published. Thread-safe."""

    def __init__(self, places: Mapping[str, Place], open_bundle: Open) -> None:
        self._places = places
        self._open = open_bundle
        self._traffic: dict[str, Traffic] = {}
        self._opened: dict[str, dict[str, tuple[Scorer, Decoder]]] = {name: {} for name in places}
        self._stamps: dict[str, tuple[int, int, int] | None] = {}
        self._again: dict[str, float] = {}
        self._done = threading.Event()

    @property
    def served(self) -> list[str]:
        """Those of the models of which a version is loaded."""
        return [name for name in self._places if name in self._traffic]

    @property
    def names(self) -> list[str]:
        """The models, the default one first."""
        return list(self._places)

    def load(self) -> None:
        """Loads what is published of every model; raises what keeps them from being loaded where that is true of all.

        One that can't be loaded is not served, and tried again with every `refresh`; the others answer.
        """
        failures: list[Exception] = []
        for name, place in self._places.items():
            self._stamps[name] = stamp(place.published)
            try:
                self._load(name)
            except Exception as error:  # noqa: BLE001 (whatever is wrong with one model, the others answer)
                if not isinstance(error, NotStaged):  # else there is nothing to try until something is published
                    self._again[name] = time.monotonic() + AGAIN_SECONDS
                _log.error("model not served", model=name, cause=str(error))
                failures.append(error)
        if not self._traffic:
            raise failures[0]

    def versions(self) -> dict[str, str | None]:
        """By model, the version that answers; None where none is loaded yet."""
        loaded = self._traffic
        return {
            name: loaded[name].champion.scorer.version.version if name in loaded else None for name in self._places
        }

    def in_service(self) -> list[tuple[str, str, str]]:
        """Model, role and version of all that take part."""
        versions = []
        for name, traffic in self._traffic.items():
            targets = [traffic.champion, *((traffic.canary,) if traffic.canary is not None else ())]
            versions += [(name, str(target.role), target.scorer.version.version) for target in targets]
            versions += [(name, str(Role.SHADOW), scorer.version.version) for scorer in traffic.champion.shadows]
        return versions

    def traffic(self, name: str | None) -> Traffic:
        """The versions that take part for a model (None: the only or first one).

        Raises NotFound, and Unavailable for one of which no version could be loaded yet.
        """
        wanted = name if name is not None else self.names[0]
        traffic = self._traffic.get(wanted)
        if traffic is None and wanted in self._places:
            raise Unavailable(
                f"model {wanted!r}", "No version of it is loaded yet.", cure="See feedback-loop status."
            )
        if traffic is None:
            raise NotFound("model served here", wanted, cure=f"Served: {', '.join(self.names)}.")
        return traffic

    def scorer(self, name: str | None) -> Scorer:
        """The champion; raises NotFound and Unavailable."""
        return self.traffic(name).champion.scorer

    def open(self, name: str, version: str) -> Scorer | None:
        """A certain version, if its bundle is there."""
        bundle = self._places[name].bundle_name(version)
        if bundle in self._opened[name]:
            return self._opened[name][bundle][0]
        folder = self._places[name].bundle(bundle)
        return self._open(name, folder)[0] if folder.is_dir() else None

    def refresh(self) -> bool:
        """Swaps to what is published by now, if anything is new. What can't be opened leaves those of before."""
        is_new = False
        for name, place in self._places.items():
            now, published = time.monotonic(), stamp(place.published)
            if published == self._stamps.get(name) and now < self._again.get(name, float("inf")):
                continue
            self._stamps[name] = published
            self._again.pop(name, None)
            try:
                self._load(name)
                is_new = True
            except Exception as error:  # noqa: BLE001 (whatever is wrong with a new version, the old one answers)
                self._again[name] = now + AGAIN_SECONDS
                _log.warning("version not swapped", model=name, cause=str(error))
        return is_new

    def watch(self, swapped: Callable[[], None], also: Sequence[tuple[timedelta, Callable[[], None]]]) -> None:
        """Looks for what is new in the background until `stop`, calls `swapped` then, and `also` others at times."""
        due = [time.monotonic() + every.total_seconds() for every, _ in also]

        def work() -> None:
            while not self._done.wait(LOOK_SECONDS):
                try:
                    if self.refresh():
                        swapped()
                    for place, (every, call) in enumerate(also):
                        if time.monotonic() >= due[place]:
                            due[place] = time.monotonic() + every.total_seconds()
                            call()
                except Exception as error:  # noqa: BLE001 (who stopped looking would answer with the old version for ever)
                    _log.error("watch failed", exception=traceback_of(error))

        threading.Thread(target=work, name="watch versions", daemon=True).start()

    def stop(self) -> None:
        """Ends watching."""
        self._done.set()

    def _load(self, name: str) -> None:
        published = self._places[name].read()
        if published is None:
            raise NotStaged(f"No version of {name!r} has been published.", cure="Start the server again.")
        traffic = self._open_all(name, published)
        before, self._traffic[name] = self._traffic.get(name), traffic
        self._opened[name] = {part.bundle: self._opened[name][part.bundle] for part in published.parts}
        new = traffic.champion.scorer.version.version
        old = before.champion.scorer.version.version if before is not None else None
        _log.info("versions", model=name, old=old, champion=new, share=traffic.share, all=self.in_service())

    def _open_all(self, name: str, published: Publication) -> Traffic:
        """All that take part, loaded and warm: the old ones answer meanwhile."""
        champion, decoder = self._opened_part(name, published.champion)
        shadows = tuple(self._opened_part(name, part)[0] for part in published.shadows)
        canary = None
        if published.canary is not None:
            canary = Target(self._opened_part(name, published.canary)[0], Role.CANARY, shadows)
        return Traffic(Target(champion, Role.CHAMPION, shadows), decoder, canary, published.share)

    def _opened_part(self, name: str, part: Part) -> tuple[Scorer, Decoder]:
        opened = self._opened[name]
        if part.bundle not in opened:
            scorer, decoder = self._open(name, self._places[name].bundle(part.bundle))
            warm(scorer)
            opened[part.bundle] = scorer, decoder
        return opened[part.bundle]


def warm(scorer: Scorer) -> None:
    """Scores a made-up row: what is made with the first call is made before the first caller comes."""
    try:
        scorer.score_rows(Rows(1, {name: [value] for name, value in made_up_row(scorer.contract).items()}, [None]))
    except (BadInput, ModelFault) as error:  # a row of zeros need not make sense to every model
        _log.debug("not warmed", version=str(scorer.version), cause=str(error))
