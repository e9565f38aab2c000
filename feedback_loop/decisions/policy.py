"""The policy: from monitors, drift and estimates to a verdict, and from verdicts to retrainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from feedback_loop.clock import Window
from feedback_loop.config_policy import PolicySettings
from feedback_loop.decisions.diagnosis import LEAST_ROWS, Recommendation
from feedback_loop.decisions.evidence import (
    Estimated,
    Evidence,
    LossEvidence,
    alarm_words,
    calm_words,
    carrier_words,
    carriers,
    loss_evidence,
)
from feedback_loop.decisions.losses import RAW, Baseline, Cohort
from feedback_loop.decisions.panel import Method, Panel, WatchedLoss, is_fresh, resume
from feedback_loop.store.conclusions import Diagnosis, State, Verdict
from feedback_loop.store.retrainings import Retraining

DRIFT_SHARE = 0.5
"""From this share of drifted columns on, drift is worth a warning (Evidently's rule for a data set)."""

BUDGETED = timedelta(days=90)
"""The period that the budget of retrainings is for."""

WAITING = timedelta(days=1)
"""The pause after a search that could not be made."""

NOT_MADE = "not_made"
"""The state of such a search."""

Reason = Literal["alarm", "blind", "refresh", "manual"]
"""Why a model is retrained: its monitors' alarm, drift or estimates alone, the slow schedule, or a person."""


def judge(
    model: str,
    version: str,
    cohorts: Sequence[Cohort],
    baseline: Baseline,
    settings: PolicySettings,
    *,
    previous: Verdict | None,
    drifted_share: float | None,
    now: datetime,
    estimated: Estimated | None = None,
    begun: int = 0,
) -> Verdict:
    """The verdict on cohorts (at least one, oldest first) that follow those of the `previous` verdict.

    `begun` is how many monitors were begun for the model before.
    """
    span = Window(cohorts[0].window.start, cohorts[-1].window.end)
    panel = resume(previous, baseline, settings, span.start, begun).after(cohorts, baseline)
    evidence = Evidence(
        baseline.watched[0].loss,
        settings.rule,
        sum(cohort.predictions for cohort in cohorts),
        sum(len(cohort.losses.of(baseline.watched[0])) for cohort in cohorts),
        drifted_share,
        estimated.compared(baseline) if estimated is not None else None,
        tuple(loss_evidence(pair, baseline) for pair in panel.pairs),
    )
    state, summary, evidence = _conclude(panel, baseline, settings, evidence, cohorts)
    stands = not evidence.predictions and not is_fresh(previous)
    if previous is not None and stands and previous.monitor["made_by"] == panel.made_by:
        state, summary = previous.state, previous.summary  # nothing was predicted: the previous conclusion stands
        before = Evidence.from_json(previous.evidence)
        evidence = replace(evidence, acts=before.acts, carriers=before.carriers)
    return Verdict(
        model=model,
        version=version,
        decided_at=now,
        window=span,
        state=state,
        summary=summary,
        evidence=evidence.to_json(),
        monitor=panel.to_json(),
        begun=max(begun, panel.begun),
    )


def held_by(diagnosis: Diagnosis | None) -> str:
    """Why no search should start while this is the open incident's newest diagnosis; empty where it may.

    A search waits for a broken feed to be repaired, and for labelled rows enough for a diagnosis. It does not wait
    where the reference is too small: that does not grow with time.
    """
    if diagnosis is None:
        return ""
    if diagnosis.recommendation == Recommendation.REPAIR:
        return f"The feed is to be repaired: nothing is learned from broken rows. {diagnosis.summary}"
    lacks_rows = diagnosis.evidence["rows_before"] >= LEAST_ROWS
    if diagnosis.recommendation == Recommendation.INSUFFICIENT_DATA and lacks_rows:
        return f"The cause is not known yet. {diagnosis.summary}"
    return ""


def is_blind(verdict: Verdict) -> bool:
    """Whether drift or an estimate suggests a change that no outcomes confirm (yet)."""
    estimate = verdict.evidence.get("estimate")
    return (verdict.evidence.get("drifted_share") or 0) >= DRIFT_SHARE or bool(estimate and estimate["above"])


def next_step(
    verdict: Verdict | None,
    settings: PolicySettings,
    *,
    retrainings: Sequence[Retraining],
    champion_since: datetime,
    now: datetime,
) -> Reason | None:
    """Why the model should be retrained now, if it should: an alarm past the cooldown, or the slow schedule.

    Within 90 days there are at most as many as the budget allows, those by hand aside (see `spent_until`).

    A retraining that failed is tried again after a day, then two, four, …, up to the cooldown. One that could not be
    made (too few rows, an outage) is tried again after a day, and counts neither for the cooldown nor for the budget.
    One whose process died does not count at all.
    """
    ended = _completed(retrainings)
    if ended and now - ended[-1].started_at < _pause(ended, settings):
        return None
    if any(retraining.state == NOT_MADE and now - retraining.started_at < WAITING for retraining in retrainings[-1:]):
        return None
    if spent_until(retrainings, settings, now) is not None:
        return None
    return wanted_step(verdict, settings, retrainings=retrainings, champion_since=champion_since, now=now)


def spent_until(retrainings: Sequence[Retraining], settings: PolicySettings, now: datetime) -> datetime | None:
    """When the budget allows the next retraining; None where it allows one now."""
    if settings.budget is None:
        return None
    spent = [retraining.started_at for retraining in _completed(retrainings) if retraining.reason != "manual"]
    counted = [at for at in spent if now - at < BUDGETED]
    if len(counted) < settings.budget:
        return None
    return counted[-settings.budget] + BUDGETED if settings.budget else datetime.max.replace(tzinfo=UTC)


def wanted_step(
    verdict: Verdict | None,
    settings: PolicySettings,
    *,
    retrainings: Sequence[Retraining],
    champion_since: datetime,
    now: datetime,
) -> Reason | None:
    """Why the model should be retrained, whatever was done lately: an alarm, drift alone, or the slow schedule."""
    if verdict is not None and verdict.state is State.DEGRADED:
        return "alarm"
    if verdict is not None and settings.allow_blind_retraining and is_blind(verdict):
        return "blind"
    tried = [retraining.started_at for retraining in _completed(retrainings) if retraining.state != "failed"]
    if settings.refresh is not None and now - max([champion_since, *tried]) >= settings.refresh:
        return "refresh"
    return None


def _completed(retrainings: Sequence[Retraining]) -> list[Retraining]:
    """The retrainings that have ended with a result."""
    return [retraining for retraining in retrainings if retraining.state not in ("abandoned", "running", NOT_MADE)]


def _pause(ended: Sequence[Retraining], settings: PolicySettings) -> timedelta:
    """The time from the last retraining's start to the next one: growing with failures, up to the cooldown."""
    failures = 0
    while failures < len(ended) and ended[-1 - failures].state == "failed":
        failures += 1
    return min(timedelta(days=2 ** min(failures - 1, 10)), settings.cooldown) if failures else settings.cooldown


def _conclude(
    panel: Panel, baseline: Baseline, settings: PolicySettings, evidence: Evidence, cohorts: Sequence[Cohort]
) -> tuple[State, str, Evidence]:
    """The state, its reason in words, and the evidence with the losses that act and the segments that carry them."""
    first = evidence.watched[0]
    if not panel.is_started:
        have = f"{settings.reference - first.missing_reference:,} of {settings.reference:,}"
        missing = f"{first.missing_reference:,} are missing"
        return State.INSUFFICIENT_DATA, f"The reference has {have} labelled rows: {missing}.", evidence
    alarmed = {place: _alarmed(pair, baseline) for place, pair in enumerate(panel.pairs)}
    if not first.labels or (not evidence.labels and not any(alarmed.values())):
        return State.INSUFFICIENT_DATA, "No prediction of this cohort has an outcome yet.", evidence
    acting = _acting(settings)
    crossed = [place for place, names in alarmed.items() if set(names) & set(acting)]
    if crossed:
        worst = carriers(cohorts, baseline, panel.pairs[crossed[0]].watched)
        evidence = replace(evidence, acts=tuple(evidence.watched[place].name for place in crossed), carriers=worst)
        alarms = []
        for place in crossed:
            watched, of_harm = evidence.watched[place], "change" not in {*alarmed[place]} & {*acting}
            once, now = _strongest(watched, acting)
            words = alarm_words(watched, once, now, of_harm=of_harm)
            if words.removeprefix(RAW) not in alarms:  # raw losses are those served while no adapter has a part
                alarms.append(words)
        return State.DEGRADED, " ".join(alarms) + carrier_words(worst), evidence
    figures = calm_words(first, panel.since, *_strongest(first, ("change",)))
    why = next((words for words, holds in _warnings(panel, alarmed, evidence).items() if holds), None)
    if why is None:
        return State.OK, figures, evidence
    return State.WARNING, f"{figures} A warning only: {why}.", evidence


def _acting(settings: PolicySettings) -> tuple[Method, ...]:
    """The monitors that may open an incident: the others only warn."""
    if settings.rule == "either":
        return "change", "harm"
    return (settings.rule,) if settings.rule in ("change", "harm") else ("rule",)


def _alarmed(pair: WatchedLoss, baseline: Baseline) -> list[Method]:
    """The monitors whose alarm stands: they have alarmed, and the recent mean loss is above the reference's.

    A loss that rose and fell again, or rose to below the reference's, is no degradation.
    """
    lately = pair.seen.mean_lately
    if pair.monitors is None or lately is None or lately <= float(baseline.scaled(pair.watched).mean()):
        return []
    return [name for name, monitor in pair.monitors.items() if monitor.alarmed_at is not None]


def _strongest(of: LossEvidence, methods: Sequence[str]) -> tuple[float | None, float | None]:
    """The strongest evidence of these monitors at its peak (`once_in`) and now (`e_value`), divided by their number;
    None where they state none.
    """
    readings = [reading for name, reading in of.monitors.items() if name in methods]
    once = [reading.once_in for reading in readings if reading.once_in is not None]
    now = [reading.e_value for reading in readings if reading.e_value is not None]
    return max(once) / len(methods) if once else None, max(now) / len(methods) if now else None


def _warnings(panel: Panel, alarmed: dict[int, list[Method]], evidence: Evidence) -> dict[str, bool]:
    """Reasons for a warning, the gravest first, and whether they hold. Thresholds do not warn: they have no level."""
    sound = ("change", "harm")
    raised = [name for names in alarmed.values() for name in names if name in sound]
    grown = any(
        pair.monitors is not None
        and any(name in sound and monitor.alarmed_at is not None for name, monitor in pair.monitors.items())
        for pair in panel.pairs
    )
    estimate = evidence.estimate
    return {
        "the monitor of change has raised its alarm": "change" in raised,
        "the monitor of harm has raised its alarm": "harm" in raised,
        "losses have grown, but not above the reference": grown,
        "at least half of the columns have drifted": (evidence.drifted_share or 0) >= DRIFT_SHARE,
        "estimates without outcomes are above the reference": bool(estimate and estimate.above),
    }
