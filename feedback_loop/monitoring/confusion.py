"""Precision, recall and F1 of a table of true and answered classes, with their sampling errors and bounds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from feedback_loop.monitoring.losses import Floats
from feedback_loop.monitoring.profiles import SIDE, Block, Ints, Mean, Profile, Rows
from feedback_loop.schema import Task


@dataclass(frozen=True)
class Confusion:
    """Weights by true (row) and answered (column) class, those of the classes `places`; of so many `rows`.

    `rows` are effective ones, `counted` those that were logged.
    """

    table: Floats
    places: Ints
    rows: float
    counted: int


class Ratio(Enum):
    """Ratios `scale * hits / (by_truth * truth + by_answer * answers)` of one class' counts."""

    precision = (1.0, 0.0, 1.0)
    recall = (1.0, 1.0, 0.0)
    f1 = (2.0, 1.0, 1.0)

    def of(self, hits: Floats, truth: Floats, answers: Floats) -> Floats:
        """The ratio of each class by its counts; 0 / 0 is 0."""
        scale, by_truth, by_answer = self.value
        bottoms = by_truth * truth + by_answer * answers
        return np.divide(scale * hits, bottoms, out=np.zeros(len(hits)), where=bottoms > 0)


@dataclass(frozen=True)
class Reach:
    """Where outcomes may yet go: a table of the classes that are labelled or answered, and the unlabelled answers."""

    table: Floats
    places: Ints
    unlabelled: Floats

    def bounds(self, ratio: Ratio) -> tuple[Floats, Floats]:
        """The least and the greatest value of each class: every unlabelled row goes against it, or for it."""
        hits, truth, answers = self._counts
        against = self.unlabelled.sum() - self.unlabelled
        return ratio.of(hits, truth + against, answers), ratio.of(
            hits + self.unlabelled, truth + self.unlabelled, answers
        )

    @property
    def _counts(self) -> tuple[Floats, Floats, Floats]:
        return np.diag(self.table), self.table.sum(axis=1), self.table.sum(axis=0) + self.unlabelled


def confusion(profile: Profile) -> Confusion:
    """The table of a profile's labelled rows; of a binary task always of both classes."""
    table, places = _table(profile, np.empty(0, np.int64))
    rows = profile.effective(profile.weight(Rows.LABELLED))
    return Confusion(table, places, rows, profile.rows(Rows.LABELLED))


def reach(profile: Profile) -> Reach:
    """What the unlabelled rows leave open."""
    given, every = profile.slots(Block.ANSWERS)
    table, places = _table(profile, given)
    unlabelled = -table.sum(axis=0)
    unlabelled[np.searchsorted(places, given)] += every
    return Reach(table, places, np.maximum(unlabelled, 0.0))


def _table(profile: Profile, given: Ints) -> tuple[Floats, Ints]:
    slots, weights = profile.slots(Block.CONFUSION)
    truth, answers = np.divmod(slots, SIDE)
    places = np.unique(np.concatenate([truth, answers, given]))
    if profile.layout.contract.task is Task.BINARY:
        places = np.arange(2)
    table = np.zeros((len(places), len(places)))
    table[np.searchsorted(places, truth), np.searchsorted(places, answers)] = weights
    return table, places


def of_class(counts: Confusion, place: int, ratio: Ratio) -> Mean | None:
    """The ratio of one class; None where it is 0 / 0."""
    values, bottoms = _ratios(counts.table, ratio)
    if not bottoms[place]:
        return None
    weights = np.zeros(len(values))
    weights[place] = 1.0
    return _averaged(counts, ratio, weights)


def macro(counts: Confusion, ratio: Ratio, *, by_rows: bool = False) -> Mean:
    """The mean of the ratio over classes, or over rows by their true class; 0 / 0 counts as 0, as in scikit-learn."""
    weights = np.full(len(counts.table), 1 / len(counts.table))
    if by_rows:
        weights = counts.table.sum(axis=1) / counts.table.sum()
    return _averaged(counts, ratio, weights)


def _ratios(table: Floats, ratio: Ratio) -> tuple[Floats, Floats]:
    _, by_truth, by_answer = ratio.value
    truth, answers = table.sum(axis=1), table.sum(axis=0)
    return ratio.of(np.diag(table), truth, answers), by_truth * truth + by_answer * answers


def _averaged(counts: Confusion, ratio: Ratio, weights: Floats) -> Mean:
    """A weighted mean of ratios; its error by the delta method for a multinomial table (weights taken as known)."""
    scale, by_truth, by_answer = ratio.value
    values, bottoms = _ratios(counts.table, ratio)
    slopes = np.divide(weights, bottoms, out=np.zeros(len(values)), where=bottoms > 0)
    gradient = (
        np.diag(scale * slopes) - by_truth * (slopes * values)[:, None] - by_answer * (slopes * values)[None, :]
    )
    whole = counts.table.sum()
    shares, gradient = counts.table / whole, gradient * whole
    variance = (shares * gradient**2).sum() - (shares * gradient).sum() ** 2
    error = float(np.sqrt(max(variance, 0.0) / (counts.rows - 1))) if counts.rows > 1 else None
    return Mean(float(weights @ values), counts.counted, error)
