"""What Prometheus reads of a server: requests, and the accounts of its spool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from feedback_loop.capture import Spool
from feedback_loop.capture.files import microseconds
from feedback_loop.clock import Clock

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_MEANING = {
    "answered": "Rows whose answer was given out.",
    "spooled": "Rows that were made durable before their answer.",
    "refused": "Rows that were not answered, since they could not be logged.",
    "dropped": "Rows that were answered without being logged, since the spool took none.",
    "unsampled": "Rows that the configuration leaves out of the log.",
}


class Metrics:
    """One server's metrics, in a registry of their own. Thread-safe."""

    def __init__(self, spool: Spool, clock: Clock) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Accounts(spool, clock))
        self._requests = Counter(
            "feedback_loop_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "feedback_loop_request_seconds", "Time to the answer.", ["route"], registry=self._registry
        )

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)


class _Accounts(Collector):
    def __init__(self, spool: Spool, clock: Clock) -> None:
        self._spool = spool
        self._clock = clock

    def describe(self) -> list[Metric]:
        """Nothing: else the registry would collect once to find out."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The accounts, read when they are asked for."""
        counts, gauges = self._spool.counts(), self._spool.gauges()
        for name, meaning in _MEANING.items():
            rows = {model: asdict(each)[name] for model, each in counts.items()}
            yield _counter(name, meaning, rows)
        yield _counter("stored", "Rows of this server's spool that are in the store.", gauges.stored)
        yield _gauge("waiting", "Rows not in the store yet.", gauges.waiting)
        yield _gauge("rejected", "Rows that the store refused as data; they are kept.", gauges.rejected)
        missing = {
            model: counts[model].spooled - stored - gauges.waiting[model] - gauges.rejected[model]
            for model, stored in gauges.stored.items()
            if model in counts
        }
        yield _gauge("missing", "Rows that were durable once and are nowhere now.", missing)
        since = gauges.waiting_since
        age = 0.0 if since is None else max(0.0, (microseconds(self._clock()) - since) / 1e6)
        yield GaugeMetricFamily("feedback_loop_oldest_waiting_seconds", "Age of the first row that waits.", value=age)


def _gauge(name: str, meaning: str, rows: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"feedback_loop_rows_{name}", meaning, labels=["model"])
    for model, count in rows.items():
        family.add_metric([model], count)
    return family


def _counter(name: str, meaning: str, rows: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"feedback_loop_rows_{name}", meaning, labels=["model"])
    for model, count in rows.items():
        family.add_metric([model], count)
    return family
