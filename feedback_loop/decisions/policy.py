"""The policy: from a monitor, a threshold and drift to one verdict, and from verdicts to what is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from feedback_loop.clock import Window, format_moment
from feedback_loop.config import PolicySettings
from feedback_loop.decisions.monitors import (
    Monitor,
    alpha_of_version,
    monitor_from_json,
    monitor_to_json,
    scaled,
    start_monitor,
    units_of,
)
from feedback_loop.monitoring import Floats
from feedback_loop.store.retrainings import Retraining
from feedback_loop.store.verdicts import State, Verdict

DRIFT_SHARE = 0.5
"""From this share of drifted columns on, drift is worth a warning (Evidently's rule for a data set)."""

LEAST_LABELS = 200
"""The threshold rule does not judge a cohort with fewer labels: its mean says too little."""

LATELY = 1000
"""The newest labels of which a mean is said, in whole cohorts."""

Reason = Literal["alarm", "refresh", "manual"]
"""Why a model is retrained: its monitor's alarm, the slow schedule, or a person."""


@dataclass(frozen=True)
class Cohort:
    """The matured predictions of one window: their losses in the monitor's order, and how many there were."""

    window: Window
    losses: Floats
    predictions: int


@dataclass(frozen=True)
class Baseline:
    """What a version is held against: its reference rows' losses in the order of time, with their windows' numbers.

    `ordinal` is the version's place among those that were monitored. `until` is where rows of the log that serve
    as the reference end: none of them is judged.
    """

    loss: str
    losses: Floats
    windows: npt.NDArray[np.int64]
    ordinal: int
    until: datetime | None = None


@dataclass(frozen=True)
class _Seen:
    """What a monitor has taken in since its start, and lately: the newest cohorts with some 1,000 labels."""

    since: datetime
    labels: int = 0
    loss_sum: float = 0.0
    lately: tuple[tuple[int, float], ...] = ()

    def plus(self, losses: Floats) -> _Seen:
        """One more cohort."""
        lately = ((len(losses), float(losses.sum())), *self.lately)
        kept, labels = 0, 0
        while kept < len(lately) and labels < LATELY:
            labels += lately[kept][0]
            kept += 1
        return _Seen(self.since, self.labels + len(losses), self.loss_sum + float(losses.sum()), lately[:kept])

    @property
    def mean(self) -> float | None:
        """The mean loss since the start."""
        return self.loss_sum / self.labels if self.labels else None

    @property
    def mean_lately(self) -> float | None:
        """The mean loss of the newest cohorts."""
        labels = sum(count for count, _ in self.lately)
        return sum(total for _, total in self.lately) / labels if labels else None


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
) -> Verdict:
    """The verdict on cohorts (at least one, oldest first) that follow those of the `previous` verdict."""
    span = Window(cohorts[0].window.start, cohorts[-1].window.end)
    monitor, seen = _resume(previous, baseline, settings, span.start)
    evidence: dict[str, Any] = {
        "loss": baseline.loss,
        "drifted_share": drifted_share,
        "predictions": sum(cohort.predictions for cohort in cohorts),
        "labels": sum(len(cohort.losses) for cohort in cohorts),
    }
    crossed = False
    for cohort in cohorts:
        losses = scaled(baseline.loss, cohort.losses, baseline.losses)
        seen = seen.plus(losses)
        crossed = _threshold(losses, baseline, settings, evidence)
        monitor = monitor.update(losses, _place(cohort.window)) if monitor is not None else None
    state, summary = _conclude(monitor, seen, baseline, settings, evidence, crossed=crossed)
    return Verdict(
        model=model,
        version=version,
        decided_at=now,
        window=span,
        state=state,
        summary=summary,
        evidence=evidence,
        monitor={
            "state": monitor_to_json(monitor) if monitor is not None else None,
            "labels": seen.labels,
            "loss_sum": seen.loss_sum,
            "since": seen.since.isoformat(),
            "lately": seen.lately,
        },
    )


def next_step(
    verdict: Verdict | None,
    settings: PolicySettings,
    *,
    retrainings: Sequence[Retraining],
    champion_since: datetime,
    now: datetime,
) -> Reason | None:
    """Why the model should be retrained now, if it should: an alarm past the cooldown, or the slow schedule.

    A retraining that failed is tried again after a day, then two, four, …, up to the cooldown. One whose process
    died does not count: nobody knows what it would have found.
    """
    ended = [each for each in retrainings if each.state not in ("abandoned", "running")]
    if ended and now - ended[-1].started_at < _rest(ended, settings):
        return None
    if verdict is not None and verdict.state is State.DEGRADED:
        return "alarm"
    tried = [each.started_at for each in ended if each.state != "failed"]
    if settings.refresh is not None and now - max([champion_since, *tried]) >= settings.refresh:
        return "refresh"
    return None


def _rest(ended: Sequence[Retraining], settings: PolicySettings) -> timedelta:
    failures = 0
    while failures < len(ended) and ended[-1 - failures].state == "failed":
        failures += 1
    return min(timedelta(days=2 ** min(failures - 1, 10)), settings.cooldown) if failures else settings.cooldown


def _resume(
    previous: Verdict | None, baseline: Baseline, settings: PolicySettings, start: datetime
) -> tuple[Monitor | None, _Seen]:
    if previous is not None and previous.monitor["state"] is not None:
        kept = previous.monitor
        lately = tuple((count, total) for count, total in kept["lately"])
        seen = _Seen(datetime.fromisoformat(kept["since"]), kept["labels"], kept["loss_sum"], lately)
        return monitor_from_json(kept["state"]), seen
    if len(baseline.losses) < settings.reference:
        return None, _Seen(start)
    losses = scaled(baseline.loss, baseline.losses, baseline.losses)
    monitor = start_monitor(
        "change",
        baseline.loss,
        losses,
        baseline.windows,
        units_of(settings.unit, losses, baseline.windows),
        alpha=alpha_of_version(settings.alpha, baseline.ordinal),
        seed=settings.seed * 1_000_003 + baseline.ordinal,  # no two versions share their random numbers
    )
    return monitor, _Seen(start)


def _place(window: Window) -> int:
    """The window's number, counted from 1970: what `monitoring.window_numbers` says of its rows."""
    return int((window.start - datetime.fromtimestamp(0, UTC)) // (window.end - window.start))


def _threshold(losses: Floats, baseline: Baseline, settings: PolicySettings, evidence: dict[str, Any]) -> bool:
    """The fixed rule: the newest cohort's mean loss is more than so much above the reference's."""
    if len(losses) < LEAST_LABELS or not len(baseline.losses):
        return False
    reference = float(scaled(baseline.loss, baseline.losses, baseline.losses).mean())
    current = float(losses.mean())
    crossed = current > reference * (1 + settings.threshold)
    evidence["threshold"] = {"current": current, "limit": reference * (1 + settings.threshold), "crossed": crossed}
    return crossed


def _conclude(
    monitor: Monitor | None,
    seen: _Seen,
    baseline: Baseline,
    settings: PolicySettings,
    evidence: dict[str, Any],
    *,
    crossed: bool,
) -> tuple[State, str]:
    if monitor is None:
        missing = settings.reference - len(baseline.losses)
        evidence["missing_reference"] = missing
        have = f"{len(baseline.losses):,} of {settings.reference:,}"
        return State.INSUFFICIENT_DATA, f"The reference has {have} labelled rows: {missing:,} are missing."
    reference = float(scaled(baseline.loss, baseline.losses, baseline.losses).mean())
    lately = seen.mean_lately
    evidence["change"] = {
        "reference": reference,
        "current": seen.mean,
        "lately": lately,
        "labels": seen.labels,
        "alpha": monitor.alpha,
        "once_in": monitor.once_in,
        "alarmed_at": monitor.alarmed_at,
        "null": monitor.null,
    }
    if seen.mean is None or lately is None or (not evidence["labels"] and monitor.alarmed_at is None):
        return State.INSUFFICIENT_DATA, "No prediction of this cohort has an outcome yet."
    once = "more than a million" if monitor.once_in > 1e6 else f"{monitor.once_in:,.0f}"
    rare = f"A model that had not changed would ever show as much once in {once} times."
    figures = (
        f"{baseline.loss} {reference:.4f} on its reference, {seen.mean:.4f} on {seen.labels:,} labelled predictions "
        f"since {format_moment(seen.since)}, {lately:.4f} lately. "
        f"{rare if monitor.once_in >= 2 else 'Nothing speaks for a change.'}"
    )
    # The alarm says that losses have grown; worse than promised they are only above the reference.
    alarmed = monitor.alarmed_at is not None and lately > reference
    acts = alarmed if settings.rule == "change" else crossed
    # The threshold warns nobody on its own: of streams that never change it cries on most, sooner or later.
    warnings = {
        "the monitor of change has raised its alarm": alarmed,
        "losses have grown, but not above the reference": monitor.alarmed_at is not None,
        "at least half of the columns have drifted": (evidence["drifted_share"] or 0) >= DRIFT_SHARE,
    }
    if acts:
        return State.DEGRADED, figures
    why = next((words for words, holds in warnings.items() if holds), None)
    return (State.WARNING, f"{figures} A warning only: {why}.") if why else (State.OK, figures)
