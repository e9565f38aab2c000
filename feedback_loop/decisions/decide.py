"""A look: matured cohorts that no verdict has consumed yet, judged, and the verdict kept with its incident."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa

from feedback_loop.clock import Window, floor_moment, windows_between
from feedback_loop.config import ModelSettings
from feedback_loop.decisions.baseline import losses_of
from feedback_loop.decisions.evidence import Estimated
from feedback_loop.decisions.panel import is_fresh
from feedback_loop.decisions.policy import judge
from feedback_loop.decisions.watched import Baseline, Cohort
from feedback_loop.monitoring import labelled_only, uniform
from feedback_loop.outcomes import matured_until
from feedback_loop.schema import Contract, Role
from feedback_loop.store import Store
from feedback_loop.store.evaluations import ALL_ROWS, load_evaluations, newest_evaluations
from feedback_loop.store.predictions import predicted_span, read_labelled
from feedback_loop.store.verdicts import (
    State,
    Verdict,
    close_incident,
    latest_verdict,
    open_incident,
    record_verdict,
)

NEWEST = 20
"""So many evaluations are looked through for the newest one of a version."""


def decide(
    store: Store,
    contract: Contract,
    version: str,
    settings: ModelSettings,
    baseline: Baseline,
    *,
    since: datetime | None,
    routes: Sequence[str],
    now: datetime,
) -> Verdict | None:
    """Judges the cohorts that have matured since this version's last verdict; None where there are none.

    `since` is when the version became champion: a look from before that belongs to an earlier monitor. A degraded
    verdict opens an incident. An open one is closed by a good verdict: a better version has taken over, or the
    threshold is kept again.
    """
    previous = latest_verdict(store, contract.model, version)
    if previous is not None and since is not None and previous.decided_at < since:
        previous = None
    cohorts = _due_cohorts(store, contract, version, settings, baseline, previous, since, now)
    if not cohorts:
        return None
    verdict = judge(
        contract.model,
        version,
        cohorts,
        baseline,
        settings.policy,
        previous=previous,
        drifted_share=_drifted_share(store, contract.model, version, cohorts[-1].window),
        estimated=_estimated(store, contract.model, version, now),
        now=now,
    )
    verdict, _ = record_verdict(store, verdict, routes)
    incident = open_incident(store, contract.model)
    if incident is not None and verdict.state is State.OK:
        because = (
            "it has recovered" if incident.version == version else f"version {version} has taken over and does well"
        )
        close_incident(store, incident.incident_id, now, because)
    return verdict


def monitoring_order(identifiers: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """The order in which a cohort's labels go to the monitor: by a digest of their ids.

    It is fixed before any outcome is known, which is all that the guarantee needs, and it spreads every hour of the
    cohort over all of it: a season within the day can't look like a change.
    """
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in identifiers.to_pylist()]
    return np.argsort(np.array(digests, dtype="S8"), kind="stable")


def _due_cohorts(
    store: Store,
    contract: Contract,
    version: str,
    settings: ModelSettings,
    baseline: Baseline,
    previous: Verdict | None,
    since: datetime | None,
    now: datetime,
) -> list[Cohort]:
    until = matured_until(now, settings.maturity, settings.window)
    span = predicted_span(store, contract.model, version)
    if span is None:
        return []
    start = previous.window.end if previous is not None else floor_moment(span[0], settings.window)
    if previous is None and since is not None:
        start = max(start, floor_moment(since, settings.window))
    if is_fresh(previous) and baseline.until is not None:
        start = max(start, floor_moment(baseline.until, settings.window) + settings.window)
    windows = windows_between(start, until, settings.window)
    return [_cohort(store, contract, version, window, now) for window in windows]


def _cohort(store: Store, contract: Contract, version: str, window: Window, now: datetime) -> Cohort:
    columns = tuple({each.stored: each for each in (*contract.outputs, *contract.judged_by)}.values())
    rows = read_labelled(store, contract, window, as_of=now, version=version, role=Role.CHAMPION, columns=columns)
    # Unweighted, since each label counts as one draw for the monitor. Equal weights change no mean; where the rate
    # of sampling was changed within the cohort, it is thinned to the lowest.
    labelled = labelled_only(contract, uniform(rows))
    ordered = labelled.take(monitoring_order(labelled.column("prediction_id")))
    return Cohort(window, losses_of(contract, ordered), rows.num_rows)


def _drifted_share(store: Store, model: str, version: str, window: Window) -> float | None:
    found = [each for each in load_evaluations(store, model, within=window) if each.version == version]
    return newest_evaluations(found)[-1].drifted_share if found else None


def _estimated(store: Store, model: str, version: str, now: datetime) -> Estimated | None:
    """What the newest window's predictions are believed to cost, of which no outcome may be there yet."""
    newest = load_evaluations(store, model, newest=NEWEST)
    found = [each for each in newest if each.version == version and each.as_of <= now]
    for each in found[-1].estimates if found else ():
        if each.segment == ALL_ROWS and each.metric in ("accuracy", "mae") and each.standard_error is not None:
            is_error = each.metric == "accuracy"
            value = 1 - each.value if is_error else each.value
            return Estimated("error" if is_error else "absolute_error", value, each.standard_error, each.rows)
    return None
