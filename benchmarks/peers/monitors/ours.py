"""Ours, in a process of its own: an audit of the history, a report of it, or runs that find 10,000 new rows each.

python -m benchmarks.peers.monitors.ours audit|report|scheduled <store>
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path

from benchmarks import history
from benchmarks.lines import median
from feedback_loop.clock import floor_moment
from feedback_loop.monitoring import (
    KINDS,
    Profile,
    WindowQuery,
    due_windows,
    evaluate_window,
    fold_news,
    report_subject,
    write_report,
)
from feedback_loop.schema import Role
from feedback_loop.store import Store, profiles
from feedback_loop.store.coverage import load_coverage
from feedback_loop.store.joins import join_new
from feedback_loop.store.predictions import predicted_span

NEW = 10_000
RUNS = 5


def main(what: str, url: str) -> None:
    """Prints seconds (the median, and those of the first time) as JSON."""
    store = Store(url)
    with store.read() as connection:
        kept = profiles.load_reference(connection, "orders", "1")
    assert kept is not None
    seconds = MEASURES[what](store, Profile.from_bytes(kept.profile))
    print(json.dumps({"seconds": median(seconds), "first": seconds[0]}))
    store.close()


def audit(store: Store, reference: Profile) -> list[float]:
    """All rows read and folded again, once."""
    _import("scipy.stats", "sklearn.isotonic", "joblib.externals.loky")
    until = load_coverage(store, "orders")[1]
    assert until is not None
    began = time.perf_counter()
    (found,) = evaluate_window(
        store,
        history.contract(),
        WindowQuery(history.WHOLE, until, history.DAY, history.DAY, from_log=True),
        lambda _version: reference,
    )
    assert found.predictions == found.labelled > 0
    return [time.perf_counter() - began]


def report(store: Store, reference: Profile) -> list[float]:
    """Both pages of the whole history, three times."""
    _import("evidently.presets", "evidently.ui.workspace", "plotly.graph_objects")
    until = load_coverage(store, "orders")[1]
    assert until is not None
    spent = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            began = time.perf_counter()
            subject = report_subject(
                store,
                history.contract(),
                WindowQuery(history.WHOLE, until, history.DAY, history.DAY),
                lambda _version: reference,
                "all",
            )
            for kind in KINDS:
                write_report(kind, subject, Path(folder))
            spent.append(time.perf_counter() - began)
    return spent


def scheduled(store: Store, reference: Profile) -> list[float]:
    """10,000 predictions and their outcomes come within an hour; then the join, and each window that is due."""
    span = predicted_span(store, "orders")
    assert span is not None
    spent = []
    for place in range(RUNS + 1):  # the first, unmeasured, evaluates the history
        start = floor_moment(span[1], history.DAY) + (place + 1) * history.DAY
        moments = [start + row * timedelta(milliseconds=300) for row in range(NEW)]
        first = _rows(store)
        history.predict(store, first, moments)
        history.learn(store, first, NEW, moments[-1])
        now = start + history.DAY
        began = time.perf_counter()
        joined = join_new(store, history.contract(), history.DAY, now, fold_news)
        assert joined.changed == NEW
        windows = due_windows(store, "orders", history.DAY, history.DAY, now)
        for window in windows:
            evaluate_window(
                store,
                history.contract(),
                WindowQuery(window, now, history.DAY, history.DAY),
                lambda _version: reference,
            )
        assert windows
        spent.append(time.perf_counter() - began)
    return spent[1:]


def _import(*modules: str) -> None:
    """Libraries that are imported where they are used: in nobody's time."""
    for module in modules:
        import_module(module)


def _rows(store: Store) -> int:
    accounts = load_coverage(store, "orders")[0]
    return sum(each.predictions for each in accounts if each.role == Role.CHAMPION and not each.segment)


MEASURES: dict[str, Callable[[Store, Profile], list[float]]] = {
    "audit": audit,
    "report": report,
    "scheduled": scheduled,
}

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
