"""What is watched beside the losses: that predictions come as they did, and look as they did."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from feedback_loop.alerts import tell_volume
from feedback_loop.clock import EPOCH, Window, floor_moment, windows_between
from feedback_loop.config import ModelSettings
from feedback_loop.decisions.drift import Watch, reference_digest, rule_of, start_watch, watch_window
from feedback_loop.errors import Unavailable
from feedback_loop.loop.context import Context
from feedback_loop.loop.judging import Judging
from feedback_loop.monitoring import Profile, silence_notice, volume_notice, window_cells
from feedback_loop.registry import ModelVersion
from feedback_loop.schema import Role
from feedback_loop.store import conclusions, coverage, predictions, privacy, profiles
from feedback_loop.store.alerts import Message
from feedback_loop.store.conclusions import DriftMonitor
from feedback_loop.store.evaluations import ALL_ROWS

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Watching:
    """Everything that is told without an outcome."""

    context: Context
    judging: Judging

    def watch_volume(self, model: str) -> int:
        """Raises an alert where predictions stay away (`silence`) or come as they did not before; counts new ones."""
        settings, now = self.context.settings.model(model), self.context.clock()
        span = predictions.predicted_span(self.context.store, model)
        if span is None:
            return 0
        counts: Counter[datetime] = Counter()
        for each in coverage.load_coverage(self.context.store, model)[0]:
            if each.role == Role.CHAMPION and each.segment == ALL_ROWS:
                counts[each.window_start] += each.predictions
        notices = [
            volume_notice(counts, settings.window, now) if counts else None,
            silence_notice(span[1], settings.silence, now) if settings.silence is not None else None,
        ]
        told = [notice for notice in notices if notice is not None]
        return tell_volume(self.context.store, model, told, self.context.routes, now)

    def watch_drift(self, model: str) -> int:
        """Takes in each closed window of the champion once, in order; raises alerts of what it shows, counts those.

        Columns that have drifted, by the rule of `[models.x.drift]`, and checks of data quality that fail anew.
        Nothing while the version has no whole reference.
        """
        settings, version = self.context.settings.model(model), self.context.champion(model)
        now = self.judging.known_until(model)
        with self.context.store.read() as connection:
            kept = profiles.load_reference(connection, model, version.version)
        if kept is None:
            return 0
        reference, routes, told = Profile.from_bytes(kept.profile), self.context.routes, 0
        name = f"{model} version {version.version}"
        before = conclusions.load_monitor(self.context.store, model, version.version)
        until, watch = self._watched(reference, version, settings, before)
        for window in self._unwatched(version, settings, reference, until, now):
            try:
                cells = window_cells(
                    self.context.store, reference.layout, window, reference, version=version.version, as_of=now
                )
                profile = Profile.of(reference.layout, cells)
                watch, messages = watch_window(watch, reference, profile, settings.drift, name, window)
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 (whatever it is, it is told, and stops no other window)
                _log.error("window_not_watched", model=model, window=str(window), traceback=traceback.format_exc())
                words = f"{window}: {type(error).__name__}: {error}. Drift is watched from the next window on."
                title = f"{model}: a window could not be watched for drift"
                messages = [Message(f"stream:{model}:unwatched:{window}", title, words)]
            after = DriftMonitor(model, version.version, window.end, watch.to_json())
            new = conclusions.advance_monitor(
                self.context.store, after, until, messages, routes, self.context.clock()
            )
            if new is None:  # another scheduler has taken this window in, and goes on
                break
            until, told = window.end, told + new
        return told

    def _watched(
        self, reference: Profile, version: ModelVersion, settings: ModelSettings, before: DriftMonitor | None
    ) -> tuple[datetime | None, Watch]:
        """Up to where windows were taken in, and the watch over them: a new one under another reference or rule."""
        watch = Watch.from_json(before.state) if before is not None else None
        if watch is None or (watch.rule, watch.reference) != (
            rule_of(reference, settings.drift),
            reference_digest(reference),
        ):
            watch = start_watch(reference, settings.drift, str(version), settings.policy.seed)
        return (before.until if before is not None else None), watch

    def _unwatched(
        self,
        version: ModelVersion,
        settings: ModelSettings,
        reference: Profile,
        until: datetime | None,
        now: datetime,
    ) -> Iterator[Window]:
        """The closed windows that come next.

        The first is the first whole one under this champion, and after those that its reference is made of.
        """
        span = predictions.predicted_span(self.context.store, version.model, version.version, as_of=now)
        if span is None:
            return iter(())
        begins = [until] if until is not None else [floor_moment(span[0], settings.window)]
        if until is None:
            promoted = [each for each in self.context.promotions(version.model) if each.to_version == version.version]
            seen = [each.done_at - timedelta.resolution for each in promoted[-1:] if each.done_at is not None]
            seen += [EPOCH + timedelta(microseconds=reference.until)] if reference.until is not None else []
            begins += [floor_moment(each, settings.window) + settings.window for each in seen]
        kept_since = privacy.kept_since(self.context.store, version.model)
        begins += [floor_moment(kept_since, settings.window) + settings.window] if kept_since is not None else []
        return windows_between(max(begins), floor_moment(now, settings.window), settings.window)
