"""The stager: the one process of a server that asks the registry, and makes bundles of its versions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec
import structlog

from feedback_loop.errors import FeedbackLoopError, NotFound, Unavailable
from feedback_loop.registry import ModelVersion
from feedback_loop.schema import Contract
from feedback_loop.serving.publication import HINT, AdapterPart, Failure, Part, Place, Publication, stamp
from feedback_loop.serving.traffic import misfit
from feedback_loop.store.serving_state import TrafficPlan

AGAIN_SECONDS = 300.0
"""How long a version that could not be made ready is left alone."""

LOOK_SECONDS = 0.05
"""How often the stager looks for hints."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """One model: which versions are wanted, how a bundle is made of one, and who hears that it can't be.

    `make` writes the bundle of a version into a folder, if it is not there and whole, opens it to see that it can be
    answered with, and returns its contract. `adapter` writes the coefficients of the revision that is to be on, None
    where none is. `failed` is called with a version that can't take part and the cause,
    `settled` with the version that answers and the wanted ones that can't.
    """

    place: Place
    champion: Callable[[], ModelVersion]
    aliased: Callable[[str], ModelVersion]
    numbered: Callable[[str], ModelVersion]
    traffic: Callable[[], TrafficPlan]
    make: Callable[[ModelVersion, Path], Contract]
    adapter: Callable[[], AdapterPart | None]
    failed: Callable[[ModelVersion, str], None]
    settled: Callable[[str, frozenset[str]], None]


Files = tuple[tuple[str, tuple[int, int, int]], ...]
"""The files of a bundle, each with what differs once it has changed."""


@dataclass(frozen=True)
class _Staged:
    part: Part
    contract: Contract


class Stager:
    """Keeps what is published at what the registry and the store want."""

    def __init__(self, models: Sequence[ServedModel], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._models = models
        self._monotonic = monotonic
        self._staged: dict[Path, Contract] = {}
        self._files: dict[Path, Files] = {}
        self._failed: dict[Path, float] = {}
        self._failing: set[str] = set()
        self._waiting = list(models)

    def refresh(self) -> None:
        """Publishes what is wanted by now. What can't be made ready leaves what is published as it is."""
        self._waiting.clear()
        self._refresh_all(self._models)

    def take_turn(self) -> bool:
        """The same for one of the models that had no turn yet; False where there is none any more.

        That is the one that callers wait for the longest, else one that was published before: it may be old.
        """
        if not self._waiting:
            return False
        served = min(self._waiting, key=lambda each: (each.place.wanted_at(), stamp(each.place.published) is None))
        self._waiting.remove(served)
        self._refresh_all([served])
        return True

    def _refresh_all(self, models: Sequence[ServedModel]) -> None:
        for served in models:
            try:
                self._refresh(served)
            except Exception as error:  # noqa: BLE001 (the next model, and the next time, may do better)
                if served.place.read() is None:
                    served.place.fail(_failure(error))
                _log.warning("nothing new published", folder=str(served.place.folder), cause=str(error))

    def watch(self, cache: Path, seconds: float) -> NoReturn:
        """Refreshes every so often from now on, and at once on a hint, for ever.

        Models that had no turn yet have theirs one by one: what is to be swapped does not wait for all of them.
        """
        last_hint, due = None, self._monotonic() + seconds
        waits = threading.Event()
        while True:
            hint = stamp(cache / HINT)
            if hint != last_hint or self._monotonic() >= due:
                last_hint, due = hint, self._monotonic() + seconds
                self._refresh_all([served for served in self._models if served not in self._waiting])
            if not self.take_turn():
                waits.wait(LOOK_SECONDS)

    def _refresh(self, served: ServedModel) -> None:
        published = served.place.read()
        self._failing.clear()
        champion = self._champion(served, published)
        if champion is None:
            return
        wanted = _wanted(served, published)
        others = {alias: self._challenger(served, alias, champion, published) for alias in _aliases(wanted)}
        canary = others.get(wanted.canary or "")
        publication = Publication(
            form=served.place.form,
            champion=champion.part,
            shadows=tuple(part for alias in wanted.shadows if (part := others[alias]) is not None),
            canary=canary,
            share=wanted.share if canary is not None else 0.0,
            adapter=_adapter(served, published),
        )
        if publication != published:
            served.place.publish(publication)
            version, share, adapter = champion.part.version, publication.share, publication.adapter
            revision = adapter.revision if adapter is not None else None
            _log.info(
                "published", folder=str(served.place.folder), champion=version, share=share, adapter_revision=revision
            )
        served.settled(champion.part.version, frozenset(self._failing))
        for folder in served.place.clean():
            self._staged.pop(folder, None)

    def _champion(self, served: ServedModel, published: Publication | None) -> _Staged | None:
        """The version that is to answer; the published one where it can't be had; None where that is all there is."""
        try:
            version = served.champion()
            staged = self._stage(served, version)
        except (NotFound, Unavailable, _NotMadeError) as error:
            if published is None:
                return self._last(served, error)
            _log.warning("champion stays", version=published.champion.version, cause=str(error))
            contract = self._staged.get(served.place.bundle(published.champion.bundle))
            return _Staged(published.champion, contract) if contract is not None else None
        return staged

    def _last(self, served: ServedModel, error: FeedbackLoopError) -> _Staged:
        """The version that answered last, made ready anew: of this configuration nothing is published yet."""
        last = served.place.last()
        if last is None:
            raise error
        _log.warning("the last champion stays", version=last, cause=str(error))
        try:
            return self._stage(served, served.numbered(last))
        except FeedbackLoopError:
            raise error from None  # it is the wanted one that is to be mended

    def _challenger(
        self, served: ServedModel, alias: str, champion: _Staged, published: Publication | None
    ) -> Part | None:
        """A version of another alias; None where there is none, or it can't take part."""
        try:
            version = served.aliased(alias)
            if version.version == champion.part.version:
                return None  # it was promoted
            staged = self._stage(served, version)
        except NotFound as error:
            _log.warning("challenger left out", alias=alias, cause=str(error))
            return None
        except (Unavailable, _NotMadeError) as error:
            _log.warning("challenger stays", alias=alias, cause=str(error))
            before = published.parts[1:] if published is not None else ()
            return next((part for part in before if part.alias == alias), None)
        cause = misfit(staged.contract, champion.contract)
        if cause is not None:
            self._failing.add(version.version)
            served.failed(version, f"It can't take part beside version {champion.part.version}: {cause}.")
            return None
        return msgspec.structs.replace(staged.part, alias=alias)

    def _stage(self, served: ServedModel, version: ModelVersion) -> _Staged:
        """The bundle of a version, made if it is not there; raises _NotMadeError, and then not at once again."""
        place = served.place
        part = Part(version.version, place.bundle_name(version.version))
        folder = place.bundle(part.bundle)
        if folder in self._staged and folder.is_dir() and _files(folder) == self._files[folder]:
            return _Staged(part, self._staged[folder])
        if self._monotonic() < self._failed.get(folder, 0.0):
            self._failing.add(version.version)
            raise _NotMadeError(f"{version} could not be made ready; it is tried again later.")
        try:
            contract = served.make(version, folder)
        except Exception as error:
            if not isinstance(error, Unavailable):  # else the next time may do
                self._failed[folder] = self._monotonic() + AGAIN_SECONDS
            failure = _failure(error)
            self._failing.add(version.version)
            served.failed(version, f"{failure.cause} {failure.cure}".rstrip())
            raise _NotMadeError(failure.cause, cure=failure.cure) from error
        self._failed.pop(folder, None)
        self._staged[folder], self._files[folder] = contract, _files(folder)
        return _Staged(part, contract)


class _NotMadeError(FeedbackLoopError):
    """A version of which no bundle could be made."""


def _files(folder: Path) -> Files:
    """Changes when a file of a bundle is written to, cut off or removed: then the whole bundle is checked again."""
    stamps = [(path, stamp(path)) for path in folder.rglob("*") if not path.is_dir()]
    return tuple(sorted((str(path), at) for path, at in stamps if at is not None))


def _failure(error: Exception) -> Failure:
    """An error in words: ours have a cause and a cure, others a type and a message."""
    if isinstance(error, FeedbackLoopError):
        return Failure(error.cause, error.cure)
    return Failure(f"{type(error).__name__}: {error}")


def _wanted(served: ServedModel, published: Publication | None) -> TrafficPlan:
    """The traffic that is set; while the store is away, what is published."""
    try:
        return served.traffic()
    except Unavailable as error:
        _log.warning("traffic stays", cause=str(error))
    if published is None:
        return TrafficPlan()
    canary = published.canary.alias if published.canary is not None else None
    return TrafficPlan(tuple(part.alias for part in published.shadows), canary, published.share)


def _adapter(served: ServedModel, published: Publication | None) -> AdapterPart | None:
    """The adapter that is wanted; the published one where that can't be had now."""
    try:
        return served.adapter()
    except FeedbackLoopError as error:
        _log.warning("adapter stays", cause=str(error))
    return published.adapter if published is not None else None


def _aliases(wanted: TrafficPlan) -> tuple[str, ...]:
    return (*wanted.shadows, *((wanted.canary,) if wanted.canary is not None else ()))
