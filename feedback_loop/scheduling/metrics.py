"""Prometheus metrics of a scheduler: the age of the last turn of the loop, and the state of each model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from feedback_loop.clock import Clock
from feedback_loop.errors import ConfigError, FeedbackLoopError
from feedback_loop.store import Store, conclusions, evaluations
from feedback_loop.store.incidents import open_incidents
from feedback_loop.store.ledger import failing_runs, load_runs

_MEANING: dict[str, tuple[str, tuple[str, ...]]] = {
    "cycle_age_seconds": ("Since the last turn of the loop ended; no value before the first.", ("model",)),
    "jobs_failing": ("Jobs whose newest run has failed.", ("model",)),
    "verdict": ("1 for what the newest verdict says.", ("model", "version", "state")),
    "incident_open": ("1 while an incident is open.", ("model",)),
    "metric": ("Of the newest window that has matured.", ("model", "version", "metric")),
    "drifted_share": ("Share of the columns that have drifted in the newest window.", ("model", "version")),
    "drifted_columns": ("Columns that are said to have drifted.", ("model", "version")),
}

NEWEST = 20
"""Among so many windows is the newest one that has matured."""


class LoopFigures(Collector):
    """Collected from the store when they are asked for: any scheduler shows the same."""

    def __init__(self, store: Store, models: Sequence[str], clock: Clock) -> None:
        self._store = store
        self._models = models
        self._clock = clock

    def describe(self) -> list[Metric]:
        """Nothing: else the registry would collect once to find out."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All figures of all models; `store_up` is 0, and the rest is not there, while the store does not answer."""
        families = {
            name: GaugeMetricFamily(f"feedback_loop_{name}", meaning, labels=labels)
            for name, (meaning, labels) in _MEANING.items()
        }
        up = 1.0
        try:
            for model in self._models:
                for name, labels, value in self._of(model):
                    families[name].add_metric(labels, value)
        except FeedbackLoopError:
            up = 0.0
        yield GaugeMetricFamily("feedback_loop_store_up", "Whether the store answered.", value=up)
        yield from families.values()

    def _of(self, model: str) -> Iterator[tuple[str, list[str], float]]:
        store = self._store
        ended = [run for run in load_runs(store, model, newest=1, job="retention") if run.finished_at is not None]
        for run in ended:
            assert run.finished_at is not None
            yield "cycle_age_seconds", [model], (self._clock() - run.finished_at).total_seconds()
        yield "jobs_failing", [model], float(len(failing_runs(store, model)))
        yield "incident_open", [model], float(bool(open_incidents(store, model)))
        verdict = conclusions.latest_verdict(store, model)
        if verdict is not None:
            yield "verdict", [model, verdict.version, str(verdict.state)], 1.0
        windows = [
            evaluation
            for evaluation in evaluations.load_evaluations(store, model, newest=NEWEST, details=())
            if evaluation.version
        ]
        for last in windows[-1:]:
            share = evaluations.with_details(store, last).drifted_share
            if share is not None:
                yield "drifted_share", [model, last.version], share
            watch = conclusions.load_monitor(store, model, last.version)
            yield "drifted_columns", [model, last.version], float(len(watch.state["told"])) if watch else 0.0
        for last in [evaluation for evaluation in windows if evaluation.matured][-1:]:
            for value in last.metrics:
                if value.segment == evaluations.ALL_ROWS:
                    yield "metric", [model, last.version, value.metric], value.value


def serve_figures(figures: LoopFigures, address: str) -> Any:
    """Answers Prometheus at `host:port` in a thread of its own, and returns the server; raises ConfigError."""
    host, _, port = address.rpartition(":")
    registry = CollectorRegistry()
    registry.register(figures)
    try:
        return start_http_server(int(port), host or "127.0.0.1", registry)[0]
    except (ValueError, OSError, OverflowError) as error:
        raise ConfigError(
            f"scheduler.metrics: {address!r} can't be listened on ({error}).",
            cure="Write host:port, as 127.0.0.1:9464.",
            key="scheduler.metrics",
        ) from error
