"""What estimates of a window are calibrated on beside the reference: the newest rows before it that have matured."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from feedback_loop.clock import Window, floor_moment
from feedback_loop.monitoring.profile_store import OUTCOMES, fold_window, kept_cells
from feedback_loop.monitoring.profiles.blocks import Rows
from feedback_loop.monitoring.profiles.fold import Cell, merge
from feedback_loop.monitoring.profiles.layout import Layout
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.profiles.tally import Tally
from feedback_loop.outcomes import matured_until
from feedback_loop.schema import Role
from feedback_loop.store import Store, profiles, retention
from feedback_loop.store.predictions import predicted_span

WANTED_ROWS = 10_000
"""Windows are taken, newest first, until they have so many scored rows."""

MOST_WINDOWS = 30


def learns_from_removed(store: Store, model: str, window: Window, length: timedelta) -> bool:
    """Whether retention has removed windows that the estimates of this one may have been calibrated on."""
    oldest = retention.kept_since(store, model)
    return oldest is not None and floor_moment(window.start, length) - MOST_WINDOWS * length < oldest


def matured_profile(
    store: Store,
    layout: Layout,
    window: Window,
    *,
    version: str,
    length: timedelta,
    maturity: timedelta,
    as_of: datetime,
    from_log: bool,
) -> Profile | None:
    """The profile of the outcomes of the newest whole windows before this one that had matured as of a moment.

    None where the layout has no scores to calibrate. Kept tallies and the log give the same.
    """
    if not layout.scored_classes or layout.contract.more_labels:
        return None
    latest = min(floor_moment(window.start, length), matured_until(as_of, maturity, length))
    oldest = retention.kept_since(store, layout.contract.model)
    windows = [Window(latest - (k + 1) * length, latest - k * length) for k in range(MOST_WINDOWS)]
    windows = [each for each in windows if oldest is None or each.start >= oldest]
    span = predicted_span(store, layout.contract.model, as_of=as_of)
    windows = [each for each in windows if span is not None and each.end > span[0]]  # before is nothing to read
    if not windows:
        return None
    kept = None
    if not from_log and all(map(profiles.is_whole_hours, windows)):
        watermark, kept = profiles.load_windows(
            store, layout.contract.model, version, Role.CHAMPION, OUTCOMES, windows
        )
        kept = kept if watermark == as_of else None

    def parts() -> Iterator[dict[Cell, Tally]]:
        if kept is not None:
            yield from map(kept_cells, kept)
            return
        for each in windows:
            yield fold_window(store, layout, each, version=version, role=Role.CHAMPION, as_of=as_of, part=OUTCOMES)

    found: dict[Cell, Tally] = {}
    for part in parts():
        found = merge([found, part])
        if Profile.of(layout, found).rows(Rows.SCORED) >= WANTED_ROWS:
            break
    return Profile.of(layout, {cell: tally for cell, tally in found.items() if len(tally.keys)})
