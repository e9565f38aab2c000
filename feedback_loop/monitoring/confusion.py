"""Precision, recall and F1 by counts of true and answered classes, realised or expected; their errors and bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from feedback_loop.monitoring.arrays import Floats, Ints
from feedback_loop.monitoring.profiles.blocks import SIDE, Block, Rows
from feedback_loop.monitoring.profiles.profile import Mean, Profile
from feedback_loop.schema import Task


class Ratio(Enum):
    """Ratios `scale * hits / (by_truth * truth + by_answer * answers)` of the counts of a class."""

    precision = (1.0, 0.0, 1.0)
    recall = (1.0, 1.0, 0.0)
    f1 = (2.0, 1.0, 1.0)

    def denominator(self, truth: Floats, answers: Floats) -> Floats:
        """The denominators of classes by how often they are true and how often they are answered."""
        _, by_truth, by_answer = self.value
        return by_truth * truth + by_answer * answers

    def of(self, hits: Floats, truth: Floats, answers: Floats) -> Floats:
        """The ratios of classes by their counts; 0 / 0 is 0, as in scikit-learn."""
        denominators = self.denominator(truth, answers)
        return np.divide(self.value[0] * hits, denominators, out=np.zeros(len(hits)), where=denominators > 0)


@dataclass(frozen=True)
class Confusion:
    """Counts by true (row) and answered (column) class: of rows with outcomes, or expected ones. Counts are weights.

    `places[i]` is the number of the class i, `unlabelled[i]` how many rows without an outcome are answered with it.
    `rows` were counted; `effective` is their effective sample size, in rows of equal weight.
    """

    table: Floats
    places: Ints
    rows: int
    effective: float
    unlabelled: Floats

    @property
    def truth(self) -> Floats:
        """How often each class is true."""
        return np.asarray(self.table.sum(axis=1))

    @property
    def answers(self) -> Floats:
        """How often each class is answered."""
        return np.asarray(self.table.sum(axis=0))

    def share(self, counts: float) -> Mean:
        """The share that so many rows are of all."""
        return proportion(float(counts / self.table.sum()), self.rows, self.effective)

    def ratio(self, ratio: Ratio, place: int) -> Mean | None:
        """The ratio of one class; None where it is 0 / 0."""
        if not ratio.denominator(self.truth, self.answers)[place]:
            return None
        return self._mean(ratio, np.eye(len(self.table))[place])

    def macro(self, ratio: Ratio) -> Mean:
        """The mean of the ratio over the classes that came or were answered; 0 / 0 counts as 0."""
        occurs = self.truth + self.answers > 0
        return self._mean(ratio, occurs / occurs.sum())

    def weighted(self, ratio: Ratio) -> Mean:
        """The mean of the ratio over rows by their true class; 0 / 0 counts as 0."""
        return self._mean(ratio, self.truth / self.table.sum())

    def bounds(self, ratio: Ratio) -> tuple[Floats, Floats]:
        """The least and the greatest ratio of each class: every row without an outcome goes against it, or for it."""
        hits, truth, answers = np.diag(self.table), self.truth, self.answers + self.unlabelled
        against = self.unlabelled.sum() - self.unlabelled
        most = ratio.of(hits + self.unlabelled, truth + self.unlabelled, answers)
        return ratio.of(hits, truth + against, answers), most

    def _mean(self, ratio: Ratio, weights: Floats) -> Mean:
        """A weighted mean over classes; its error by the delta method for a multinomial table (weights are known)."""
        scale, by_truth, by_answer = ratio.value
        denominators = ratio.denominator(self.truth, self.answers)
        values = ratio.of(np.diag(self.table), self.truth, self.answers)
        slopes = np.divide(weights, denominators, out=np.zeros(len(values)), where=denominators > 0)
        falls = slopes * values
        gradient = np.diag(scale * slopes) - by_truth * falls[:, None] - by_answer * falls[None, :]
        whole = self.table.sum()
        shares, gradient = self.table / whole, gradient * whole
        variance = max(float((shares * gradient**2).sum() - (shares * gradient).sum() ** 2), 0.0)
        error = float(np.sqrt(variance / (self.effective - 1))) if self.effective > 1 else None
        return Mean(float(weights @ values), self.rows, error)


def confusion_of(profile: Profile) -> Confusion:
    """The counts of a profile's rows with outcomes; of a binary task always of both classes."""
    slots, weights = profile.slots(Block.CONFUSION)
    answered, every = profile.slots(Block.ANSWERS)
    truth, answers = np.divmod(slots, SIDE)
    is_binary = profile.layout.contract.task is Task.BINARY
    places = np.arange(2) if is_binary else np.unique(np.concatenate([truth, answers, answered]))
    table = np.zeros((len(places), len(places)))
    table[np.searchsorted(places, truth), np.searchsorted(places, answers)] = weights
    unlabelled = -table.sum(axis=0)
    unlabelled[np.searchsorted(places, answered)] += every
    effective = profile.effective(profile.weight(Rows.LABELLED))
    return Confusion(table, places, profile.rows(Rows.LABELLED), effective, np.maximum(unlabelled, 0.0))


def proportion(value: float, rows: int, effective: float) -> Mean:
    """A share of rows, with the standard error of a sample of so many effective ones."""
    error = float(np.sqrt(max(value * (1 - value), 0.0) / (effective - 1))) if effective > 1 else None
    return Mean(value, rows, error)


def mean_of(means: Sequence[Mean]) -> Mean:
    """The mean of means of the same rows; its standard error is at most the mean of theirs."""
    errors = [mean.standard_error or 0.0 for mean in means]
    return Mean(float(np.mean([mean.value for mean in means])), means[0].rows, float(np.mean(errors)))
