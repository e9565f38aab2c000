"""What estimates of a window are calibrated on beside the reference: the newest rows before it that have matured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class WindowQuery:
    """What is asked of a window: what was known of it at a moment, by kept tallies or by the rows of the log.

    A model's windows are of one `length`; its predictions have matured after `maturity`.
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

    None where the layout has no scores to calibrate. Kept tallies and the log give the same.
    """
    if not layout.scored_classes or layout.contract.more_labels:
        return None
    model, length, as_of = layout.contract.model, query.length, query.as_of
    latest = min(floor_moment(query.window.start, length), matured_until(as_of, query.maturity, length))
    oldest, span = retention.kept_since(store, model), predicted_span(store, model, as_of=as_of)
    if span is None:
        return None
    windows = [Window(latest - (k + 1) * length, latest - k * length) for k in range(MOST_WINDOWS)]
    windows = [each for each in windows if (oldest is None or each.start >= oldest) and each.end > span[0]]
    if not windows:
        return None
    kept = None
    if not query.from_log and all(map(profiles.is_whole_hours, windows)):
        watermark, kept = profiles.load_windows(store, model, version, Role.CHAMPION, OUTCOMES, windows)
        kept = kept if watermark == as_of else None

    def tallies() -> Iterator[dict[Cell, Tally]]:
        if kept is not None:
            yield from map(kept_cells, kept)
            return
        for window in windows:
            yield fold_window(store, layout, window, version=version, role=Role.CHAMPION, as_of=as_of, part=OUTCOMES)

    cells: dict[Cell, Tally] = {}
    for part in tallies():
        cells = merge([cells, part])
        if Profile.of(layout, cells).rows(Rows.SCORED) >= WANTED_ROWS:
            break
    return Profile.of(layout, {cell: tally for cell, tally in cells.items() if len(tally.keys)})
