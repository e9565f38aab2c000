"""The rows that estimates of a window are calibrated on besides the reference: the newest matured ones before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from feedback_loop.clock import Window, floor_moment
from feedback_loop.monitoring.profile_store import OUTCOMES, fold_window, kept_cells
from feedback_loop.monitoring.profiles.blocks import Rows
from feedback_loop.monitoring.profiles.fold import Cell, judged_cells, merge, outcome_segment
from feedback_loop.monitoring.profiles.layout import Layout
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.profiles.tally import Tally
from feedback_loop.outcomes import matured_until
from feedback_loop.schema import Role
from feedback_loop.store import Store, profiles, retention
from feedback_loop.store.predictions import predicted_span

WANTED_ROWS = 10_000
"""Windows are added, newest first, until they hold this many scored rows."""

MOST_WINDOWS = 30


@dataclass(frozen=True)
class WindowQuery:
    """A window as known at the moment `as_of`, from stored tallies or (`from_log`) from the rows of the log.

    `length` is that of all windows of the model, `maturity` the age at which its predictions have matured.
    """

    window: Window
    as_of: datetime
    length: timedelta
    maturity: timedelta
    from_log: bool = False


def learns_from_removed(store: Store, model: str, query: WindowQuery) -> bool:
    """Whether retention has removed windows that the estimates of this one may have been calibrated on."""
    oldest = retention.kept_since(store, model)
    return (
        oldest is not None and floor_moment(query.window.start, query.length) - MOST_WINDOWS * query.length < oldest
    )


def matured_profile(store: Store, layout: Layout, query: WindowQuery, version: str) -> Profile | None:
    """The profile of the outcomes of the newest whole windows before this one that had matured as of a moment.

    None where the layout has no scores to calibrate. Stored tallies and the log give the same.
    """
    if not layout.scored_classes or layout.contract.more_labels:
        return None
    model, length, as_of = layout.contract.model, query.length, query.as_of
    latest = min(floor_moment(query.window.start, length), matured_until(as_of, query.maturity, length))
    oldest, span = retention.kept_since(store, model), predicted_span(store, model, as_of=as_of)
    if span is None:
        return None
    windows = [Window(latest - (k + 1) * length, latest - k * length) for k in range(MOST_WINDOWS)]
    windows = [window for window in windows if (oldest is None or window.start >= oldest) and window.end > span[0]]
    if not windows:
        return None
    stored = None
    if not query.from_log and all(map(profiles.is_whole_hours, windows)):
        segment = outcome_segment(layout.contract)
        watermark, stored = profiles.load_windows(store, model, version, Role.CHAMPION, OUTCOMES, segment, windows)
        stored = stored if watermark == as_of else None

    def tallies() -> Iterator[dict[Cell, Tally]]:
        if stored is not None:
            yield from map(kept_cells, stored)
            return
        for window in windows:
            yield fold_window(store, layout, window, version=version, role=Role.CHAMPION, as_of=as_of, part=OUTCOMES)

    cells: dict[Cell, Tally] = {}
    for part in tallies():
        cells = merge([cells, part])
        if Profile.of(layout, judged_cells(layout, cells)).rows(Rows.SCORED) >= WANTED_ROWS:
            break
    filled = {cell: tally for cell, tally in cells.items() if len(tally.keys)}
    return Profile.of(layout, judged_cells(layout, filled))
