"""The stager wired: the process beside a server's workers that makes versions ready and forwards what they spool."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import structlog

from feedback_loop.alerts import alert_routes
from feedback_loop.clock import Clock, format_moment
from feedback_loop.config import Settings, load_settings
from feedback_loop.errors import FeedbackLoopError, Unavailable
from feedback_loop.inference import open_bundle
from feedback_loop.inference import stage as stage_bundle
from feedback_loop.registry import ModelVersion, Reference, Registry
from feedback_loop.schema import Contract
from feedback_loop.serving.children import end_with
from feedback_loop.serving.endpoints import warm
from feedback_loop.serving.places import engine_options, places_of, served_models
from feedback_loop.serving.publication import AdapterPart, Failure, Place
from feedback_loop.serving.stager import ServedModel, Stager
from feedback_loop.serving.worker_process import forwarder
from feedback_loop.store import Store, adapters, create_tables, migrate, serving_state
from feedback_loop.store.alerts import raise_alert
from feedback_loop.store.serving_state import VersionNames
from feedback_loop.tracing import start_tracing

_log = structlog.get_logger(__name__)


def stage(
    config: Path | None,
    models: Sequence[str],
    clock: Clock,
    delivery: Callable[[], Callable[[], object]],
) -> None:
    """Does what a server needs beside its workers, until standard input ends, as it does with the server.

    It keeps what is published for these models at what registry and store want, forwards what the workers spool,
    which have no processor to spare, and does every few seconds what `delivery` returns.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is sent to the whole group; the server ends this one
    _exit_at_sigterm()
    end_with(sys.stdin.fileno(), lambda: os._exit(0))
    settings = load_settings(config)
    tracing = start_tracing() if settings.serving.trace else None
    try:
        forwarder(settings, clock, tracing).start()
        _publish(settings, models, clock, delivery)
    except SystemExit:
        if tracing is not None:
            tracing.stop()
        os._exit(0)  # forwarder and deliveries are at work, and Python's own end is not made for threads that go on


def _exit_at_sigterm() -> None:
    """SIGTERM raises SystemExit, so that folders in the making are removed.

    Where it comes within a weak reference's callback or a finalizer, Python ignores the exception: it is raised again
    a moment later.
    """
    ignored = sys.unraisablehook

    def again(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, SystemExit):
            threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()
        else:
            ignored(unraisable)

    sys.unraisablehook = again
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def _publish(
    settings: Settings, models: Sequence[str], clock: Clock, delivery: Callable[[], Callable[[], object]]
) -> NoReturn:
    references, places = served_models(settings, models), places_of(settings, models)

    def answers() -> bool:
        return any(place.read() is not None for place in places.values())

    if began := answers():
        os.nice(NICE)
    store = Store(settings.url(settings.store.url), settings.hash_key)
    try:
        _prepare(store, waits=began)
    except FeedbackLoopError as error:
        for place in places.values():
            place.fail(Failure(error.cause, error.cure))
        raise
    wants = Wants(settings, store, Registry.of(settings, VersionNames(store).name), clock)
    stager = Stager([wants.served_model(references[name], places[name]) for name in references])
    while not answers() and stager.take_turn():
        pass
    if not began:
        os.nice(NICE)
    threading.Thread(target=_deliver, args=(delivery(),), name="alerts", daemon=True).start()
    serve = settings.serving
    stager.watch(settings.path(serve.cache), serve.poll_alias.total_seconds())


def _prepare(store: Store, *, waits: bool) -> None:
    """Sees to the store's tables. Where callers are answered by what was made ready before, its absence `waits`."""
    warned_of = ""
    while True:
        try:
            migrate.prepare(store)
        except Unavailable as error:
            if not waits:
                raise
            if warned_of != str(error):  # it may be away for long: each cause is logged once
                warned_of = str(error)
                _log.warning("no version is made ready while the store is away", cause=warned_of)
            time.sleep(AWAY_SECONDS)
        else:
            return


AWAY_SECONDS = 5.0
"""So long it is before the store is asked for again."""


def _deliver(deliver: Callable[[], object]) -> NoReturn:
    """Alerts go out from a server that runs alone too: no scheduler is needed for that."""
    from feedback_loop.alerts import keep_delivering

    keep_delivering(deliver, threading.Event())
    raise AssertionError("it goes on until the process ends")


NICE = 10
"""Once there are answers they go first: a version may be made ready more slowly."""


@dataclass(frozen=True)
class Wants:
    """What registry and store want of a server, and where it is told that something can't be."""

    settings: Settings
    store: Store
    registry: Registry
    clock: Clock

    def served_model(self, reference: Reference, place: Place) -> ServedModel:
        """One model, for the stager."""
        model = reference.model
        return ServedModel(
            place,
            champion=lambda: self.registry.find(reference),
            aliased=lambda alias: self.registry.find(Reference(model, alias=alias)),
            numbered=lambda version: self.registry.find(Reference(model, version=version)),
            traffic=lambda: serving_state.load_traffic(self.store, model),
            make=self._make,
            adapter=partial(self._adapter, model, place),
            failed=self._tell_failure,
            settled=partial(self._settle, model),
        )

    def _make(self, version: ModelVersion, folder: Path) -> Contract:
        settings, key = self.settings.model(version.model), self.settings.hash_key
        options, now, damaged = (
            engine_options(self.settings, version.model),
            self.clock(),
            partial(self._tell_damage, version),
        )
        stage_bundle(self.registry, version, settings, folder, now, options=options, hash_key=key, damaged=damaged)
        scorer = open_bundle(folder, settings, key, options, trusted=self.registry.is_trusted)
        warm(scorer)  # as each worker will: what raises there would be swapped to by none, without a word
        try:
            if settings.log.durability != "off":
                create_tables.check_storable(self.store, scorer.logged)
        except Unavailable as error:  # callers are answered while the store is away
            _log.warning("not known whether it can be logged", version=str(version), cause=str(error))
        return scorer.contract

    def _adapter(self, model: str, place: Place) -> AdapterPart | None:
        newest = adapters.newest_served(self.store, model) if place.adapts else None
        if newest is None:
            return None
        load = partial(adapters.load_coefficients, self.store, model, newest.revision)
        return place.keep_coefficients(newest.revision, newest.digest, load)

    def _tell_damage(self, version: ModelVersion, cause: str) -> None:
        """Servers that have it in memory go on answering; one that starts could not, until it is made anew."""
        title, body = f"{version}: its bundle was damaged on disk", f"{cause} It is made anew from the registry."
        subject = f"serving:{version.model}:{version.version}:damaged:{format_moment(now := self.clock())}"
        try:
            raise_alert(
                self.store, subject, title, body, alert_routes(self.settings.alerts), now, model=version.model
            )
        except FeedbackLoopError as error:
            _log.warning("damage not on record", version=str(version), cause=str(error))

    def _tell_failure(self, version: ModelVersion, cause: str) -> None:
        now = self.clock()
        try:
            if serving_state.open_load_incident(self.store, version.model, version.version, cause, now):
                subject = f"serving:{version.model}:{version.version}:{format_moment(now)}"
                routes = alert_routes(self.settings.alerts)
                title = f"{version} can't be served"
                raise_alert(self.store, subject, title, cause, routes, now, model=version.model)
        except FeedbackLoopError as error:
            _log.warning("incident not on record", version=str(version), cause=str(error))
        _log.error("version not ready", version=str(version), cause=cause)

    def _settle(self, model: str, version: str, failing: frozenset[str]) -> None:
        try:
            serving_state.close_load_incidents(self.store, model, self.clock(), f"version {version} answers", failing)
        except FeedbackLoopError as error:
            _log.warning("incident not closed", model=model, cause=str(error))
