"""What Prometheus reads of a server: requests, batches, versions, and the accounts of its spools; of all workers."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from feedback_loop.capture import Spool
from feedback_loop.capture.spool_file import SUFFIX, SpoolFile, microseconds
from feedback_loop.clock import Clock
from feedback_loop.errors import Unavailable
from feedback_loop.serving.board import Board
from feedback_loop.store.spool_accounts import is_of_outcomes, model_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_log = structlog.get_logger(__name__)

_MEANING = {
    "answered": "Rows whose answer was given out.",
    "spooled": "Rows that were made durable before their answer.",
    "refused": "Rows that were not answered, since they could not be logged.",
    "dropped": "Rows that were answered without being logged, since the spool took none.",
    "unsampled": "Rows that the configuration leaves out of the log.",
}

_OUTCOMES = {
    "spooled": "Outcomes that were made durable on this host while the store was away.",
    "stored": "Outcomes of this server's spools that are in the store.",
    "refused": "Outcomes that were not taken, since the spool took none.",
}

_WAITING = {
    "waiting": "Rows not in the store yet.",
    "rejected": "Rows that the store refused as data; they are kept.",
    "missing": "Rows that were durable once and are nowhere now.",
}


class Metrics(Collector):
    """A server's metrics, collected when they are asked for. Thread-safe."""

    def __init__(
        self, board: Board, spool: Spool, clock: Clock, being_made_ready: Callable[[], Sequence[str]] = tuple
    ) -> None:
        self._being_made_ready = being_made_ready
        self._board = board
        self._spool = spool
        self._clock = clock

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def describe(self) -> list[Metric]:
        """Nothing: else the registry would collect once to find out."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The figures of all workers, added up, and the accounts of those that live."""
        yield from self._board.collect()
        making = len(self._being_made_ready())
        yield _gauge(
            "models_being_made_ready", "Models that no version answers for yet, but will.", [], [((), making)]
        )
        yield from self._accounts(self._board.alive())

    def _accounts(self, pids: Sequence[int]) -> Iterator[Metric]:
        """What became of the rows, by the spools of the workers that live. (Workers of other servers on the same
        volume may have the same numbers: all containers' do.)

        This worker's account is brought to its file first: what it tells here, the others must tell too.
        """
        rows, since = self._own()
        for pid in pids:
            for path in self._spool.folder.glob(f"*-{pid}-{self._spool.mark}*{SUFFIX}") if pid != os.getpid() else ():
                try:
                    with SpoolFile.open(path) as file:
                        accounts = file.accounts(self._clock())
                except sqlite3.Error as error:  # its owner makes a new one, and says so in its log
                    _log.warning("spool not read", path=path.name, cause=str(error))
                    continue
                for account in accounts:
                    for name in (*_MEANING, "stored", *_WAITING):
                        rows.setdefault(name, Counter())[account.model] += getattr(account, name)
                    if account.waiting_since is not None:
                        since.append(microseconds(account.waiting_since))
        predictions, outcomes = _apart(rows)
        for name, meaning in _MEANING.items():
            yield _counter(f"rows_{name}", meaning, predictions[name])
        yield _counter("rows_stored", "Rows of this server's spools that are in the store.", predictions["stored"])
        for name, meaning in _OUTCOMES.items():
            yield _counter(f"outcomes_{name}", meaning, outcomes[name])
        for name, meaning in _WAITING.items():
            yield _gauge(f"rows_{name}", meaning, ["model"], [((m,), n) for m, n in predictions[name].items()])
            said = meaning.replace("Rows", "Outcomes")
            yield _gauge(f"outcomes_{name}", said, ["model"], [((m,), n) for m, n in outcomes[name].items()])
        age = max(0.0, (microseconds(self._clock()) - min(since)) / 1e6) if since else 0.0
        yield _gauge("oldest_waiting_seconds", "Age of the first row that waits.", [], [((), age)])

    def _own(self) -> tuple[dict[str, Counter[str]], list[int]]:
        self._spool.flush()
        counts = self._spool.counts()
        rows = {name: Counter({m: asdict(count)[name] for m, count in counts.items()}) for name in _MEANING}
        try:
            gauges = self._spool.gauges()
        except Unavailable as error:  # the rest is shown all the same: now it is needed most
            _log.warning("spool not read", cause=str(error))
            return rows | {name: Counter() for name in ("stored", *_WAITING)}, []
        first = gauges.waiting_since
        now = {name: Counter(getattr(gauges, name)) for name in ("stored", *_WAITING)}
        return rows | now, [first] if first else []


def _apart(rows: dict[str, Counter[str]]) -> tuple[dict[str, Counter[str]], dict[str, Counter[str]]]:
    """The rows of predictions, and those of outcomes, each by their models."""
    predictions: dict[str, Counter[str]] = {name: Counter() for name in rows}
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in rows}
    for name, counted in rows.items():
        for account, count in counted.items():
            (outcomes if is_of_outcomes(account) else predictions)[name][model_of(account)] = count
    return predictions, outcomes


def _counter(name: str, meaning: str, values: Counter[str]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"feedback_loop_{name}", meaning, labels=["model"])
    for model, count in values.items():
        family.add_metric([model], count)
    return family


def _gauge(name: str, meaning: str, labels: list[str], values: Sequence[tuple[Any, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"feedback_loop_{name}", meaning, labels=labels)
    for of, value in values:
        family.add_metric(list(of), value)
    return family
