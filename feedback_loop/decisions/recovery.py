"""Has a model recovered? Only evidence at a stated error rate closes an incident, not one good window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from feedback_loop.decisions.losses import Baseline, Cohort
from feedback_loop.decisions.monitors import ConfidenceSequence
from feedback_loop.decisions.panel import Panel, WatchedLoss
from feedback_loop.monitoring import Floats
from feedback_loop.store.conclusions import State, Verdict

MARGIN = 0.05
"""Without a tolerance, a loss up to this share above the reference's mean is recovered: the gate's margin."""

LEAST_COHORTS = 3
"""Fewer windows may all be good by chance, however many labels they have."""


@dataclass(frozen=True)
class Level:
    """The level to be reached again: the reference's mean loss, with its standard error."""

    mean: float
    standard_error: float

    def limit(self, tolerance: float = 0.0) -> float:
        """The highest mean loss that counts as recovered."""
        return self.mean + self.standard_error + (tolerance or MARGIN * self.mean)


@dataclass(frozen=True)
class Recovery:
    """The test of one loss after some cohorts, each of which updates it once. A few hundred bytes as JSON.

    A confidence sequence follows the mean loss. Where that mean is above the limit after a cohort, the sequence is
    given up, and the next one begins with the next cohort: earlier bad cohorts need not be outweighed. The k-th
    has `alpha / (k (k + 1))`, so that with probability at most `alpha` an incident is ever taken to be over while the
    mean loss since its last sequence began is above the limit, at however many looks.
    """

    limit: float
    alpha: float
    ordinal: int = 1
    cohorts: int = 0  # of the sequence that runs
    sequence: ConfidenceSequence = field(default_factory=ConfidenceSequence)

    @property
    def bound(self) -> float:
        """The upper end of the mean loss, at every look at once."""
        return self.sequence.upper(self.alpha / (self.ordinal * (self.ordinal + 1)))

    @property
    def recovered(self) -> bool:
        """Whether there is evidence enough."""
        return self.cohorts >= LEAST_COHORTS and self.bound <= self.limit

    @property
    def words(self) -> str:
        """The evidence in a few words."""
        mean, labels = self.sequence.mean, self.sequence.labels
        if mean is None:
            return f"has to come back to {self.limit:.4f}; its newest window was above that, or there is none yet"
        return (
            f"{mean:.4f} on the last {labels:,} labelled predictions of {self.cohorts} windows, at most "
            f"{self.bound:.4f}, where up to {self.limit:.4f} is well"
        )

    def update(self, cohorts: Iterable[Floats]) -> Recovery:
        """The test after more cohorts, by their losses in [0, 1], oldest first."""
        state = self
        for losses in cohorts:
            if not len(losses):
                continue
            sequence = state.sequence.update(losses)
            if sequence.total > state.limit * sequence.labels:
                fresh = ConfidenceSequence(guess=state.sequence.guess)
                state = replace(state, ordinal=state.ordinal + 1, cohorts=0, sequence=fresh)
            else:
                state = replace(state, cohorts=state.cohorts + 1, sequence=sequence)
        return state


def reference_level(losses: Floats, windows: npt.NDArray[np.int64]) -> Level:
    """The mean of reference losses, each with its window's number.

    The standard error is robust to windows that differ (Liang and Zeger 1986, equation 4, for a mean), and at least
    that of a single error among so many labels.
    """
    mean, count = float(losses.mean()), len(losses)
    _, places = np.unique(windows, return_inverse=True)
    deviations = losses - mean
    by_window = np.bincount(places, weights=deviations)
    squares = max(float((by_window**2).sum()), float((deviations**2).sum()))
    return Level(mean, max(float(np.sqrt(squares)), 1.0) / count)


def start_recovery(level: Level, *, alpha: float, tolerance: float = 0.0, ordinal: int = 1) -> Recovery:
    """The test before its first cohort; that of a version that takes over goes on with the next `ordinal`."""
    guess = ConfidenceSequence(guess=min(level.mean, 1.0))
    return Recovery(level.limit(tolerance), alpha, ordinal, sequence=guess)


@dataclass(frozen=True)
class Recoveries:
    """The tests of an incident, one for each loss that a degraded verdict was about: all must be back to end it.

    Each is wrong with probability at most `alpha`, so the incident is ended wrongly with probability at most that.
    """

    version: str
    tests: Mapping[str, Recovery]

    @property
    def recovered(self) -> bool:
        """Whether there is evidence enough for all."""
        return bool(self.tests) and all(test.recovered for test in self.tests.values())

    @property
    def words(self) -> str:
        """The evidence, and how often it goes wrong."""
        tests = "; ".join(f"{name} {test.words}" for name, test in self.tests.items())
        alpha = max((test.alpha for test in self.tests.values()), default=0.0)
        return f"{tests} (this ever goes wrong for {alpha:.3g} of incidents at most)"

    def to_json(self) -> dict[str, Any]:
        """Plain values that give the very same tests back."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Recoveries:
        """The inverse of `to_json`."""
        return msgspec.convert(plain, cls)


def follow(
    before: Recoveries | None, verdict: Verdict, cohorts: Sequence[Cohort], baseline: Baseline, alpha: float
) -> Recoveries | None:
    """The tests of an incident after a look, by the version's own reference; those of before where it has none yet.

    A loss that degrades the verdict is tested from the next cohort on. A version that takes over starts with its
    first cohort; where none of the degraded losses is watched for it, the first loss is tested instead.
    """
    pairs = {pair.watched.name: pair for pair in Panel.from_json(verdict.monitor).pairs if pair.level is not None}
    first = baseline.watched[0].name
    if first not in pairs:
        return before
    old = before.tests if before is not None else {}
    acts = verdict.evidence.get("acts", []) if verdict.state is State.DEGRADED else []
    goes_on = before is not None and before.version == verdict.version
    tests = {}
    for name in sorted((set(old) | set(acts)) & set(pairs)) or [first]:
        test = old.get(name)
        if test is None or not goes_on:
            test = _start(pairs[name], baseline, alpha, test.ordinal + 1 if test is not None else 1)
        if name in old or name not in acts:
            test = test.update(baseline.scaled_cohorts(pairs[name].watched, cohorts))
        tests[name] = test
    return Recoveries(verdict.version, tests)


def _start(pair: WatchedLoss, baseline: Baseline, alpha: float, ordinal: int) -> Recovery:
    level = reference_level(baseline.scaled(pair.watched), baseline.windows_of(pair.watched))
    return start_recovery(level, alpha=alpha, tolerance=pair.tolerance, ordinal=ordinal)
