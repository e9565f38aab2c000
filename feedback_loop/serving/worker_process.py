"""Serving wired: what a worker holds, and what is left of it. A worker imports no MLflow, and nothing of a loop's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from feedback_loop.capture import (
    Deployed,
    Deployments,
    EventIntake,
    Forwarder,
    Recorder,
    Spool,
    SpoolView,
    put_aside,
)
from feedback_loop.clock import Clock
from feedback_loop.config import Settings
from feedback_loop.errors import FeedbackLoopError
from feedback_loop.inference import Scorer, open_bundle, read_bundle
from feedback_loop.inference.scorer import remade_contract
from feedback_loop.outcomes import Receiver, decode_body, outcome_columns
from feedback_loop.registry import Registry
from feedback_loop.schema import Contract, make_redaction
from feedback_loop.schema.budget import UNPACKED, Budget
from feedback_loop.schema.protocol import Decoder, make_decoder
from feedback_loop.serving.access import AccessLog, Observer
from feedback_loop.serving.app import App, Intakes, Limits
from feedback_loop.serving.batcher import Batcher
from feedback_loop.serving.board import Board
from feedback_loop.serving.connections import Connections
from feedback_loop.serving.endpoints import Endpoints
from feedback_loop.serving.guard import Guard, needs_key
from feedback_loop.serving.health import Readiness, readiness
from feedback_loop.serving.metrics import Metrics
from feedback_loop.serving.origins import Origins, tell_proxied
from feedback_loop.serving.places import engine_options, places_of
from feedback_loop.serving.predictions import Predictions
from feedback_loop.serving.request import Unpacked
from feedback_loop.serving.room import Room
from feedback_loop.serving.shadows import Shadows
from feedback_loop.serving.webhooks import Webhooks
from feedback_loop.store import Store, keys, predictions
from feedback_loop.tracing import Tracing, start_tracing, traceparents

FLUSH_EVERY = timedelta(seconds=1)
"""So often what a worker counts is brought to its spool, for others to see; with each commit it is too."""

KEYS_EVERY = timedelta(seconds=1)
"""So soon a key that was made just now lets its caller in."""

STOP_SECONDS = 10.0
"""How long the last drain of a server may take; what is left then is found by whoever drains the folder next."""

_log = structlog.get_logger(__name__)


def make_app(settings: Settings, models: Sequence[str], clock: Clock, figures: Path) -> App:
    """The HTTP application of one worker for these models, their published versions loaded and watched.

    `figures` is the folder in which the workers of one server share what they count.
    Its predictions are durable in a spool of this process, from where the stager forwards them to the store.
    """
    serve = settings.serving
    store = Store(settings.url(settings.store.url), settings.hash_key)
    folder, mark = settings.path(settings.capture.folder), figures.name.rpartition("-")[2]
    noted = traceparents if serve.trace else None
    spool = Spool(folder, settings.capture, lambda model: settings.model(model).log, mark, noted)
    budget = Budget(serve.max_rows, UNPACKED * serve.max_body_bytes)
    places = places_of(settings, models)
    board = Board(figures, list(places))
    endpoints = Endpoints(
        places,
        partial(_open, settings, budget),
        partial(_contract, settings),
        serve.loaded_models,
        serve.loaded_bytes,
        board.model_moved,
    )
    guard = Guard(partial(keys.valid_keys, store), is_needed=needs_key(serve))
    endpoints.load()
    guard.refresh()
    board.open()
    events = EventIntake(
        store,
        Deployments(partial(_deployed, settings, endpoints), serve.poll_alias),
        spool,
        clock,
        settings.capture.pair_within,
        spool,
        budget,
    )

    secret = serve.webhook_secret.get_secret_value()
    faults: dict[tuple[str, str], str] = {}

    def faulty(model: str, version: str, cause: str) -> None:
        faults[model, version] = cause

    def refresh() -> None:
        for (model, version), cause in list(faults.items()):
            _tell_fault(store, settings, model, version, cause, clock)
            del faults[model, version]
        guard.refresh()
        events.sweep_all(endpoints.served)

    def show() -> None:
        board.show_versions(endpoints.in_service())

    def answered(model: str, rows: int, unsampled: int) -> None:
        board.batch_done(rows)
        spool.count(model, answered=rows, unsampled=unsampled)

    must_log = any(_must_log(settings, name) for name in endpoints.names)

    def ready() -> Readiness:
        aside = {model: sum(rows.values()) for model, rows in put_aside(spool.folder).items()}
        trouble = spool.trouble() if must_log else None
        return readiness(endpoints.versions(), trouble, aside, endpoints.being_made_ready())

    show()
    endpoints.watch(
        show, [(serve.poll_alias, refresh), (KEYS_EVERY, guard.refresh_if_asked), (FLUSH_EVERY, spool.flush)]
    )
    batcher = Batcher(
        Recorder(spool),
        clock,
        serve.threads,
        answered=answered,
        faulty=faulty,
        shadows=Shadows(Recorder(SpoolView(spool, waits=False)), board.shadow_dropped),
    )
    return App(
        endpoints,
        batcher,
        guard,
        Predictions(endpoints, batcher, clock),
        Intakes(
            partial(_take_reports, Receiver(store, spool, clock), settings, endpoints, budget),
            events.take,
            ready,
            Origins(serve, partial(tell_proxied, settings.path(serve.cache))),
            store.close,
            Webhooks(secret, settings.path(serve.cache)) if secret else None,
        ),
        spool=spool,
        observer=Observer(
            board,
            AccessLog(every_request=serve.access_log),
            start_tracing() if serve.trace else None,
        ),
        metrics=Metrics(board, spool, clock, endpoints.being_made_ready),
        limits=Limits(
            serve.max_body_bytes,
            serve.body_timeout.total_seconds(),
            serve.max_in_flight,
            Connections(serve.port, serve.max_connections_per_address),
            Room(serve.max_unpacked_bytes),
        ),
    )


def _open(settings: Settings, budget: Budget, model: str, folder: Path) -> tuple[Scorer, Decoder]:
    options, trusted = engine_options(settings, model), Registry.of(settings).is_trusted
    scorer = open_bundle(folder, settings.model(model), settings.hash_key, options, trusted=trusted)
    return scorer, make_decoder(scorer.contract, read_bundle(folder, checks_files=False).signature, budget)


def _contract(settings: Settings, model: str, folder: Path) -> Contract:
    bundle = read_bundle(folder, checks_files=False)
    return remade_contract(bundle.contract, settings.model(model), has_probabilities=bundle.has_probabilities)


def _deployed(settings: Settings, endpoints: Endpoints, model: str, version: str | None) -> Deployed:
    """The version that answers, or by its number one that was made ready here; it is not loaded for that."""
    log, number = settings.model(model).log, version or endpoints.champion(model)
    redaction = make_redaction(endpoints.contract(model, number), log.columns, settings.hash_key)
    return Deployed(redaction, number, log.sample)


def _take_reports(
    receiver: Receiver,
    settings: Settings,
    endpoints: Endpoints,
    budget: Budget,
    what: str,
    model: str,
    body: bytes,
    kind: str,
    on_error: str,
    key: str | None,
    unpacked: Unpacked,
) -> tuple[int, dict[str, Any]]:
    deployed = _deployed(settings, endpoints, model, None)
    contract = deployed.contract.of_actions if what == "actions" else deployed.contract
    wanted = outcome_columns(contract)
    rows = decode_body(body, kind, budget, wanted, what)
    unpacked(len(body), len(rows), len(wanted))
    return receiver.take(
        contract,
        rows,
        source="http" if key is None else f"http:{key}",
        on_error="skip" if on_error == "skip" else "refuse",
        redaction=deployed.redaction,
    )


def _tell_fault(store: Store, settings: Settings, model: str, version: str, cause: str, clock: Clock) -> None:
    from feedback_loop.alerts import alert_routes
    from feedback_loop.store.alerts import raise_alert

    title = f"{model} version {version} gives answers that are none"
    subject, routes = f"serving:{model}:{version}:answers", alert_routes(settings.alerts)
    raise_alert(store, subject, title, cause, routes, clock(), model=model)


def _must_log(settings: Settings, model: str) -> bool:
    log = settings.model(model).log
    return log.durability != "off" and log.on_full == "refuse"


def forward_rest(settings: Settings, clock: Clock) -> None:
    """Brings what a server's workers have left to the store, once they have ended: for some seconds, if need be."""
    tracing = start_tracing() if settings.serving.trace else None
    try:
        forwarder(settings, clock, tracing).drain(until=time.monotonic() + STOP_SECONDS)
    except FeedbackLoopError as error:
        _log.warning("rows wait", cause=str(error))
    if tracing is not None:
        tracing.stop()


def forwarder(settings: Settings, clock: Clock, tracing: Tracing | None) -> Forwarder:
    """What brings rows that a server's workers have spooled to the store."""
    store = Store(settings.url(settings.store.url), settings.hash_key)
    log = predictions.PredictionLog(store)
    return Forwarder(settings.path(settings.capture.folder), log, store, clock, settings.capture, tracing=tracing)
