"""Two versions on the same labelled rows of the log: what each would have answered is computed from the features.

So every caller's rows count, online and batch, and no server has to score twice (ADR 16).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from feedback_loop.clock import EPOCH, Window, format_moment
from feedback_loop.config import ModelSettings
from feedback_loop.config_policy import RetrainingSettings
from feedback_loop.decisions import BOUNDED, monitored_loss
from feedback_loop.errors import Refused
from feedback_loop.inference import Scorer
from feedback_loop.monitoring import Floats, primary_loss, row_losses, scored_rows
from feedback_loop.promotion.paired import LEAST_ROWS, WindowPair
from feedback_loop.retraining import GateResult, TrainingRows, non_inferiority, paired_difference, training_rows
from feedback_loop.store import Store
from feedback_loop.store.rollouts import Rollout

PRIOR_WINDOWS = 14
"""So many windows before the first that counts tell how much windows vary."""


@dataclass(frozen=True)
class Scale:
    """Which loss is compared, and what it is divided by so that it lies in [0, 1]."""

    loss: str
    divisor: float = 1.0

    def of(self, rows: TrainingRows, scorer: Scorer) -> Floats:
        """The losses of a version's answers to these rows; what is no number is the worst."""
        losses = rows.losses(scorer, self.loss)
        return np.minimum(np.where(np.isnan(losses), 1.0, losses / self.divisor), 1.0)


def scale_of(rows: TrainingRows, baseline: Scorer, settings: ModelSettings) -> Scale:
    """The loss that the policy watches; one without an upper bound is measured by its 99% quantile on these rows."""
    loss = monitored_loss(baseline.contract, settings.policy.loss)
    if loss in BOUNDED or not len(rows):
        return Scale(loss)
    losses = rows.losses(baseline, loss)
    known = losses[np.isfinite(losses)]
    return Scale(loss, float(np.quantile(known, 0.99)) or 1.0 if len(known) else 1.0)


def window_pairs(
    rows: TrainingRows, candidate: Scorer, baseline: Scorer, scale: Scale, since: datetime, length: timedelta
) -> list[WindowPair]:
    """Both versions' mean losses in each window (counted from `since`) that has labelled rows enough."""
    if not len(rows):
        return []
    one, other = (scale.of(rows, scorer) for scorer in (candidate, baseline))
    numbers = (rows.times - np.datetime64(since.replace(tzinfo=None), "us")) // np.timedelta64(length)
    pairs = []
    for number in np.unique(numbers):
        inside = numbers == number
        if inside.sum() >= LEAST_ROWS:
            end = since + (int(number) + 1) * length
            pairs.append(
                WindowPair(end.isoformat(), int(inside.sum()), float(one[inside].mean()), float(other[inside].mean()))
            )
    return pairs


@dataclass(frozen=True)
class MaturedWindows:
    """Two versions in the windows that have matured since a rollout's last look, on the scale of its first.

    `before` are windows from before it began, which its first look takes to tell how much windows vary.
    """

    scale: Scale
    pairs: list[WindowPair]
    before: list[WindowPair]


def compare_matured(
    rollout: Rollout,
    matured: datetime,
    now: datetime,
    *,
    store: Store,
    settings: ModelSettings,
    scorer: Callable[[str], Scorer],
) -> MaturedWindows:
    """Compares a rollout's versions on the log as it is known now, up to `matured`; `scorer` loads one by its number.

    Raises NotFound and ContractError where one of them can't be loaded.
    """
    candidate, baseline = scorer(rollout.candidate), scorer(rollout.baseline)
    length, before = settings.window, []
    known = rollout.evidence.get("scale")
    since = rollout.until if known else rollout.since - PRIOR_WINDOWS * length
    rows = training_rows(store, candidate, until=matured, as_of=now, history=None, since=since).for_judging
    if known:
        scale = Scale(**known)
    else:
        prior = rows.between(since, rollout.since)
        scale = scale_of(prior, baseline, settings)
        before = window_pairs(prior, candidate, baseline, scale, since, length)
    new = rows.between(rollout.until, matured)
    return MaturedWindows(scale, window_pairs(new, candidate, baseline, scale, rollout.until, length), before)


@dataclass(frozen=True)
class LossDifference:
    """One loss of two versions on the same rows; the error is that of the mean difference between days, if known."""

    loss: str
    one: float
    other: float
    difference: float  # one - other
    standard_error: float | None


@dataclass(frozen=True)
class Compared:
    """Two versions on the same labelled rows; `learned` counts those that one of them has learned from."""

    one: str
    other: str
    window: Window
    rows: int
    days: int
    learned: int
    losses: tuple[LossDifference, ...]


def compare_versions(
    one: Scorer, other: Scorer, *, store: Store, now: datetime, until: datetime, window: Window | None
) -> Compared:
    """Compares two versions on the labelled rows of a window (default: those before `until` that neither has learned
    from). Raises Refused where there is none.
    """
    learned = max(one.version.trained_until, other.version.trained_until)
    cure = f"Give a --window: they have learned until {format_moment(learned)}."
    if window is None and learned >= until:
        raise Refused(f"No row has matured that {one.version} and {other.version} have not learned from.", cure=cure)
    inside = window or Window(learned, until)
    rows = training_rows(store, one, until=inside.end, as_of=now, history=None, since=inside.start).for_judging
    if not len(rows):
        raise Refused(
            f"No labelled row of {inside} is there to compare {one.version} and {other.version} on.", cure=cure
        )
    by_version = [row_losses(scorer.contract, scored_rows(scorer, rows.table)) for scorer in (one, other)]
    losses, days = [], 0
    for name in by_version[0]:
        if name in by_version[1]:
            paired = paired_difference(by_version[0][name], by_version[1][name], rows.decided)
            error = paired.standard_error if np.isfinite(paired.standard_error) else None
            means = [float(losses_of[name].mean()) for losses_of in by_version]
            losses.append(LossDifference(name, means[0], means[1], paired.mean, error))
            days = paired.days
    names = [f"{scorer.version.model}/{scorer.version.version}" for scorer in (one, other)]
    known = len(rows.between(inside.start, min(learned, inside.end))) if learned > inside.start else 0
    return Compared(names[0], names[1], inside, len(rows), days, known, tuple(losses))


def judge_on_newer_rows(
    champion: Scorer,
    candidate: Scorer,
    settings: RetrainingSettings,
    *,
    store: Store,
    until: datetime,
    now: datetime,
    since: datetime = EPOCH,
) -> GateResult | str:
    """The gate on rows (predicted from `since` on) that are newer than what either version has learned from.

    What is missing, in words, where they are too few.
    """
    rows = training_rows(store, champion, until=until, as_of=now, history=None).for_judging
    learned = max(champion.version.trained_until, candidate.version.trained_until)
    newer = rows.between(max(learned, since), until).without_outcomes_of(rows.between(EPOCH, learned))
    if len(newer) < settings.min_rows:
        return (
            f"{len(newer):,} labelled rows are newer than what it has learned from; {settings.min_rows:,} are needed."
        )
    loss = primary_loss(champion.contract)
    losses = newer.losses(candidate, loss), newer.losses(champion, loss)
    return non_inferiority(loss, *losses, newer.decided, margin=settings.margin, alpha=settings.alpha)
