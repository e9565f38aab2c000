"""Alerts about the stream of predictions: it has stopped, or more or fewer come than did before."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from feedback_loop.config import ModelSettings
from feedback_loop.monitoring import silence_notice, volume_notice
from feedback_loop.schema import Role
from feedback_loop.store import Store
from feedback_loop.store.alerts import Routes, raise_alert
from feedback_loop.store.coverage import load_coverage
from feedback_loop.store.evaluations import ALL_ROWS
from feedback_loop.store.predictions import predicted_span


def watch_volume(store: Store, model: str, settings: ModelSettings, routes: Routes, now: datetime) -> int:
    """Raises an alert on each route where predictions stay away, or come as they did not before; counts new ones."""
    span = predicted_span(store, model)
    if span is None:
        return 0
    counts: Counter[datetime] = Counter()
    for coverage in load_coverage(store, model)[0]:
        if coverage.role == Role.CHAMPION and coverage.segment == ALL_ROWS:
            counts[coverage.window_start] += coverage.predictions
    notices = [
        volume_notice(counts, settings.window, now) if counts else None,
        silence_notice(span[1], settings.silence, now) if settings.silence is not None else None,
    ]
    title = f"{model}: predictions do not come as they did"
    return sum(
        raise_alert(store, f"stream:{model}:{notice.subject}", title, f"{notice.words}.", routes, now, model=model)
        for notice in notices
        if notice is not None
    )
