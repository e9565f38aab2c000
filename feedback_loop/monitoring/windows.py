"""Evaluations of stored windows: which are due, read, computed, kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from feedback_loop.clock import Window, floor_moment, windows_between
from feedback_loop.monitoring.evaluation import evaluate_rows
from feedback_loop.monitoring.profiles import Profile
from feedback_loop.outcomes import is_matured, matured_until
from feedback_loop.schema import Contract, Role
from feedback_loop.store import Store
from feedback_loop.store.accounts import reopened_windows
from feedback_loop.store.evaluations import Evaluation, evaluated_until, save_evaluation, save_profile
from feedback_loop.store.predictions import predicted_span, read_labelled, versions_in

ReferenceOf = Callable[[str], Profile | None]
"""Gives the profile of a version's reference rows, if it has any."""


def due_windows(store: Store, model: str, length: timedelta, maturity: timedelta, now: datetime) -> list[Window]:
    """The windows that have closed or matured since they were last evaluated, oldest first.

    Each is evaluated twice: when it closes (drift, and the outcomes so far) and when it has matured; after that,
    again whenever the join has found that something else is known of it (a late outcome, a correction).
    """
    span = predicted_span(store, model)
    if span is None:
        return []
    due = set(reopened_windows(store, model, length))
    for matured, until in ((False, floor_moment(now, length)), (True, matured_until(now, maturity, length))):
        since = evaluated_until(store, model, matured=matured) or floor_moment(span[0], length)
        due.update(windows_between(since, until, length))
    return sorted(due)


def evaluate_window(
    store: Store,
    contract: Contract,
    window: Window,
    reference_of: ReferenceOf,
    *,
    maturity: timedelta,
    as_of: datetime,
) -> list[Evaluation]:
    """Evaluates each version that was champion in a window, as of that moment, and keeps the results.

    A window without predictions is kept too, under no version: that nothing was predicted is a finding.
    """
    found = []
    for version in versions_in(store, contract.model, window, Role.CHAMPION) or [""]:
        rows = read_labelled(store, contract, window, as_of=as_of, version=version, role=Role.CHAMPION)
        evaluation, profile = evaluate_rows(
            contract,
            rows,
            reference_of(version) if version else None,
            version=version,
            window=window,
            as_of=as_of,
            matured=is_matured(window, as_of, maturity),
        )
        found.append(save_evaluation(store, evaluation))
        if profile is not None:
            save_profile(store, contract.model, version, "window", window, rows.num_rows, profile.to_json())
    return found
