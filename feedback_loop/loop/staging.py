"""The stager wired: the process beside a server's workers that makes versions ready and forwards what they spool."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import structlog

from feedback_loop import serving
from feedback_loop.clock import Clock, format_moment
from feedback_loop.config import Settings, load_settings
from feedback_loop.errors import FeedbackLoopError, Unavailable
from feedback_loop.inference import open_bundle
from feedback_loop.loop.places import engine_options, places_of, served_models
from feedback_loop.loop.serving import forwarder
from feedback_loop.registry import ModelVersion, Reference
from feedback_loop.schema import Contract
from feedback_loop.serving.publication import Failure, Place

if TYPE_CHECKING:
    from feedback_loop.loop.facade import FeedbackLoop

_log = structlog.get_logger(__name__)


def stage(
    config: Path | None,
    models: Sequence[str],
    clock: Clock,
    delivery: Callable[[FeedbackLoop], Callable[[], object]],
) -> None:
    """Does what a server needs beside its workers, until standard input ends, as it does with the server.

    It keeps what is published for these models at what registry and store want, forwards what the workers spool,
    which have no processor to spare, and does every few seconds what `delivery` makes of the loop.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is sent to the whole group; the server ends this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    serving.end_with(sys.stdin.fileno(), lambda: os._exit(0))
    settings = load_settings(config)
    forwarder(settings, clock).start()
    _publish(settings, config, models, clock, delivery)


def _publish(
    settings: Settings,
    config: Path | None,
    models: Sequence[str],
    clock: Clock,
    delivery: Callable[[FeedbackLoop], Callable[[], object]],
) -> NoReturn:
    from feedback_loop.loop.facade import FeedbackLoop  # with it comes much that a forwarder need not wait for

    references, places = served_models(settings, models), places_of(settings, models)
    answers = all(place.read() is not None for place in places.values())
    if answers:
        os.nice(NICE)
    try:
        loop = FeedbackLoop.open(config, clock=clock)
    except FeedbackLoopError as error:
        for place in places.values():
            place.fail(Failure(error.cause, error.cure))
        raise
    stager = serving.Stager([_served_model(loop, references[name], places[name]) for name in references])
    stager.refresh()
    if not answers:
        os.nice(NICE)
    threading.Thread(target=_deliver, args=(delivery(loop),), name="alerts", daemon=True).start()
    serve = settings.serving
    stager.watch(settings.path(serve.cache), serve.poll_alias.total_seconds())


def _deliver(deliver: Callable[[], object]) -> NoReturn:
    """Alerts go out from a server that runs alone too: no scheduler is needed for that."""
    from feedback_loop.alerts import keep_delivering

    keep_delivering(deliver, threading.Event())
    raise AssertionError("it goes on until the process ends")


NICE = 10
"""Once there are answers they go first: a version may be made ready more slowly."""


def _tell_damage(loop: FeedbackLoop, version: ModelVersion, cause: str) -> None:
    """Servers that have it in memory go on answering; one that starts could not, until it is made anew."""
    from feedback_loop.alerts import route_names
    from feedback_loop.store.alerts import raise_alert

    now = loop.clock()
    subject = f"serving:{version.model}:{version.version}:damaged:{format_moment(now)}"
    title, body = f"{version}: its bundle was damaged on disk", f"{cause} It is made anew from the registry."
    try:
        raise_alert(loop.store, subject, title, body, route_names(loop.settings.alerts), now)
    except FeedbackLoopError as error:
        _log.warning("damage not on record", version=str(version), cause=str(error))


def _served_model(loop: FeedbackLoop, reference: Reference, place: Place) -> serving.ServedModel:
    from feedback_loop.alerts import route_names
    from feedback_loop.inference import stage as stage_bundle
    from feedback_loop.store import serving_state
    from feedback_loop.store.alerts import raise_alert

    model, settings = reference.model, loop.settings
    of_model = settings.model(model)

    def make(version: ModelVersion, folder: Path) -> Contract:
        options, key = engine_options(settings, model), settings.hash_key
        now, damaged = loop.clock(), partial(_tell_damage, loop, version)
        stage_bundle(loop.registry, version, of_model, folder, now, options=options, hash_key=key, damaged=damaged)
        scorer = open_bundle(folder, of_model, key, options, trusted=loop.registry.is_trusted)
        serving.warm(scorer)  # as each worker will: what raises there would be swapped to by none, without a word
        try:
            loop.check_storable(scorer)
        except Unavailable as error:  # callers are answered while the store is away
            _log.warning("not known whether it can be logged", version=str(version), cause=str(error))
        return scorer.contract

    def told(version: ModelVersion, cause: str) -> None:
        now = loop.clock()
        try:
            if serving_state.open_load_incident(loop.store, model, version.version, cause, now):
                title = f"{version} can't be served"
                subject = f"serving:{model}:{version.version}:{format_moment(now)}"
                raise_alert(loop.store, subject, title, cause, route_names(settings.alerts), now)
        except FeedbackLoopError as error:
            _log.warning("incident not on record", version=str(version), cause=str(error))
        _log.error("version not ready", version=str(version), cause=cause)

    def settled(version: str, failing: frozenset[str]) -> None:
        try:
            serving_state.close_load_incidents(loop.store, model, loop.clock(), f"version {version} answers", failing)
        except FeedbackLoopError as error:
            _log.warning("incident not closed", model=model, cause=str(error))

    return serving.ServedModel(
        place,
        champion=lambda: loop.registry.find(reference),
        aliased=lambda alias: loop.registry.find(Reference(model, alias=alias)),
        numbered=lambda version: loop.registry.find(Reference(model, version=version)),
        traffic=lambda: serving_state.load_traffic(loop.store, model),
        make=make,
        told=told,
        settled=settled,
    )
