"""What a look reads from the log: the windows that are due, and their losses as known at its moment."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feedback_loop.clock import EPOCH, Window, floor_moment, windows_between
from feedback_loop.config import ModelSettings
from feedback_loop.decisions.evidence import Estimated
from feedback_loop.decisions.losses import Baseline, Cohort, losses_of, split_losses
from feedback_loop.decisions.panel import is_fresh
from feedback_loop.monitoring import judged, labelled_only, row_weights, thinned
from feedback_loop.outcomes import matured_until
from feedback_loop.schema import Contract, Role
from feedback_loop.store import Store
from feedback_loop.store.conclusions import Verdict
from feedback_loop.store.evaluations import ALL_ROWS, load_evaluations, newest_estimates, newest_evaluations
from feedback_loop.store.predictions import predicted_span, read_labelled

NEWEST = 20
"""The newest estimate of a version is searched among so many evaluations."""


@dataclass(frozen=True)
class LogReader:
    """Reads what was known of one version as of a moment."""

    store: Store
    contract: Contract
    version: str
    reads_raw: bool = False  # the model's own answers too, where an adapter has changed them

    def first_predicted(self, as_of: datetime) -> datetime | None:
        """When its first prediction was made."""
        span = predicted_span(self.store, self.contract.model, self.version, as_of=as_of)
        return span[0] if span is not None else None

    def cohort(self, window: Window, as_of: datetime) -> Cohort:
        """The predictions of a window that it answered with as the champion."""
        return self._cohort(window, self._rows(window, as_of))

    def cohorts(self, windows: Sequence[Window], as_of: datetime) -> list[Cohort]:
        """The cohorts of consecutive windows, read a day at a time: windows of minutes cost no query each."""
        cohorts: list[Cohort] = []
        for _, day in groupby(windows, lambda window: window.start.date()):
            of_day = list(day)
            rows = self._rows(Window(of_day[0].start, of_day[-1].end), as_of)
            cohorts += self._split(of_day, rows) if len(of_day) > 1 else [self._cohort(of_day[0], rows)]
        return cohorts

    def _split(self, windows: Sequence[Window], rows: pa.Table) -> list[Cohort]:
        """The cohorts of consecutive windows, from all their rows."""
        rows = rows.sort_by([("predicted_at", "ascending"), ("prediction_id", "ascending")])
        starts = [_since_1970(window.start) for window in windows]
        firsts = [*np.searchsorted(_microseconds(rows), starts).tolist(), rows.num_rows]
        if self.contract.join.needs_action or row_weights(rows) is not None:  # each is thinned by its own rate
            return [
                self._cohort(window, rows.slice(first, last - first))
                for window, (first, last) in zip(windows, pairwise(firsts), strict=True)
            ]
        labelled = labelled_only(self.contract, rows)
        places = np.searchsorted(starts, _microseconds(labelled), side="right") - 1
        labelled = labelled.take(monitoring_order(labelled.column("prediction_id"), places))
        ends = np.searchsorted(places, np.arange(len(windows)), side="right").tolist()
        parts = split_losses(losses_of(self.contract, labelled), ends, self.contract.segment_values)
        return [
            Cohort(window, losses, last - first)
            for window, losses, (first, last) in zip(windows, parts, pairwise(firsts), strict=True)
        ]

    def _rows(self, window: Window, as_of: datetime) -> pa.Table:
        contract = self.contract
        raw = contract.raw_outputs if self.reads_raw else ()
        wanted = (*contract.outputs, *raw, *contract.judged_by)
        columns = tuple({column.stored: column for column in wanted}.values())
        return read_labelled(
            self.store, contract, window, as_of=as_of, version=self.version, role=Role.CHAMPION, columns=columns
        )

    def _cohort(self, window: Window, rows: pa.Table) -> Cohort:
        contract = self.contract
        # Unweighted, since each label counts as one draw for the monitor. Equal weights change no mean; where rows
        # stand for different numbers of predictions (another rate of sampling, another chance to be acted on), they
        # are thinned until all stand for as many.
        labelled = labelled_only(contract, thinned(contract, rows))
        labelled = labelled.take(monitoring_order(labelled.column("prediction_id")))
        return Cohort(window, losses_of(contract, labelled), judged(contract, rows).num_rows)

    def drifted_share(self, window: Window, as_of: datetime) -> float | None:
        """The share of columns that had drifted in a window, from its newest evaluation."""
        evaluations = load_evaluations(self.store, self.contract.model, within=window, until=as_of)
        own = [evaluation for evaluation in evaluations if evaluation.version == self.version]
        return newest_evaluations(own)[-1].drifted_share if own else None

    def estimated_loss(self, as_of: datetime) -> Estimated | None:
        """The newest estimate of the mean loss, of predictions that may have no outcome yet."""
        for estimate in newest_estimates(self.store, self.contract.model, self.version, among=NEWEST, until=as_of):
            if (
                estimate.segment == ALL_ROWS
                and estimate.metric in ("accuracy", "mae")
                and estimate.standard_error is not None
            ):
                is_error = estimate.metric == "accuracy"
                value = 1 - estimate.value if is_error else estimate.value
                return Estimated(
                    "error" if is_error else "absolute_error", value, estimate.standard_error, estimate.rows
                )
        return None


def due_windows(
    reader: LogReader,
    settings: ModelSettings,
    baseline: Baseline,
    *,
    previous: Verdict | None,
    since: datetime | None,
    now: datetime,
) -> list[Window]:
    """The windows that have matured since the previous verdict (or the version's promotion), oldest first."""
    until = matured_until(now, settings.maturity, settings.window)
    if previous is not None:
        start = previous.window.end
    else:
        first = reader.first_predicted(now)
        if first is None:
            return []
        start = floor_moment(first, settings.window)
        if since is not None:
            start = max(start, floor_moment(since, settings.window))
    if is_fresh(previous) and baseline.until is not None:
        start = max(start, floor_moment(baseline.until, settings.window) + settings.window)
    return list(windows_between(start, until, settings.window))


def _microseconds(rows: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """When the rows were predicted, counted from 1970."""
    return np.asarray(rows.column("predicted_at").cast(pa.timestamp("us", "UTC")).cast(pa.int64()))


def _since_1970(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def monitoring_order(
    identifiers: pa.ChunkedArray, places: npt.NDArray[np.intp] | None = None
) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """The order in which a cohort's labels go to the monitor: by a digest of their ids, within its place if given.

    It is fixed before any outcome is known, which is all that the guarantee needs, and it spreads every hour over the
    whole cohort: a pattern within the day can't look like a change.
    """
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in identifiers.to_pylist())
    numbers = np.frombuffer(digests, dtype=">u8")
    return np.lexsort((numbers,) if places is None else (numbers, places))
