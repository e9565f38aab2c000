"""Serving wired: what a worker holds, what the stager does. A worker imports no MLflow, and nothing of a loop's."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import structlog

from feedback_loop import serving
from feedback_loop.capture import Deployed, Deployments, EventIntake, Forwarder, Recorder, Spool, Unhurried
from feedback_loop.clock import Clock
from feedback_loop.config import Settings, load_settings
from feedback_loop.errors import FeedbackLoopError
from feedback_loop.inference import EngineOptions, Scorer, open_bundle, read_bundle
from feedback_loop.registry import ModelVersion, Reference
from feedback_loop.schema import Contract
from feedback_loop.schema.protocol import Decoder, make_decoder
from feedback_loop.serving.publication import Failure, Place, hint
from feedback_loop.serving.webhooks import is_genuine
from feedback_loop.store import Store, keys, predictions

if TYPE_CHECKING:
    from feedback_loop.loop.facade import FeedbackLoop

FLUSH_EVERY = timedelta(seconds=1)
"""So often what a worker counts is brought to its spool, for others to see; with each commit it is too."""

STOP_SECONDS = 10.0
"""How long the last drain of a server may take; what is left then is found by whoever drains the folder next."""

_SEEN = {"task", "inference"}
"""Settings of a model that its bundles depend on; all others are applied when a bundle is opened."""

_log = structlog.get_logger(__name__)


def served_models(settings: Settings, models: Sequence[str]) -> dict[str, Reference]:
    """By name, what `name`, `name@alias` or `name/version` means; a bare name means its model's alias."""
    found = {}
    for text in models:
        parsed = Reference.parse(text)
        if parsed.version is None and "@" not in text:
            parsed = Reference(parsed.model, alias=settings.model(parsed.model).alias)
        found[parsed.model] = parsed
    return found


def places_of(settings: Settings, models: Sequence[str]) -> dict[str, Place]:
    """Where the bundles of these models are, by name."""
    cache = settings.path(settings.serving.cache)
    return {
        name: Place.of(cache, name, reference.alias or f"version {reference.version}", _form(settings, name))
        for name, reference in served_models(settings, models).items()
    }


def place_of_version(settings: Settings, model: str) -> Place:
    """Where the bundle of any version of a model is, whether a server answers with it or not."""
    return Place.of(settings.path(settings.serving.cache), model, "", _form(settings, model))


def make_app(settings: Settings, models: Sequence[str], clock: Clock, figures: Path) -> serving.App:
    """The HTTP application of one worker for these models, their published versions loaded and watched.

    `figures` is the folder in which the workers of one server share what they count.
    Its predictions are durable in a spool of this process, from where the stager forwards them to the store.
    """
    serve = settings.serving
    store = Store(settings.url(settings.store.url), settings.hash_key)
    spool = Spool(settings.path(settings.capture.folder), settings.capture, lambda model: settings.model(model).log)
    endpoints = serving.Endpoints(places_of(settings, models), partial(_open, settings))
    guard = serving.Guard(partial(keys.valid_keys, store), is_needed=serving.needs_key(serve))
    endpoints.load()
    guard.refresh()
    board = serving.Board(figures, endpoints.names)
    board.open()
    events = EventIntake(
        store,
        Deployments(partial(_deployed, settings, endpoints), serve.poll_alias),
        spool,
        clock,
        settings.capture.pair_within,
        spool,
    )

    def refresh() -> None:
        guard.refresh()
        for name in endpoints.names:
            events.sweep(name)

    def show() -> None:
        board.show_versions(endpoints.in_service())

    def answered(model: str, rows: int, unsampled: int) -> None:
        board.batch_done(rows)
        spool.count(model, answered=rows, unsampled=unsampled)

    show()
    endpoints.watch(show, [(serve.poll_alias, refresh), (FLUSH_EVERY, spool.flush)])
    batcher = serving.Batcher(
        Recorder(spool),
        clock,
        serve.threads,
        answered=answered,
        shadows=serving.Shadows(Recorder(Unhurried(spool)), board.shadow_dropped),
    )
    must_log = any(_must_log(settings, name) for name in endpoints.names)
    return serving.App(
        endpoints,
        batcher,
        guard,
        serving.Predictions(endpoints, batcher, clock, most_rows=serve.max_rows),
        serving.Doors(
            partial(_take_outcomes, store, endpoints, clock),
            events.take,
            spool.trouble if must_log else lambda: None,
            _hints(settings),
        ),
        spool=spool,
        observer=serving.Observer(
            board,
            serving.AccessLog(every_request=serve.access_log),
            serving.start_tracing() if serve.trace else None,
        ),
        metrics=serving.Metrics(board, spool, clock),
        limits=serving.Limits(serve.max_body_bytes, serve.body_timeout.total_seconds(), serve.max_in_flight),
    )


def _form(settings: Settings, model: str) -> str:
    """Eight digits that change with whatever a model's bundles depend on beside its version."""
    from feedback_loop import __version__

    said = settings.model(model).model_dump_json(include=_SEEN)
    return hashlib.blake2b(f"{__version__}\0{said}".encode(), digest_size=4).hexdigest()


def engine_options(settings: Settings, model: str) -> EngineOptions:
    """On what a model is computed: its own providers, or the server's."""
    own = settings.model(model).inference.providers
    return EngineOptions(own or settings.serving.providers, settings.serving.threads)


def _open(settings: Settings, model: str, folder: Path) -> tuple[Scorer, Decoder]:
    scorer = open_bundle(folder, settings.model(model), settings.hash_key, engine_options(settings, model))
    return scorer, make_decoder(scorer.contract, read_bundle(folder).signature)


def _deployed(settings: Settings, endpoints: serving.Endpoints, model: str, version: str | None) -> Deployed:
    """A version by its number; one that no server here has made ready is looked up, for which MLflow is loaded."""
    if version is None:
        scorer: Scorer | None = endpoints.scorer(model)
    else:
        scorer = endpoints.open(model, version)
    if scorer is None:
        from feedback_loop.inference import make_scorer
        from feedback_loop.registry import Registry

        registry = Registry.of(settings)
        found = registry.find(Reference(model, version=version))
        scorer = make_scorer(registry.load(found), settings.model(model), settings.hash_key)
    return Deployed(scorer.redaction, scorer.version.version, scorer.sample)


def _take_outcomes(
    store: Store, endpoints: serving.Endpoints, clock: Clock, model: str, body: bytes, kind: str, on_error: str
) -> dict[str, Any]:
    from feedback_loop.outcomes import decode_outcomes, record_outcomes

    scorer = endpoints.scorer(model)
    rows, _ = decode_outcomes(body, kind)
    skips = on_error == "skip"
    result = record_outcomes(
        store,
        scorer.contract,
        rows,
        now=clock(),
        source="http",
        on_error="skip" if skips else "refuse",
        redaction=scorer.redaction,
    )
    skipped = [asdict(problem) for problem in result.skipped]
    return asdict(result.counts) | ({"skipped": skipped} if skips else {})


def _hints(settings: Settings) -> serving.TakeHint | None:
    secret, cache = settings.serving.webhook_secret.get_secret_value(), settings.path(settings.serving.cache)
    if not secret:
        return None

    def take(header: Any, body: bytes) -> bool:
        if not is_genuine(secret, header, body, time.time()):
            return False
        hint(cache)
        return True

    return take


def _must_log(settings: Settings, model: str) -> bool:
    log = settings.model(model).log
    return log.durability != "off" and log.on_full == "refuse"


# The stager's process


def stage(config: Path | None, models: Sequence[str], parent: int, clock: Clock) -> None:
    """Does what a server needs beside its workers, as long as the parent lives: keeps what is published for these
    models at what registry and store want, and forwards what the workers spool, which have no processor to spare.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is sent to the whole group; the server ends this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    serving.end_with(parent, lambda: os._exit(0))
    settings = load_settings(config)
    _forwarder(settings, clock).start()
    _publish(settings, config, models, clock)


def forward_rest(settings: Settings, clock: Clock) -> None:
    """Brings what a server's workers have left to the store, once they have ended: for some seconds, if need be."""
    try:
        _forwarder(settings, clock).drain(until=time.monotonic() + STOP_SECONDS)
    except FeedbackLoopError as error:
        _log.warning("rows wait", cause=str(error))


def _forwarder(settings: Settings, clock: Clock) -> Forwarder:
    store = Store(settings.url(settings.store.url), settings.hash_key)
    log = predictions.PredictionLog(store)
    return Forwarder(settings.path(settings.capture.folder), log, store, clock, settings.capture)


def _publish(settings: Settings, config: Path | None, models: Sequence[str], clock: Clock) -> NoReturn:
    from feedback_loop.loop import FeedbackLoop

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
    stager = serving.Stager([_source(loop, references[name], places[name]) for name in references])
    stager.refresh()
    if not answers:
        os.nice(NICE)
    serve = settings.serving
    stager.watch(settings.path(serve.cache), serve.poll_alias.total_seconds())


NICE = 10
"""Once there are answers they go first: a version may be made ready more slowly."""


def _source(loop: FeedbackLoop, reference: Reference, place: Place) -> serving.Source:
    from feedback_loop.alerts import route_names
    from feedback_loop.inference import stage as stage_bundle
    from feedback_loop.store import traffic
    from feedback_loop.store.alerts import raise_alert

    model, settings = reference.model, loop.settings
    of_model = settings.model(model)

    def make(version: ModelVersion, folder: Path) -> Contract:
        options, key = engine_options(settings, model), settings.hash_key
        stage_bundle(loop.registry, version, of_model, folder, loop.clock(), options=options, hash_key=key)
        return open_bundle(folder, of_model, key, options).contract

    def told(version: ModelVersion, cause: str) -> None:
        now = loop.clock()
        try:
            if traffic.open_load_incident(loop.store, model, version.version, cause, now):
                title = f"{version} can't be served"
                subject = f"serving:{model}:{version.version}"
                raise_alert(loop.store, subject, title, cause, route_names(settings.alerts), now)
        except FeedbackLoopError as error:
            _log.warning("incident not on record", version=str(version), cause=str(error))
        _log.error("version not ready", version=str(version), cause=cause)

    def recovered(version: ModelVersion) -> None:
        try:
            traffic.close_load_incidents(loop.store, model, loop.clock(), f"version {version.version} answers")
        except FeedbackLoopError as error:
            _log.warning("incident not closed", model=model, cause=str(error))

    return serving.Source(
        place,
        champion=lambda: loop.registry.find(reference),
        aliased=lambda alias: loop.registry.find(Reference(model, alias=alias)),
        traffic=lambda: traffic.load_traffic(loop.store, model),
        make=make,
        told=told,
        recovered=recovered,
    )
