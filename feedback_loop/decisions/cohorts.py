"""Cohorts: the windows that a look judges, and their losses as known at its moment. Replays read as live looks do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

from feedback_loop.clock import Window, floor_moment, windows_between
from feedback_loop.config import ModelSettings
from feedback_loop.decisions.baseline import losses_of
from feedback_loop.decisions.evidence import Estimated
from feedback_loop.decisions.panel import is_fresh
from feedback_loop.decisions.watched import Baseline, Cohort
from feedback_loop.monitoring import labelled_only, uniform
from feedback_loop.outcomes import matured_until
from feedback_loop.schema import Contract, Role
from feedback_loop.store import Store
from feedback_loop.store.evaluations import ALL_ROWS, load_evaluations, newest_evaluations
from feedback_loop.store.predictions import predicted_span, read_labelled
from feedback_loop.store.verdicts import Verdict

NEWEST = 20
"""So many evaluations are looked through for the newest one of a version."""


@dataclass(frozen=True)
class CohortRows:
    """The predictions of a window: those with an outcome, in the monitor's order, and how many there were in all."""

    labelled: pa.Table
    predictions: int


CohortReader = Callable[[Contract, str, Window, datetime], CohortRows]
"""Reads a version's cohort of a window as of a moment."""


def due_windows(
    store: Store,
    model: str,
    version: str,
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
        span = predicted_span(store, model, version, as_of=now)
        if span is None:
            return []
        start = floor_moment(span[0], settings.window)
        if since is not None:
            start = max(start, floor_moment(since, settings.window))
    if is_fresh(previous) and baseline.until is not None:
        start = max(start, floor_moment(baseline.until, settings.window) + settings.window)
    return list(windows_between(start, until, settings.window))


def cohort_reader(store: Store) -> CohortReader:
    """Reads from the log each time."""

    def read(contract: Contract, version: str, window: Window, as_of: datetime) -> CohortRows:
        columns = tuple({each.stored: each for each in (*contract.outputs, *contract.judged_by)}.values())
        rows = read_labelled(
            store, contract, window, as_of=as_of, version=version, role=Role.CHAMPION, columns=columns
        )
        # Unweighted, since each label counts as one draw for the monitor. Equal weights change no mean; where the
        # rate of sampling was changed within the cohort, it is thinned to the lowest.
        labelled = labelled_only(contract, uniform(rows))
        return CohortRows(labelled.take(monitoring_order(labelled.column("prediction_id"))), rows.num_rows)

    return read


def cohort_of(contract: Contract, window: Window, rows: CohortRows) -> Cohort:
    """The losses of a cohort, by name, and of which segments its rows are."""
    return Cohort(window, losses_of(contract, rows.labelled), rows.predictions)


def monitoring_order(identifiers: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """The order in which a cohort's labels go to the monitor: by a digest of their ids.

    It is fixed before any outcome is known, which is all that the guarantee needs, and it spreads every hour of the
    cohort over all of it: a season within the day can't look like a change.
    """
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in identifiers.to_pylist()]
    return np.argsort(np.array(digests, dtype="S8"), kind="stable")


def drifted_share(store: Store, model: str, version: str, window: Window, now: datetime) -> float | None:
    """The share of columns that had drifted in a window, by what was evaluated of it by then."""
    found = [
        each
        for each in load_evaluations(store, model, within=window)
        if each.version == version and each.as_of <= now
    ]
    return newest_evaluations(found)[-1].drifted_share if found else None


def estimated_loss(store: Store, model: str, version: str, now: datetime) -> Estimated | None:
    """What the newest window's predictions are believed to cost, of which no outcome may be there yet."""
    newest = load_evaluations(store, model, newest=NEWEST, until=now)
    found = [each for each in newest if each.version == version]
    for each in found[-1].estimates if found else ():
        if each.segment == ALL_ROWS and each.metric in ("accuracy", "mae") and each.standard_error is not None:
            is_error = each.metric == "accuracy"
            value = 1 - each.value if is_error else each.value
            return Estimated("error" if is_error else "absolute_error", value, each.standard_error, each.rows)
    return None
