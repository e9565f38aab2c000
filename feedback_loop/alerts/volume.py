"""Alerts about the stream of predictions: that it has stopped, or is not as wide as it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from feedback_loop.monitoring import Notice
from feedback_loop.store import Store
from feedback_loop.store.alerts import raise_alert


def tell_volume(store: Store, model: str, notices: Iterable[Notice], routes: Sequence[str], now: datetime) -> int:
    """Raises an alert for each notice on each route, once; returns how many are new."""
    return sum(
        raise_alert(
            store,
            f"stream:{model}:{notice.subject}",
            f"{model}: predictions do not come as they did",
            f"{notice.words}.",
            routes,
            now,
        )
        for notice in notices
    )
