"""Evaluations of stored windows: which are due, their tallies (stored, or folded from the log), and the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from feedback_loop.clock import Window, floor_moment, windows_between
from feedback_loop.errors import FeedbackLoopError
from feedback_loop.monitoring.custom_metrics import CustomResult, metrics_by_rows
from feedback_loop.monitoring.estimate_calibration import WindowQuery, learns_from_removed, matured_profile
from feedback_loop.monitoring.evaluation import evaluate_cells
from feedback_loop.monitoring.profile_store import fold_window, kept_cells
from feedback_loop.monitoring.profiles.fold import Cell
from feedback_loop.monitoring.profiles.layout import Layout
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.profiles.tally import Tally
from feedback_loop.monitoring.ranking import query_columns, query_metrics
from feedback_loop.outcomes import is_matured, matured_until
from feedback_loop.schema import Contract, Role
from feedback_loop.store import Store, profiles
from feedback_loop.store.coverage import joined_versions, reopened_windows
from feedback_loop.store.evaluations import (
    Evaluation,
    evaluated_until,
    save_evaluation,
    with_stored_estimates,
)
from feedback_loop.store.ledger import FailedWindow, load_failed_windows, save_failed_window
from feedback_loop.store.predictions import predicted_span, read_labelled, versions_in

FIRST_PAUSE, MOST_PAUSE = timedelta(minutes=10), timedelta(days=1)
"""The pauses before a window that failed is tried again."""

ReferenceOf = Callable[[str], Profile | None]
"""Gives the profile of a version's reference rows, if it has any."""


def due_windows(store: Store, model: str, length: timedelta, maturity: timedelta, now: datetime) -> list[Window]:
    """The windows that have closed or matured by `now` since they were last evaluated, oldest first.

    Each is evaluated twice: when it closes (drift, and the outcomes so far) and when it has matured; after that,
    again whenever the join has found that something else is known of it (a late outcome, a correction). One that
    failed waits for its next attempt, and is due then.
    """
    span = predicted_span(store, model, as_of=now)
    if span is None:
        return []
    due = set(reopened_windows(store, model, length))
    for matured, until in ((False, floor_moment(now, length)), (True, matured_until(now, maturity, length))):
        since = evaluated_until(store, model, matured=matured) or floor_moment(span[0], length)
        due.update(windows_between(since, until, length))
    failed = {failure.window: failure.next_attempt_at for failure in load_failed_windows(store, model)}
    return sorted({window for window in {*due, *failed} if failed.get(window, now) <= now})


def after_failure(store: Store, model: str, window: Window, error: Exception, now: datetime) -> FailedWindow:
    """Records that a window could not be evaluated; the pause before the next attempt doubles each time."""
    attempts = 1 + next(
        (failure.attempts for failure in load_failed_windows(store, model) if failure.window == window), 0
    )
    pause = min(FIRST_PAUSE * 2 ** min(attempts - 1, 30), MOST_PAUSE)
    cause = error.cause if isinstance(error, FeedbackLoopError) else f"{type(error).__name__}: {error}"
    failed = FailedWindow(window, attempts, now, now + pause, cause)
    save_failed_window(store, model, failed)
    return failed


def evaluate_window(
    store: Store,
    contract: Contract,
    query: WindowQuery,
    reference_of: ReferenceOf,
    *,
    extend: Callable[[Evaluation], Evaluation] = lambda evaluation: evaluation,
) -> list[Evaluation]:
    """Evaluates each version that was champion in a window, as of that moment, and keeps the results.

    At the moment that the join has reached, stored tallies are used, at the same cost for any number of rows; at
    another one, or `from_log`, the rows of the log. Both give the same numbers, to the bit; but a user's metrics that
    take all rows at once are computed `from_log` alone. A window without predictions is stored too, under no version.
    `extend` adds what only rows can say, the same for both ways.
    """
    evaluations = [evaluated(store, counted, query) for counted in count_window(store, contract, query, reference_of)]
    saved = [
        save_evaluation(store, extend(evaluation) if evaluation.version else evaluation) for evaluation in evaluations
    ]
    if learns_from_removed(store, contract.model, query):  # the rows that they were calibrated on are gone
        saved = [with_stored_estimates(store, evaluation) for evaluation in saved]
    return saved


def evaluated(store: Store, counted: Counted, query: WindowQuery) -> Evaluation:
    """What is counted of a version, as an evaluation, with estimates by what had matured before the window."""
    calibration = None
    if counted.cells:
        of_log = replace(query, from_log=not counted.is_kept)
        calibration = matured_profile(store, counted.layout, of_log, counted.version)
    more = _by_rows(store, counted.layout.contract, query, counted.version) if counted.version else []
    return evaluate_cells(
        counted.layout,
        counted.cells,
        counted.reference,
        version=counted.version,
        window=query.window,
        as_of=query.as_of,
        matured=is_matured(query.window, query.as_of, query.maturity),
        calibration=calibration,
        more=more,
    )


@dataclass(frozen=True)
class Counted:
    """What is counted of one version's predictions in a window, and the reference that it is measured by."""

    version: str
    layout: Layout
    cells: dict[Cell, Tally]
    reference: Profile | None
    is_kept: bool


def count_window(
    store: Store, contract: Contract, query: WindowQuery, reference_of: ReferenceOf
) -> Iterator[Counted]:
    """Counts each version that was champion in a window, as of that moment; if none was, nothing under no version."""
    window, as_of, versions = query.window, query.as_of, None
    if not query.from_log:
        versions = joined_versions(store, contract.model, window, Role.CHAMPION, query.length, as_of)
    if versions is None:
        versions = versions_in(store, contract.model, window, Role.CHAMPION, as_of)
    for version in versions or [""]:
        reference = reference_of(version) if version else None
        layout = reference.layout if reference is not None else Layout.bare(contract)
        stored = None
        if reference is not None and not query.from_log:
            stored = _stored_cells(store, layout, window, reference, version=version, as_of=as_of)
        cells = stored or {}
        if version and stored is None:
            cells = fold_window(store, layout, window, version=version, role=Role.CHAMPION, as_of=as_of)
        yield Counted(version, layout, cells, reference, is_kept=stored is not None)


def window_cells(
    store: Store, layout: Layout, window: Window, reference: Profile, *, version: str, as_of: datetime
) -> dict[Cell, Tally]:
    """The tallies of a window: stored ones of that reference where they are as of that moment, else from the log."""
    stored = _stored_cells(store, layout, window, reference, version=version, as_of=as_of)
    if stored is not None:
        return stored
    return fold_window(store, layout, window, version=version, role=Role.CHAMPION, as_of=as_of)


def _stored_cells(
    store: Store, layout: Layout, window: Window, reference: Profile, *, version: str, as_of: datetime
) -> dict[Cell, Tally] | None:
    """The stored tallies of that reference, if there are any as of that moment."""
    if not profiles.is_whole_hours(window):
        return None
    stored = profiles.load_window(store, layout.contract.model, version, Role.CHAMPION, window)
    is_of_it = stored.reference is not None and stored.reference.digest == reference.digest
    return kept_cells(stored.tallies) if is_of_it and stored.watermark == as_of else None


def _by_rows(store: Store, contract: Contract, query: WindowQuery, version: str) -> list[CustomResult]:
    """Metrics that need rows: those of queries, from their few columns, and `from_log` a user's functions of rows."""
    metrics: list[CustomResult] = []
    read = partial(
        read_labelled, store, contract, query.window, as_of=query.as_of, version=version, role=Role.CHAMPION
    )
    if contract.query:
        metrics += query_metrics(contract, read(columns=query_columns(contract)))
    if query.from_log and contract.own_metrics:
        metrics += metrics_by_rows(contract, read())
    return metrics
