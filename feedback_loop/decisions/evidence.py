"""The evidence for a verdict, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from feedback_loop.clock import format_moment
from feedback_loop.decisions.losses import Baseline, Cohort, Watched, mean_of
from feedback_loop.decisions.panel import WatchedLoss

CARRIERS = 5
"""The most segments that are named, those that add most to the loss first."""

SURE = 3.0
"""An estimate warns if it is so many standard errors above the reference, and by `MARGIN` of it."""

MARGIN = 0.05
"""The least relative excess of an estimate that warns."""


@dataclass(frozen=True)
class Reading:
    """The state of a monitor: its null, its share of alpha, when it alarmed, its evidence now and at its peak."""

    null: str
    alpha: float | None
    alarmed_at: int | None
    e_value: float | None
    once_in: float | None


@dataclass(frozen=True)
class Size:
    """The mean loss since the first look less the reference's, with bounds that hold at every look."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LossEvidence:
    """A watched loss: reference and stream, when it changed and by how much, and what each monitor says.

    Without a reference that is large enough, the fields from `reference` on keep their defaults.
    """

    name: str
    loss: str
    segment: str
    labels: int
    current: float | None
    lately: float | None
    tolerance: float
    missing_reference: int
    reference: float | None = None
    reference_labels: int = 0
    changed_at: str | None = None
    after: float | None = None
    labels_after: int = 0
    size: Size | None = None
    monitors: Mapping[str, Reading] = field(default_factory=dict)


@dataclass(frozen=True)
class Carrier:
    """A segment with higher losses than in the reference; `share` is its part of the excess over its column."""

    segment: str
    reference: float
    current: float
    labels: int
    share: float


@dataclass(frozen=True)
class EstimateEvidence:
    """An estimate beside the reference's mean loss: `above` says that it is worth a warning."""

    loss: str
    estimated: float
    above: bool
    reference: float | None = None
    standard_error: float | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Evidence:
    """All evidence for a verdict: `acts` names the losses that degrade it, `carriers` the segments behind them."""

    loss: str
    rule: str
    predictions: int
    labels: int
    drifted_share: float | None
    estimate: EstimateEvidence | None
    watched: tuple[LossEvidence, ...]
    acts: tuple[str, ...] = ()
    carriers: tuple[Carrier, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the store gives them back."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Evidence:
        """The inverse of `to_json`."""
        return msgspec.convert(plain, cls)


@dataclass(frozen=True)
class Estimated:
    """An estimate of the mean loss, before outcomes exist, with its standard error."""

    loss: str
    value: float
    error: float
    rows: int

    def compared(self, baseline: Baseline) -> EstimateEvidence:
        """The estimate compared with the reference's mean loss."""
        losses = baseline.raw(Watched(self.loss))
        if len(losses) < 2:
            return EstimateEvidence(self.loss, self.value, above=False)
        reference = float(losses.mean())
        error = float(np.hypot(self.error, losses.std(ddof=1) / np.sqrt(len(losses))))
        above = self.value - reference > max(SURE * error, MARGIN * reference)
        return EstimateEvidence(self.loss, self.value, above, reference, error, self.rows)


def loss_evidence(pair: WatchedLoss, baseline: Baseline) -> LossEvidence:
    """The evidence about one watched loss."""
    watched, history = pair.watched, pair.seen
    evidence = LossEvidence(
        watched.name,
        watched.loss,
        watched.segment,
        history.labels,
        history.mean,
        history.mean_lately,
        pair.tolerance,
        pair.missing,
    )
    if pair.monitors is None or pair.level is None:
        return evidence
    reference = baseline.scaled(watched)
    mean = float(reference.mean())
    since = history.change(mean, len(reference))
    after = history.parts[since:] if since is not None else ()
    low, high = pair.level.bounds(pair.alpha / 2)
    return replace(
        evidence,
        reference=mean,
        reference_labels=len(reference),
        changed_at=after[0].since if after else None,
        after=mean_of(after),
        labels_after=sum(part.labels for part in after),
        size=Size((history.mean or mean) - mean, low - pair.promised[1], high - pair.promised[0]),
        monitors={
            name: Reading(monitor.null, monitor.alpha, monitor.alarmed_at, monitor.e_value, monitor.once_in)
            for name, monitor in pair.monitors.items()
        },
    )


def carriers(cohorts: Sequence[Cohort], baseline: Baseline, watched: Watched) -> tuple[Carrier, ...]:
    """The segments with higher losses than in the reference, those that add most to the sum first."""
    names = sorted({name for cohort in cohorts for name in cohort.losses.members} & {*baseline.losses.members})
    worse: list[Carrier] = []
    totals: dict[str, float] = {}
    for name in names:
        own = replace(watched, segment=name)
        before = baseline.scaled(watched, baseline.raw(own))  # by the scale of all rows
        now = baseline.scaled(watched, np.concatenate([cohort.losses.of(own) for cohort in cohorts]))
        if len(before) < 2 or len(now) < 2:
            continue
        error = float(np.sqrt(before.var(ddof=1) / len(before) + now.var(ddof=1) / len(now)))
        gap = float(now.mean() - before.mean())
        if gap > SURE * error:
            worse.append(Carrier(name, float(before.mean()), float(now.mean()), len(now), gap * len(now)))
            column = name.partition("=")[0]
            totals[column] = totals.get(column, 0.0) + gap * len(now)
    shared = [replace(carrier, share=carrier.share / totals[carrier.segment.partition("=")[0]]) for carrier in worse]
    return tuple(sorted(shared, key=lambda carrier: (-carrier.share * carrier.labels, carrier.segment))[:CARRIERS])


def alarm_words(of: LossEvidence, once: float | None, now: float | None, *, of_harm: bool) -> str:
    """`accuracy 0.9120 → 0.8710 on 4,210 matured predictions since 2026-05-03T00:00:00Z: …`."""
    assert of.reference is not None and of.lately is not None and of.size is not None  # it has alarmed
    name, before, after = _reported(of, of.reference, of.after if of.after is not None else of.lately)
    labels = of.labels_after or of.labels
    since = f" since {format_moment(datetime.fromisoformat(of.changed_at))}" if of.changed_at else ""
    null = f"was not worse by more than {of.tolerance:.4f}" if of_harm else "had not changed"
    rare = ""
    if once and now is not None:
        rare = f" A model that {null} would ever show this once in {_times(once)} times (e-value now: {_times(now)})."
    low, high = of.size.low, of.size.high
    size = f" Since the first look its mean loss has been {low:+.4f} to {high:+.4f} from the reference's."
    return f"{name} {before:.4f} → {after:.4f} on {labels:,} matured predictions{since}.{rare}{size}"


def calm_words(of: LossEvidence, since: datetime, once: float | None, now: float | None) -> str:
    """The figures where no monitor has alarmed."""
    assert of.reference is not None and of.current is not None and of.lately is not None  # there are labels
    name, before, mean = _reported(of, of.reference, of.current)
    _, _, lately = _reported(of, of.reference, of.lately)
    figures = f"{mean:.4f} on {of.labels:,} labelled predictions since {format_moment(since)}, {lately:.4f} lately."
    rare = "Nothing speaks for a change."
    if once is not None and now is not None and once >= 2:
        rare = f"A model that had not changed would ever show as much once in {_times(once)} times"
        rare += f" (e-value now: {_times(now)})."
    return f"{name} {before:.4f} on its reference, {figures} {rare}"


def carrier_words(worst: Sequence[Carrier]) -> str:
    """The first three segments that carry the loss."""
    if not worst:
        return ""
    segments = [f"{carrier.segment} ({carrier.reference:.4f} → {carrier.current:.4f})" for carrier in worst[:3]]
    return f" Carried by {', '.join(segments)}."


def _reported(of: LossEvidence, before: float, after: float) -> tuple[str, float, float]:
    """An error rate as accuracy, any other loss as it is."""
    if of.loss != "error":
        return of.name, before, after
    return of.name.replace("error", "accuracy", 1), 1 - before, 1 - after


def _times(once: float) -> str:
    return "more than a million" if once > 1e6 else f"{once:,.0f}" if once >= 10 else f"{once:.2g}"
