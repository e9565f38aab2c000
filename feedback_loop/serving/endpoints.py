"""The models that a server answers for: each with the version that answers now, swapped when its alias moves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from feedback_loop.errors import FeedbackLoopError, NotFound
from feedback_loop.inference import Scorer
from feedback_loop.registry import ModelVersion

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a model's version comes from: which one is meant now, and how it is loaded."""

    wanted: Callable[[], ModelVersion]
    load: Callable[[ModelVersion], Scorer]


class Endpoints:
    """Scorers by model name; `watch` keeps them at the versions that their aliases mean. Thread-safe."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = sources
        self._scorers: dict[str, Scorer] = {}
        self._done = threading.Event()

    @property
    def names(self) -> list[str]:
        """The models, the default one first."""
        return list(self._sources)

    def load(self) -> None:
        """Loads every model's version; raises what keeps one from being loaded."""
        for name, source in self._sources.items():
            self._scorers[name] = source.load(source.wanted())

    def versions(self) -> dict[str, str | None]:
        """By model, the version that answers; None where none is loaded yet."""
        return {
            name: self._scorers[name].version.version if name in self._scorers else None for name in self._sources
        }

    def scorer(self, name: str | None) -> Scorer:
        """The scorer that answers for a model (None: the only or first one); raises NotFound."""
        wanted = name if name is not None else self.names[0]
        if wanted not in self._scorers:
            raise NotFound("model served here", wanted, cure=f"Served: {', '.join(self.names)}.")
        return self._scorers[wanted]

    def refresh(self) -> None:
        """Swaps to the versions that are wanted by now. One that can't be loaded leaves the old one answering."""
        for name, source in self._sources.items():
            try:
                version, current = source.wanted(), self._scorers[name].version
                if version.version != current.version:
                    self._scorers[name] = source.load(version)  # loaded first: the old one answers meanwhile
                    _log.info("version swapped", model=name, old=current.version, new=version.version)
            except FeedbackLoopError as error:
                _log.warning("version not swapped", model=name, cause=str(error))

    def watch(self, interval: timedelta, also: Callable[[], None]) -> None:
        """Refreshes (and calls `also`) every so often in the background until `stop`."""

        def work() -> None:
            while not self._done.wait(interval.total_seconds()):
                self.refresh()
                also()

        threading.Thread(target=work, name="watch aliases", daemon=True).start()

    def stop(self) -> None:
        """Ends watching."""
        self._done.set()
