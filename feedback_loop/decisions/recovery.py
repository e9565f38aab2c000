"""Has a model recovered? Only evidence at a stated error rate closes an incident, not one good window."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from feedback_loop.decisions.sequences import ConfidenceSequence
from feedback_loop.monitoring import Floats

MARGIN = 0.05
"""Where the policy tolerates nothing, so far above the reference's mean still is recovered: the gate's margin."""

LEAST_COHORTS = 3
"""Fewer windows may all be good by chance, whatever the number of their labels: days differ."""


@dataclass(frozen=True)
class Level:
    """What is to be reached again: the reference's mean loss, and how uncertain that mean is."""

    mean: float
    standard_error: float

    def limit(self, tolerance: float = 0.0) -> float:
        """The highest mean loss that counts as recovered."""
        return self.mean + self.standard_error + (tolerance or MARGIN * self.mean)


@dataclass(frozen=True)
class Recovery:
    """The test after some cohorts, of which each is taken in once. A few hundred bytes as JSON.

    A confidence sequence follows the mean loss. Where that mean is above the limit after a cohort, the sequence is
    given up, and the next one begins with the next cohort: what was bad for long need not be outweighed. The k-th
    has `alpha / (k (k + 1))`, so that with probability at most `alpha` an incident is ever taken to be over while the
    mean loss since its last sequence began is above the limit, at however many looks.
    """

    version: str
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
        """The evidence in a sentence without its full stop."""
        mean, labels = self.sequence.mean or 0.0, self.sequence.labels
        return (
            f"the mean loss is {mean:.4f} on the last {labels:,} labelled predictions of {self.cohorts} windows, "
            f"at most {self.bound:.4f}, where up to {self.limit:.4f} is well (this ever goes wrong for "
            f"{self.alpha:.3g} of incidents at most)"
        )

    def update(self, cohorts: Iterable[Floats]) -> Recovery:
        """Takes the losses in [0, 1] of cohorts in, oldest first."""
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
    what is left unknown by so many labels without a single error.
    """
    mean, count = float(losses.mean()), len(losses)
    _, places = np.unique(windows, return_inverse=True)
    apart = losses - mean
    by_window = np.bincount(places, weights=apart)
    squares = max(float((by_window**2).sum()), float((apart**2).sum()))
    return Level(mean, max(float(np.sqrt(squares)), 1.0) / count)


def start_recovery(version: str, level: Level, *, alpha: float, tolerance: float = 0.0, ordinal: int = 1) -> Recovery:
    """The test before its first cohort; a version that takes over goes on with the next `ordinal`."""
    guess = ConfidenceSequence(guess=min(level.mean, 1.0))
    return Recovery(version, level.limit(tolerance), alpha, ordinal, sequence=guess)


def recovery_to_json(recovery: Recovery) -> dict[str, Any]:
    """Plain values that give the very same test back."""
    return asdict(recovery)


def recovery_from_json(plain: dict[str, Any]) -> Recovery:
    """The inverse of `recovery_to_json`."""
    return Recovery(**{**plain, "sequence": ConfidenceSequence(**plain["sequence"])})
