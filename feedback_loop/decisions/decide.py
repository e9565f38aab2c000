"""A look: matured cohorts that no verdict has consumed yet, judged, and the verdict kept with its incident."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
import pyarrow as pa

from feedback_loop.clock import Window, floor_moment, windows_between
from feedback_loop.config import ModelSettings, PolicySettings
from feedback_loop.decisions.monitors import scaled
from feedback_loop.decisions.policy import Baseline, Cohort, judge
from feedback_loop.decisions.recovery import (
    recovery_from_json,
    recovery_to_json,
    reference_level,
    start_recovery,
)
from feedback_loop.monitoring import labelled_only, row_losses, uniform
from feedback_loop.outcomes import matured_until
from feedback_loop.schema import Contract, Role
from feedback_loop.store import Store
from feedback_loop.store.evaluations import load_evaluations, newest_evaluations
from feedback_loop.store.incidents import Followed, Incident, ended_at, open_incident
from feedback_loop.store.predictions import predicted_span, read_labelled
from feedback_loop.store.verdicts import State, Verdict, latest_verdict, record_verdict


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
    verdict opens an incident. An open one is closed once there is evidence that the loss is back where it should be,
    by the version's own reference (`recovery`), and the monitor that had alarmed starts anew.
    """
    previous = latest_verdict(store, contract.model, version)
    if previous is not None and since is not None and previous.decided_at < since:
        previous = None
    if previous is not None and previous.state is not State.OK and ended_at(store, previous.verdict_id or 0):
        previous = replace(previous, monitor={**previous.monitor, "state": None})
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
        now=now,
    )
    incident = open_incident(store, contract.model)
    followed = None if incident is None else _followed(incident, verdict, cohorts, baseline, settings.policy)
    return record_verdict(store, verdict, routes, followed)[0]


def _followed(
    incident: Incident, verdict: Verdict, cohorts: Sequence[Cohort], baseline: Baseline, policy: PolicySettings
) -> Followed:
    """What the cohorts say about the open incident; nothing before the version has a reference."""
    if verdict.state is State.INSUFFICIENT_DATA:
        return Followed(incident.incident_id, incident.recovery)
    reference = scaled(baseline.loss, baseline.losses, baseline.losses)
    recovery = recovery_from_json(incident.recovery) if incident.recovery is not None else None
    if recovery is None or recovery.version != verdict.version:
        ordinal = recovery.ordinal + 1 if recovery is not None else 1
        level = reference_level(reference, baseline.windows)
        recovery = start_recovery(verdict.version, level, alpha=policy.alpha, ordinal=ordinal)
    recovery = recovery.update(scaled(baseline.loss, each.losses, baseline.losses) for each in cohorts)
    closes = None
    if recovery.recovered and not (policy.rule == "threshold" and verdict.state is State.DEGRADED):
        taken_over = f"version {verdict.version} has taken over and does well"
        began = "it has recovered" if incident.version == verdict.version else taken_over
        closes = f"{began}: {recovery.words}"
    return Followed(incident.incident_id, recovery_to_json(recovery), closes)


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
    is_fresh = previous is None or previous.monitor["state"] is None
    if is_fresh and baseline.until is not None:
        start = max(start, floor_moment(baseline.until, settings.window) + settings.window)
    windows = windows_between(start, until, settings.window)
    return [_cohort(store, contract, version, baseline.loss, window, now) for window in windows]


def _cohort(store: Store, contract: Contract, version: str, loss: str, window: Window, now: datetime) -> Cohort:
    rows = read_labelled(
        store, contract, window, as_of=now, version=version, role=Role.CHAMPION, columns=contract.outputs
    )
    # Unweighted, since each label counts as one draw for the monitor. Equal weights change no mean; where the rate
    # of sampling was changed within the cohort, it is thinned to the lowest.
    labelled = labelled_only(contract, uniform(rows))
    if not labelled.num_rows:
        return Cohort(window, np.empty(0), rows.num_rows)
    losses = row_losses(contract, labelled)[loss]
    return Cohort(window, losses[monitoring_order(labelled.column("prediction_id"))], rows.num_rows)


def _drifted_share(store: Store, model: str, version: str, window: Window) -> float | None:
    found = [each for each in load_evaluations(store, model, within=window) if each.version == version]
    return newest_evaluations(found)[-1].drifted_share if found else None
