"""Whole cohorts of the log as looks: which there are, how far their outcomes have come, and their rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.adaptation.adapter import Look
from feedback_loop.adaptation.birth import outcomes_of
from feedback_loop.adaptation.cohorts import Share, is_due
from feedback_loop.adaptation.guards import LONG_HOLD, RUN
from feedback_loop.clock import Window, floor_moment
from feedback_loop.inference.adapter_encoding import Encoding, Floats
from feedback_loop.monitoring.arrays import floats
from feedback_loop.schema import Column, Contract, Role, Task
from feedback_loop.store import Store
from feedback_loop.store.adapters import AdapterRevision, RevisionKind
from feedback_loop.store.coverage import load_coverage, with_inferred
from feedback_loop.store.evaluations import ALL_ROWS
from feedback_loop.store.predictions import read_labelled

_SERVED = (Role.CHAMPION, Role.CANARY)


@dataclass(frozen=True)
class Cohort:
    """All predictions of a window that callers were answered with, by whichever version."""

    window: Window
    share: Share
    is_matured: bool
    is_due: bool


def cohort_length(window: timedelta) -> timedelta:
    """A cohort is a window, at least a day."""
    return max(window, timedelta(days=1))


def cohorts(
    store: Store, contract: Contract, window: timedelta, maturity: timedelta, now: datetime
) -> Iterator[Cohort]:
    """The cohorts that have ended, oldest first, by what the join has counted; each is a window, at least a day."""
    accounts, until = load_coverage(store, contract.model)
    if until is None:
        return
    length = cohort_length(window)
    predicted: Counter[datetime] = Counter()
    labelled: Counter[datetime] = Counter()
    for account in with_inferred(store, contract, window, accounts, until):
        if account.role in _SERVED and account.segment == ALL_ROWS:
            start = floor_moment(account.window_start, length)
            predicted[start] += account.eligible
            labelled[start] += account.labelled + account.inferred
    finals: list[float] = []
    for start in sorted(predicted):
        end = start + length
        if end > now:
            return
        share, is_matured = Share(predicted[start], labelled[start]), end + maturity <= now
        yield Cohort(Window(start, end), share, is_matured, is_due(share, finals, is_matured=is_matured))
        if is_matured:
            finals.append(share.labelled_share)


def mistrusted(history: Iterable[AdapterRevision]) -> tuple[Window, ...]:
    """Spans of cohorts whose outcomes a guard stopped an adapter by, and of those that came while it was held.

    `history` are its revisions, newest first. A hold that outcomes did not end within `LONG_HOLD` looks is rather
    another world than wrong outcomes: its cohorts are not among these. A release by hand says that all before it are
    right.
    """
    cohorts, hold, learned, looks = list[Window](), list[Window](), list[Window](), 0
    for revision in reversed([*history]):
        if revision.kind in (RevisionKind.PROMOTED, RevisionKind.RELEASE):
            was_by_hand = revision.kind is RevisionKind.RELEASE
            cohorts = [] if was_by_hand else cohorts + hold * (looks <= LONG_HOLD)
            hold, learned, looks = [], [], 0
        elif revision.cohort_start is not None and revision.cohort_end is not None:
            cohort = Window(revision.cohort_start, revision.cohort_end)
            if revision.kind is RevisionKind.LEARNED:
                cohorts += hold
                hold, learned, looks = [], [*learned, cohort][1 - RUN :], 0
            elif {*revision.held_by} - {"hand"}:
                hold += [*learned, cohort]
                learned, looks = [], looks + 1
    return _joined(cohorts + hold * (looks <= LONG_HOLD))


def _joined(windows: Iterable[Window]) -> tuple[Window, ...]:
    """The same with those as one that touch."""
    spans: list[Window] = []
    for window in sorted(windows, key=lambda window: window.start):
        start = spans.pop().start if spans and window.start <= spans[-1].end else window.start
        spans.append(Window(start, window.end))
    return tuple(spans)


def read_look(store: Store, contract: Contract, encoding: Encoding, window: Window, as_of: datetime) -> Look:
    """The labelled rows of a cohort as known at a moment, ordered by id; rows without an answer are left out."""
    return read_rows(store, contract, encoding, window, as_of)[1]


def read_rows(
    store: Store, contract: Contract, encoding: Encoding, window: Window, as_of: datetime
) -> tuple[pa.ChunkedArray, Look]:
    """The same rows, with the ids of their predictions."""
    answers, raw = _answer_columns(contract)
    revision = contract.adapter_revision
    encoded = {*encoding.numbers, *(category.name for category in encoding.categories)}
    features = [column for column in contract.features if column.name in encoded and not column.hashed]
    rows = read_labelled(store, contract, window, as_of=as_of, columns=(*answers, *raw, *features, revision))
    rows = rows.filter(pc.is_in(rows.column("role"), pa.array([str(role) for role in _SERVED])))
    served = _matrix(contract, rows, answers)
    own = _matrix(contract, rows, raw)
    own = np.where(np.isnan(own), served, own)
    outcomes = outcomes_of(contract, rows.column(contract.label.stored))
    is_whole = ~(np.isnan(served + own).reshape(len(outcomes), -1).any(axis=1) | np.isnan(outcomes))
    rows = rows.filter(pa.array(is_whole))
    served = served[is_whole]
    served[np.asarray(rows.column(revision.stored).is_null())] = np.nan  # nobody's answers but the model's own
    return rows.column("prediction_id"), Look(
        own[is_whole],
        served,
        outcomes[is_whole],
        {column.name: rows.column(column.stored) for column in features},
    )


def _answer_columns(contract: Contract) -> tuple[Sequence[Column], Sequence[Column]]:
    """The columns of what was served, and those of the model's own answers where they differ."""
    places = range(len(contract.outputs)) if contract.task is Task.REGRESSION else range(1, len(contract.outputs))
    return [contract.outputs[place] for place in places], [contract.raw_outputs[place] for place in places]


def _matrix(contract: Contract, rows: pa.Table, columns: Sequence[Column]) -> Floats:
    """Answers as a `Look` has them."""
    matrix = [floats(rows.column(column.stored)) for column in columns]
    return np.column_stack(matrix) if contract.task is Task.MULTICLASS else matrix[0]
