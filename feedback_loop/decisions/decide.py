"""A look: judges the cohorts that have matured since the last verdict, and records the verdict with its incident."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from feedback_loop.clock import floor_moment, format_moment
from feedback_loop.config import ModelSettings
from feedback_loop.decisions.cohorts import LogReader, due_windows
from feedback_loop.decisions.losses import Baseline
from feedback_loop.decisions.panel import is_fresh
from feedback_loop.decisions.policy import judge
from feedback_loop.decisions.recovery import Recoveries, follow
from feedback_loop.outcomes import matured_until, matures_at
from feedback_loop.schema import Contract
from feedback_loop.store import Store
from feedback_loop.store.alerts import Routes
from feedback_loop.store.conclusions import State, Verdict, latest_verdict
from feedback_loop.store.incidents import Ended, Followed, ended_at, open_incident, record_verdict
from feedback_loop.store.predictions import predicted_span

REFERENCE_AS_OF = "reference_as_of"
"""The key of the moment that the monitor's reference was read as of: later looks take the very same rows."""


def decide(
    store: Store,
    contract: Contract,
    version: str,
    settings: ModelSettings,
    baseline_as_of: Callable[[datetime], Baseline],
    *,
    since: datetime | None,
    routes: Routes,
    now: datetime,
) -> Verdict | None:
    """Judges the cohorts that have matured since this version's last verdict; None where there are none.

    `since` is when the version became champion: an earlier look belongs to an earlier monitor. A degraded verdict
    opens an incident. An open incident is closed once there is evidence that the loss is back at the level of the
    version's own reference (`recovery`); monitors that had alarmed start anew then.
    """
    newest = latest_verdict(store, contract.model)
    previous = latest_verdict(store, contract.model, version)
    if previous is not None and previous.state is not State.OK:
        previous = restarted(previous, ended_at(store, previous.verdict_id or 0), settings.window)
    incident = open_incident(store, contract.model)
    judged = look(
        LogReader(store, contract, version, reads_raw=settings.adapter.mode == "on"),
        settings,
        baseline_as_of,
        previous=previous,
        recovery=incident.recovery if incident is not None else None,
        since=since,
        begun=newest.begun if newest is not None else 0,
        now=now,
    )
    if judged is None:
        return None
    verdict, after = judged
    closes = None
    if incident is not None and after is not None and after.recovered:
        taken_over = f"version {version} has taken over and does well"
        closes = f"{'it has recovered' if incident.version == version else taken_over}: {after.words}"
    followed = Followed(
        incident.incident_id if incident is not None else None,
        after.to_json() if after is not None else None,
        closes,
    )
    return record_verdict(store, verdict, routes, followed)[0]


def why_nothing_judged(
    store: Store,
    model: str,
    version: str,
    settings: ModelSettings,
    reference_until: Callable[[], datetime | None],
    *,
    since: datetime | None,
    now: datetime,
) -> str:
    """Why a look at a version finds nothing to judge now, and what to do about it, in words.

    `reference_until` says up to which moment its reference reaches, `since` when it became champion anew.
    """
    name, span = f"{model} version {version}", predicted_span(store, model, version, as_of=now)
    rehearsal = f"What the loop would have made of them: feedback-loop rehearse {model}."
    if span is None:
        others = predicted_span(store, model, as_of=now) is not None
        cure = rehearsal if others else "Predict, or bring what was predicted: feedback-loop import predictions."
        there = "Those of the log are of other versions. " if others else ""
        return f"The log has no prediction of {name}. {there}{cure}"
    verdict = latest_verdict(store, model, version)
    if verdict is not None and (since is None or verdict.decided_at >= since) and verdict.evidence.get("predictions"):
        judged = format_moment(verdict.window.end)
        return f"Nothing has matured since the last verdict: predictions until {judged} are judged."
    if span[0] >= matured_until(now, settings.maturity, settings.window):
        matures = format_moment(matures_at(span[0], settings.maturity, settings.window))
        return f"No prediction of {name} has matured yet: the first ones do on {matures}."
    if since is not None and span[1] < floor_moment(since, settings.window):
        return f"All of its predictions are from before {name} became champion anew, on {format_moment(since)}."
    until = reference_until()
    if until is not None and until >= span[0]:
        return (
            f"Only what was predicted after {format_moment(until)} is judged: up to there reach the reference rows "
            f"of {name}. The log has older predictions. {rehearsal}"
        )
    return f"No window with predictions of {name} is due."


def restarted(previous: Verdict, ended: Ended | None, length: timedelta) -> Verdict:
    """The previous verdict, without its monitors where an incident has ended since: they start anew.

    After an incident that was closed by hand only later predictions are judged: its cause is taken to be gone.
    """
    if ended is None:
        return previous
    span = previous.window
    if ended.by_hand:
        span = replace(span, end=max(span.end, floor_moment(ended.closed_at, length) + length))
    return replace(previous, monitor={}, window=span)


def look(
    reader: LogReader,
    settings: ModelSettings,
    baseline_as_of: Callable[[datetime], Baseline],
    *,
    previous: Verdict | None,
    recovery: Mapping[str, Any] | None,
    since: datetime | None,
    begun: int,
    now: datetime,
) -> tuple[Verdict, Recoveries | None] | None:
    """The verdict of one look, by what was known at its moment, and the test of recovery after it.

    `recovery` is that of the open incident, `begun` the number of the model's monitors until now. Nothing is
    written, so replays use it too.
    """
    if previous is not None and since is not None and previous.decided_at < since:
        previous = None
    stored = previous.monitor.get(REFERENCE_AS_OF) if previous is not None and not is_fresh(previous) else None
    as_of = datetime.fromisoformat(stored) if stored is not None else now
    baseline = baseline_as_of(as_of)
    windows = due_windows(reader, settings, baseline, previous=previous, since=since, now=now)
    if not windows:
        return None
    cohorts = reader.cohorts(windows, now)
    verdict = judge(
        reader.contract.model,
        reader.version,
        cohorts,
        baseline,
        settings.policy,
        previous=previous,
        drifted_share=reader.drifted_share(windows[-1], now),
        estimated=reader.estimated_loss(now),
        begun=begun,
        now=now,
    )
    verdict = replace(verdict, monitor={**verdict.monitor, REFERENCE_AS_OF: as_of.isoformat()})
    before = Recoveries.from_json(recovery) if recovery is not None else None
    return verdict, follow(before, verdict, cohorts, baseline, settings.policy.alpha)
