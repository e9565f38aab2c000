"""Drift over time: each closed window of a champion updates its watch once, in order, and may raise alerts."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from feedback_loop.clock import EPOCH, Clock, Window, floor_moment, windows_between
from feedback_loop.config import ModelSettings
from feedback_loop.decisions.drift.watch import Watch, reference_digest, rule_of, start_watch, watch_window
from feedback_loop.errors import Unavailable
from feedback_loop.monitoring import Profile, window_cells
from feedback_loop.store import Store, conclusions, predictions, profiles, retention
from feedback_loop.store.alerts import Message, Routes
from feedback_loop.store.conclusions import DriftMonitor

_log = structlog.get_logger(__name__)


def watch_due_windows(
    store: Store,
    model: str,
    version: str,
    settings: ModelSettings,
    *,
    champion_since: datetime | None,
    routes: Routes,
    as_of: datetime,
    clock: Clock,
) -> int:
    """Takes in the windows that have closed since the last time; raises alerts and counts the new ones.

    Alerts are about columns that have drifted, by the rule of `[models.x.drift]`, and about checks of data quality
    that fail anew. Does nothing while the version has no whole reference.
    """
    with store.read() as connection:
        stored = profiles.load_reference(connection, model, version)
    if stored is None:
        return 0
    reference, name, alerts = Profile.from_bytes(stored.profile), f"{model} version {version}", 0
    before = conclusions.load_monitor(store, model, version)
    watch = _resumed(before, reference, settings, name)
    until = before.until if before is not None else None
    for window in _due(store, model, version, settings, reference, until, champion_since, as_of):
        try:
            cells = window_cells(store, reference.layout, window, reference, version=version, as_of=as_of)
            profile = Profile.of(reference.layout, cells)
            watch, messages = watch_window(watch, reference, profile, settings.drift, name, window)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 (an alert tells it, and the other windows go on)
            _log.error("window_not_watched", model=model, window=str(window), traceback=traceback.format_exc())
            words = f"{window}: {type(error).__name__}: {error}. Drift is watched from the next window on."
            title = f"{model}: a window could not be watched for drift"
            messages = [Message(f"stream:{model}:unwatched:{window}", title, words)]
        messages = [replace(message, model=model) for message in messages]
        after = DriftMonitor(model, version, window.end, watch.to_json())
        new = conclusions.advance_monitor(store, after, until, messages, routes, clock())
        if new is None:  # another scheduler has taken this window in, and goes on
            break
        until, alerts = window.end, alerts + new
    return alerts


def _resumed(before: DriftMonitor | None, reference: Profile, settings: ModelSettings, name: str) -> Watch:
    """The watch so far; a new one under another reference or rule."""
    if before is not None:
        watch = Watch.from_json(before.state)
        if (watch.rule, watch.reference) == (rule_of(reference, settings.drift), reference_digest(reference)):
            return watch
    return start_watch(reference, settings.drift, name, settings.policy.seed)


def _due(
    store: Store,
    model: str,
    version: str,
    settings: ModelSettings,
    reference: Profile,
    until: datetime | None,
    champion_since: datetime | None,
    as_of: datetime,
) -> Iterator[Window]:
    """The closed windows after `until`.

    The first of all is the first whole one under this champion, and after those that its reference is made of.
    """
    span, length = predictions.predicted_span(store, model, version, as_of=as_of), settings.window
    if span is None:
        return iter(())
    after = [retention.kept_since(store, model)]
    if until is None:
        after.append(champion_since - timedelta.resolution if champion_since is not None else None)
        after.append(EPOCH + timedelta(microseconds=reference.until) if reference.until is not None else None)
    begins = [floor_moment(moment, length) + length for moment in after if moment is not None]
    begin = max([until or floor_moment(span[0], length), *begins])
    return windows_between(begin, floor_moment(as_of, length), length)
