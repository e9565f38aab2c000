"""A look: matured cohorts that no verdict has consumed yet, judged, and the verdict kept with its incident."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from feedback_loop.config import ModelSettings
from feedback_loop.decisions.cohorts import (
    CohortReader,
    cohort_of,
    cohort_reader,
    drifted_share,
    due_windows,
    estimated_loss,
)
from feedback_loop.decisions.panel import is_fresh
from feedback_loop.decisions.policy import judge
from feedback_loop.decisions.watched import Baseline
from feedback_loop.schema import Contract
from feedback_loop.store import Store
from feedback_loop.store.verdicts import (
    State,
    Verdict,
    close_incident,
    latest_verdict,
    open_incident,
    record_verdict,
)

REFERENCE_AS_OF = "reference_as_of"
"""Under this name the monitor's record says as of when its reference is: later looks take the very same rows."""


def decide(
    store: Store,
    contract: Contract,
    version: str,
    settings: ModelSettings,
    baseline_as_of: Callable[[datetime], Baseline],
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
    verdict = look(store, contract, version, settings, baseline_as_of, previous=previous, since=since, now=now)
    if verdict is None:
        return None
    verdict, _ = record_verdict(store, verdict, routes)
    incident = open_incident(store, contract.model)
    if incident is not None and verdict.state is State.OK:
        because = (
            "it has recovered" if incident.version == version else f"version {version} has taken over and does well"
        )
        close_incident(store, incident.incident_id, now, because)
    return verdict


def look(
    store: Store,
    contract: Contract,
    version: str,
    settings: ModelSettings,
    baseline_as_of: Callable[[datetime], Baseline],
    *,
    previous: Verdict | None,
    since: datetime | None,
    now: datetime,
    read: CohortReader | None = None,
) -> Verdict | None:
    """The verdict of one look, with what was known at its moment; nothing is written, so a replay is the same."""
    if previous is not None and since is not None and previous.decided_at < since:
        previous = None
    kept = previous.monitor.get(REFERENCE_AS_OF) if previous is not None and not is_fresh(previous) else None
    as_of = datetime.fromisoformat(kept) if kept is not None else now
    baseline = baseline_as_of(as_of)
    windows = due_windows(store, contract.model, version, settings, baseline, previous=previous, since=since, now=now)
    if not windows:
        return None
    read = read or cohort_reader(store)
    verdict = judge(
        contract.model,
        version,
        [cohort_of(contract, window, read(contract, version, window, now)) for window in windows],
        baseline,
        settings.policy,
        previous=previous,
        drifted_share=drifted_share(store, contract.model, version, windows[-1], now),
        estimated=estimated_loss(store, contract.model, version, now),
        now=now,
    )
    return replace(verdict, monitor={**verdict.monitor, REFERENCE_AS_OF: as_of.isoformat()})
