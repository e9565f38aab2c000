"""The models that a server answers for: each with the versions that take part, swapped when others are published.

A worker that has more models than it may keep in memory loads each when it is first asked for, in a thread, and puts
the one away that was asked for least recently; whoever is being answered by that one goes on to be.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import structlog

from feedback_loop.errors import BadInput, ModelFault, NotFound, Refused, Unavailable, traceback_of
from feedback_loop.inference import Coefficients, Scorer
from feedback_loop.inference.inputs import made_up_row
from feedback_loop.schema import Contract, Role
from feedback_loop.schema.protocol import Decoder, Rows
from feedback_loop.serving.memory import held_bytes
from feedback_loop.serving.publication import InTheMaking, NotStaged, Part, Place, Publication, stamp
from feedback_loop.serving.traffic import Target, Traffic

LOOK_SECONDS = 0.05
"""How often a worker looks whether something new was published: it costs a `stat` per model."""

LOOK_SHARE = 0.02
"""Looking takes no more of a processor than that: a worker that has hundreds of models looks less often."""

MOST_LOOK_SECONDS = 1.0

AGAIN_SECONDS = 5.0
"""How long a worker waits before it tries a publication again that it could not open."""

NAMED = 20
"""So many of its models are named to a caller who asks for another one."""

Open = Callable[[str, Path], tuple[Scorer, Decoder]]
"""Loads a model's bundle, for answers and for requests."""

ReadContract = Callable[[str, Path], Contract]
"""Reads what callers give and get out of a model's bundle, which is not loaded for that."""

_log = structlog.get_logger(__name__)


class Endpoints:
    """Traffic by model name; `watch` keeps it at what is published. Thread-safe.

    At most `most_loaded` models are in memory, and no more than one while this process holds more than `most_bytes`.
    Without `most_bytes`, and where there are no more than `most_loaded`, all are loaded at the start.
    `moved(1)` is called for each that is loaded when it is asked for, `moved(-1)` for each that is put away.
    """

    def __init__(
        self,
        places: Mapping[str, Place],
        open_bundle: Open,
        read_contract: ReadContract | None = None,
        most_loaded: int | None = None,
        most_bytes: int | None = None,
        moved: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._places = places
        self._open = open_bundle
        self._read_contract = read_contract or (lambda name, folder: open_bundle(name, folder)[0].contract)
        self._most = len(places) if most_loaded is None else most_loaded
        self._most_bytes = float("inf") if most_bytes is None else most_bytes
        self._loads_all = most_bytes is None and len(places) <= self._most
        self._moved = moved
        self._default = next(iter(places), "")
        self._traffic: dict[str, Traffic] = {}
        self._published: dict[str, Publication] = {}
        self._opened: dict[str, dict[str, tuple[Scorer, Decoder]]] = {name: {} for name in places}
        self._used: dict[str, float] = {}
        self._stamps: dict[str, tuple[int, int, int] | None] = {}
        self._again: dict[str, float] = {}
        self._loading: dict[str, Future[Traffic]] = {}
        self._lock = threading.Lock()  # of `_loading`, and of who is put away
        self._loader = ThreadPoolExecutor(1, "load models")
        self._swapper = ThreadPoolExecutor(1, "swap versions")  # no swap waits for models that are loaded
        self._done = threading.Event()

    @property
    def served(self) -> list[str]:
        """Those of the models that can be answered for: a version of them is loaded, or is when it is asked for."""
        return [name for name in self._places if self._is_served(name)]

    @property
    def names(self) -> list[str]:
        """The models, the default one first."""
        return list(self._places)

    def load(self) -> None:
        """Loads what is published of every model; raises what keeps them from being loaded where that is true of all.

        One that can't be loaded is not served, and tried again with every `refresh`; the others answer, those that
        are still being made ready once they are. Where there are more models than may be loaded, none is yet.
        """
        failures: list[Exception] = []
        for name in self._places:
            try:
                if self._loads_all:
                    self._begun(name).result()
                else:
                    self._look_again(name)
            except Exception as error:  # noqa: BLE001 (whatever is wrong with one model, the others answer)
                failures.append(error)
        if not self.served and not self.being_made_ready():
            raise failures[0]

    def being_made_ready(self) -> list[str]:
        """Models of which no version is ready yet, and of which nothing says that none will be."""
        return [name for name in self._places if self._is_being_made(name)]

    def versions(self) -> dict[str, str | None]:
        """By model, the version that answers; None where none can yet."""
        return {name: parts[0][1] if (parts := self.parts(name)) else None for name in self._places}

    def in_service(self) -> list[tuple[str, str, str]]:
        """Model, role and version of all that take part, loaded or not."""
        return [(name, *part) for name in self._places for part in self.parts(name)]

    def parts(self, name: str) -> list[tuple[str, str]]:
        """Role and version of all that take part for a model, the champion first; none where none can answer yet."""
        traffic, published = self._traffic.get(name), self._published.get(name)
        if traffic is not None:
            return _roles(traffic)
        return _published_roles(published) if published is not None and name not in self._again else []

    def name(self, asked: str | None) -> str:
        """The model that is meant (None: the only or first one), whether it is loaded or not.

        Raises NotFound, InTheMaking, and Unavailable for one of which no version could be loaded.
        """
        name = asked if asked is not None else self._default
        if self._is_served(name):
            return name
        if name in self._places:
            raise self._not_loaded(name)
        more = f" and {len(self._places) - NAMED:,} more" if len(self._places) > NAMED else ""
        raise NotFound("model served here", name, cure=f"Served: {', '.join(self.names[:NAMED])}{more}.")

    def loaded(self, asked: str | None) -> Traffic | None:
        """The versions that take part for a model (None: the only or first one) if they are in memory."""
        name = asked if asked is not None else self._default
        traffic = self._traffic.get(name)
        if traffic is not None and not self._loads_all:
            self._used[name] = time.monotonic()
        return traffic

    async def answering(self, asked: str | None) -> Traffic:
        """The same, loaded if need be, which keeps nobody else waiting; raises NotFound and Unavailable."""
        traffic = self.loaded(asked)
        if traffic is not None:
            return traffic
        name = self.name(asked)
        # Others may wait for the same load: a caller who goes away must not end it.
        waiting = asyncio.shield(asyncio.wrap_future(self._begun(name)))
        try:
            return await waiting
        except Exception as error:
            raise self._not_loaded(name) from error

    def traffic(self, asked: str | None) -> Traffic:
        """The same for a thread, which waits itself."""
        traffic = self.loaded(asked)
        if traffic is not None:
            return traffic
        name = self.name(asked)
        try:
            return self._begun(name).result()
        except Exception as error:
            raise self._not_loaded(name) from error

    def contract(self, name: str, version: str | None = None) -> Contract:
        """What callers of a version that was made ready here (None: of the champion) give and get.

        Nothing is loaded for that. Raises NotFound and Unavailable.
        """
        traffic, place = self._traffic.get(name), self._places[name]
        if traffic is not None and version in (None, traffic.champion.scorer.version.version):
            return traffic.contract
        number = version or self.champion(name)
        folder = place.bundle(place.bundle_name(number))
        if not folder.is_dir():
            cure = f"Serve it (feedback-loop serve {name}/{number}, or as a shadow), or log by a client of Python."
            raise NotFound("version that was made ready here", f"{name}/{number}", cure=cure)
        return self._read_contract(name, folder)

    def champion(self, name: str) -> str:
        """The version that answers; raises Unavailable."""
        parts = self.parts(name)
        if not parts:
            raise self._not_loaded(name)
        return parts[0][1]

    def refresh(self) -> bool:
        """Swaps to what is published by now, if anything is new. What can't be opened leaves those of before."""
        is_new = False
        for name, place in self._places.items():
            published = stamp(place.published)
            if published == self._stamps.get(name) and time.monotonic() < self._again.get(name, float("inf")):
                continue
            is_away = not self._loads_all and name not in self._traffic
            if is_away and name in self._loading:
                continue  # it may be of what was published before: looked at once more
            try:
                if is_away:
                    self._look_again(name)
                else:
                    self._begun(name).result()
                is_new = True
            except Exception as error:  # noqa: BLE001 (whatever is wrong with a new version, the old one answers)
                if name in self._traffic:
                    _log.warning("version not swapped", model=name, cause=str(error))
        return is_new

    def watch(self, swapped: Callable[[], None], also: Sequence[tuple[timedelta, Callable[[], None]]]) -> None:
        """Looks for what is new in the background until `stop`, calls `swapped` then, and `also` others at times."""
        due = [time.monotonic() + every.total_seconds() for every, _ in also]

        def work() -> None:
            pause = LOOK_SECONDS
            while not self._done.wait(pause):
                began = time.thread_time()
                try:
                    is_new = self.refresh()
                    pause = min(max(LOOK_SECONDS, (time.thread_time() - began) / LOOK_SHARE), MOST_LOOK_SECONDS)
                    if is_new:
                        swapped()
                    for place, (every, call) in enumerate(also):
                        if time.monotonic() >= due[place]:
                            due[place] = time.monotonic() + every.total_seconds()
                            call()
                except Exception as error:  # noqa: BLE001 (who stopped looking would answer with the old version for ever)
                    _log.error("watch failed", exception=traceback_of(error))

        threading.Thread(target=work, name="watch versions", daemon=True).start()

    def stop(self) -> None:
        """Ends watching, and what was to be loaded."""
        self._done.set()
        for threads in (self._loader, self._swapper):
            threads.shutdown(wait=False, cancel_futures=True)

    def _is_served(self, name: str) -> bool:
        return name in self._traffic or (name in self._published and name not in self._again)

    def _is_being_made(self, name: str) -> bool:
        return not self._is_served(name) and name not in self._again and self._places[name].failure() is None

    def _not_loaded(self, name: str) -> Unavailable:
        if self._is_being_made(name):
            self._places[name].want()
            return InTheMaking(name)
        return Unavailable(f"model {name!r}", "No version of it is loaded yet.", cure="See feedback-loop status.")

    def _look(self, name: str) -> None:
        """Reads what is published of a model that is not loaded; raises NotStaged."""
        place = self._places[name]
        self._stamps[name] = stamp(place.published)  # before it is read: what comes meanwhile is looked at again
        self._again.pop(name, None)
        published = place.read()
        if published is None:
            self._published.pop(name, None)
            raise NotStaged(f"No version of {name!r} has been published.", cure="Start the server again.")
        self._published[name] = published

    def _look_again(self, name: str) -> None:
        """The same; what else is wrong with it is tried again later, and raised too."""
        try:
            self._look(name)
        except Exception as error:
            self._failed(name, error)
            raise

    def _failed(self, name: str, error: Exception) -> None:
        if isinstance(error, NotStaged):
            return  # there is nothing to try until something is published, and the stager says why nothing is
        self._again[name] = time.monotonic() + AGAIN_SECONDS
        if name not in self._traffic:
            _log.error("model not served", model=name, cause=str(error))

    def _begun(self, name: str) -> Future[Traffic]:
        """The load of a model that is under way, or that begins now: one, however many ask."""
        with self._lock:
            load = self._loading.get(name)
            if load is None:
                threads = self._swapper if name in self._traffic else self._loader
                load = self._loading[name] = threads.submit(self._load, name)
            return load

    # In the loader's or the swapper's thread: a model is in one of them at a time

    def _load(self, name: str) -> Traffic:
        was_away = name not in self._traffic
        try:
            traffic = self._swap(name)
        except Exception as error:
            self._failed(name, error)
            raise
        finally:
            with self._lock:
                del self._loading[name]
        if was_away and not self._loads_all:
            self._moved(1)
        self._make_room(name)
        return traffic

    def _make_room(self, loaded: str) -> None:
        """Puts away what was asked for least recently, but for what was loaded now and what is being swapped.

        Requests that it is answering hold it until they are done.
        """
        while len(self._traffic) > self._most or held_bytes() > self._most_bytes:
            with self._lock:
                idle = self._traffic.keys() - self._loading.keys() - {loaded}
                if not idle:
                    return
                name = min(idle, key=lambda name: self._used.get(name, 0.0))
                del self._traffic[name]
                self._opened[name] = {}
                self._moved(-1)

    def _swap(self, name: str) -> Traffic:
        self._look(name)
        published = self._published[name]
        traffic = self._open_all(name, published)
        self._used[name] = time.monotonic()
        before, self._traffic[name] = self._traffic.get(name), traffic
        self._opened[name] = {part.bundle: self._opened[name][part.bundle] for part in published.parts}
        new = traffic.champion.scorer.version.version
        old = before.champion.scorer.version.version if before is not None else None
        _log.info("versions", model=name, old=old, champion=new, share=traffic.share, all=_roles(traffic))
        return traffic

    def _open_all(self, name: str, published: Publication) -> Traffic:
        """All that take part, loaded and warm, with their adapter: the old ones answer meanwhile."""
        adapter = published.adapter
        coefficients = self._places[name].coefficients(adapter) if adapter is not None else None

        def opened(part: Part) -> Scorer:
            scorer = self._opened_part(name, part)[0]
            if adapter is None or coefficients is None:
                return scorer
            return _adapted(scorer, adapter.revision, coefficients)

        shadows = tuple(map(opened, published.shadows))
        champion = Target(opened(published.champion), Role.CHAMPION, shadows)
        canary = Target(opened(published.canary), Role.CANARY, shadows) if published.canary is not None else None
        decoder = self._opened_part(name, published.champion)[1]
        return Traffic(champion, decoder, canary, published.share)

    def _opened_part(self, name: str, part: Part) -> tuple[Scorer, Decoder]:
        opened = self._opened[name]
        if part.bundle not in opened:
            scorer, decoder = self._open(name, self._places[name].bundle(part.bundle))
            warm(scorer)
            opened[part.bundle] = scorer, decoder
        return opened[part.bundle]


def _roles(traffic: Traffic) -> list[tuple[str, str]]:
    """Role and version of all that take part."""
    targets = [traffic.champion, *((traffic.canary,) if traffic.canary is not None else ())]
    shadows = [(str(Role.SHADOW), scorer.version.version) for scorer in traffic.champion.shadows]
    return [*((str(target.role), target.scorer.version.version) for target in targets), *shadows]


def _published_roles(published: Publication) -> list[tuple[str, str]]:
    """The same of what is published and not loaded."""
    canary = [(str(Role.CANARY), published.canary.version)] if published.canary is not None else []
    shadows = [(str(Role.SHADOW), part.version) for part in published.shadows]
    return [(str(Role.CHAMPION), published.champion.version), *canary, *shadows]


def _adapted(scorer: Scorer, revision: int, coefficients: Coefficients) -> Scorer:
    """The same with its answers adapted, warm; as it is where the adapter does not fit the version."""
    try:
        adapted = scorer.adapted_by(revision, coefficients)
    except Refused as error:
        _log.warning("adapter not on", version=str(scorer.version), cause=str(error))
        return scorer
    warm(adapted)
    return adapted


def warm(scorer: Scorer) -> None:
    """Scores a made-up row: what is made with the first call is made before the first caller comes."""
    try:
        scorer.score_rows(Rows(1, {name: [value] for name, value in made_up_row(scorer.contract).items()}, [None]))
    except (BadInput, ModelFault) as error:  # a row of zeros need not make sense to every model
        _log.debug("not warmed", version=str(scorer.version), cause=str(error))
