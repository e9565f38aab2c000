"""The monitors of one version, a panel of them: started from its reference, moved on by each cohort, kept as JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

import msgspec
import numpy as np

from feedback_loop.config_policy import PolicySettings
from feedback_loop.decisions.losses import Baseline, Cohort, LossHistory, Watched
from feedback_loop.decisions.monitors import (
    LEAST_REFERENCE,
    MADE_OF,
    ConfidenceSequence,
    Monitor,
    Units,
    WindowRule,
    alpha_of_monitor,
    follow_windows,
    start_monitor,
    start_rule,
)
from feedback_loop.decisions.suggest import suggest_tolerance, suggest_units, swing_of
from feedback_loop.monitoring import Floats
from feedback_loop.store.conclusions import Verdict

Method = Literal["change", "harm", "rule"]
"""Which of the monitors of a loss: method D or B, or a rule without an error rate."""

STEP = 64
"""So many seeds are reserved for each panel, a different one for each of its monitors."""

SHAPING = ("loss", "watch", "alpha", "rule", "tolerance", "unit", "cycle", "threshold", "reference", "seed")
"""Settings that determine the monitors: when one changes, they begin anew."""


@dataclass(frozen=True)
class WatchedLoss:
    """One watched loss: its history (`seen`), a confidence sequence of its mean (`level`), its monitors by method.

    Without monitors its reference is too small by `missing` rows.
    """

    watched: Watched
    tolerance: float = 0.0
    missing: int = 0
    alpha: float = 0.0  # of all that its monitors say, together
    promised: tuple[float, float] = (0.0, 1.0)  # between these the reference's mean lies
    seen: LossHistory = field(default_factory=LossHistory)
    level: ConfidenceSequence | None = None
    monitors: Mapping[Method, Monitor | WindowRule] | None = None

    def after(self, cohorts: Sequence[Cohort], baseline: Baseline) -> WatchedLoss:
        """The loss after more cohorts (at least one), oldest first; the number of looks makes no difference."""
        losses = baseline.scaled_cohorts(self.watched, cohorts)
        history = self.seen.plus([cohort.window.start for cohort in cohorts], losses)
        if self.monitors is None or self.level is None:
            return replace(self, seen=history)
        places = [cohort.place for cohort in cohorts]
        monitors = {name: follow_windows(monitor, places, losses) for name, monitor in self.monitors.items()}
        return replace(self, seen=history, level=self.level.update(np.concatenate(losses)), monitors=monitors)


@dataclass(frozen=True)
class Panel:
    """All pairs since their first look, and the settings that they were made by.

    `ordinal` is its place among all panels begun for the model, which sets its share of alpha.
    """

    made_by: str
    since: datetime
    pairs: tuple[WatchedLoss, ...]
    ordinal: int = 1

    @property
    def is_started(self) -> bool:
        """Whether the loss of all rows has a reference that is large enough."""
        return bool(self.pairs[0].monitors)

    @property
    def begun(self) -> int:
        """How many panels were begun for the model; one without monitors does not count yet."""
        return self.ordinal - (not any(pair.monitors for pair in self.pairs))

    def after(self, cohorts: Sequence[Cohort], baseline: Baseline) -> Panel:
        """The panel after more cohorts (at least one), oldest first."""
        return replace(self, pairs=tuple(pair.after(cohorts, baseline) for pair in self.pairs))

    def to_json(self) -> dict[str, Any]:
        """Plain values that give the very same panel back, as the store gives them back."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Panel:
        """The inverse of `to_json`."""
        return msgspec.convert(plain, cls)


def is_fresh(previous: Verdict | None) -> bool:
    """Whether monitors have judged no cohort yet, so that rows may still go to the reference."""
    return previous is None or not any(pair["monitors"] for pair in previous.monitor.get("pairs", []))


def resume(
    previous: Verdict | None, baseline: Baseline, settings: PolicySettings, start: datetime, begun: int
) -> Panel:
    """The panel after the previous verdict; a new one from `start` where there is none, or other settings make it.

    A new one comes after all that were `begun` for the model, for whatever reason: all together share alpha.
    """
    made_by = _digest(settings, baseline)
    if previous is not None and not is_fresh(previous) and previous.monitor["made_by"] == made_by:
        return Panel.from_json(previous.monitor)
    ordinal = begun + 1
    pairs = tuple(_pair(place, baseline, settings, ordinal) for place in range(len(baseline.watched)))
    return Panel(made_by, start, pairs, ordinal)


def _pair(place: int, baseline: Baseline, settings: PolicySettings, ordinal: int) -> WatchedLoss:
    """A pair before its first cohort. Of all rows the reference must be whole; of a segment, large enough."""
    watched = baseline.watched[place]
    reference, windows = baseline.scaled(watched), baseline.windows_of(watched)
    missing = (settings.reference if not watched.segment else LEAST_REFERENCE) - len(reference)
    if missing > 0:
        return WatchedLoss(watched, missing=missing)
    units = units_of(settings, reference, windows)
    tolerance = settings.tolerance if settings.tolerance != "auto" else suggest_tolerance(reference, windows)
    alpha = alpha_of_monitor(settings.alpha, ordinal) * watched.share
    alpha_each = alpha / 2 if settings.rule == "either" else alpha
    seed = ((settings.seed * 1_000_003 + ordinal) * STEP + place) * 2

    def monitor(method: Literal["change", "harm"], monitor_seed: int) -> Monitor:
        return start_monitor(
            method, watched.loss, reference, windows, units, alpha=alpha_each, seed=monitor_seed, tolerance=tolerance
        )

    monitors: dict[Method, Monitor | WindowRule] = {
        "change": monitor("change", seed),
        "harm": monitor("harm", seed + 1),
    }
    if settings.rule == "threshold" or settings.rule == "absolute":  # noqa: PLR1714 (for mypy)
        monitors["rule"] = start_rule(settings.rule, reference, threshold=settings.threshold)
    level = ConfidenceSequence(guess=float(reference.mean()))
    promised = level.update(reference).bounds(alpha / 2)
    return WatchedLoss(watched, tolerance, 0, alpha, promised, LossHistory(), level, monitors)


def units_of(settings: PolicySettings, reference: Floats, windows: Any) -> Units:
    """In what a monitor counts: as is set, else as the reference shows."""
    if settings.unit == "auto" and settings.cycle == "auto":
        return suggest_units(reference, windows)
    cycle = settings.cycle if settings.cycle != "auto" else 1
    if settings.unit == "auto":
        swing = swing_of(reference, windows)
        is_odd = swing is not None and swing.is_odd
        return Units("unit", windows=cycle) if is_odd else Units("label", strata=cycle)
    return Units("unit", windows=cycle) if settings.unit == "window" else Units("label", strata=cycle)


def _digest(settings: PolicySettings, baseline: Baseline) -> str:
    twice = "raw" if any(watched.is_raw for watched in baseline.watched) else ""
    made_by = settings.model_dump_json(include=set(SHAPING)) + MADE_OF + twice
    return hashlib.blake2b(made_by.encode(), digest_size=8).hexdigest()
