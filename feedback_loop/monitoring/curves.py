"""Curves of calibration, lift, ROC and precision by recall of a class, from its score bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feedback_loop.monitoring.arrays import Floats
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.scores import ScoreBins, from_the_top, score_bins_of
from feedback_loop.schema import Task

Z = 1.96
"""Normal quantile of 95% intervals."""

SHARES = np.arange(1, 21) / 20
"""Shares of the predictions, highest scores first, that a lift is computed for."""

POINTS = 200
"""The most points kept of an ROC curve or one of precision by recall."""


@dataclass(frozen=True)
class Calibrated:
    """One tenth of the probabilities: their mean (`score`), the `rate` of the class, and the weight of the rows.

    `least` and `most` are the 95% interval of the rate (Wilson 1927).
    """

    score: float
    rate: float
    rows: float
    least: float
    most: float


@dataclass(frozen=True)
class Lifted:
    """The lift of the `share` of predictions with the highest scores: the class' rate there over its rate in all.

    `found` is the part of all outcomes of the class among them, `least` and `most` the 95% interval of the lift.
    """

    share: float
    lift: float
    found: float
    least: float
    most: float


@dataclass(frozen=True)
class Curves:
    """Curves of one class against all others. Points are (false, true positive rate) and (recall, precision)."""

    calibration: tuple[Calibrated, ...]
    lift: tuple[Lifted, ...]
    roc: tuple[tuple[float, float], ...]
    precision_recall: tuple[tuple[float, float], ...]


def curves(profile: Profile) -> dict[str, Curves]:
    """The curves of each class that has probabilities and outcomes (binary: of the positive one), by its name."""
    contract = profile.layout.contract
    names = [contract.positive] if contract.task is Task.BINARY else list(contract.classes)
    bins = {str(names[number]): score_bins_of(profile, number) for number in range(profile.layout.scored_classes)}
    return {
        name: Curves(_calibration(of_class), _lift(of_class), *_ranked(of_class))
        for name, of_class in bins.items()
        if of_class.hits.any()
    }


def _calibration(bins: ScoreBins) -> tuple[Calibrated, ...]:
    rows, hits, scores = bins.tenths()
    tenths = []
    for place in np.flatnonzero(rows):
        rate, effective = hits[place] / rows[place], bins.effective(rows[place])
        # Wilson (1927): it holds where all or none are of the class, too.
        centre = (rate + Z**2 / (2 * effective)) / (1 + Z**2 / effective)
        half = Z / (1 + Z**2 / effective) * np.sqrt(rate * (1 - rate) / effective + (Z / (2 * effective)) ** 2)
        ends = max(centre - half, 0.0), min(centre + half, 1.0)
        tenths.append(Calibrated(*map(float, (scores[place] / rows[place], rate, rows[place], *ends))))
    return tuple(tenths)


def _lift(bins: ScoreBins) -> tuple[Lifted, ...]:
    whole, hits = bins.labelled.sum(), bins.hits.sum()
    base = hits / whole
    lifts = []
    for share in SHARES:
        top_hits = bins.top_hits(share)
        rate = top_hits / (share * whole)
        error = Z * np.sqrt(rate * (1 - rate) / bins.effective(share * whole))
        ends = max(rate - error, 0.0), min(rate + error, 1.0)
        lifts.append(Lifted(*map(float, (share, rate / base, top_hits / hits, ends[0] / base, ends[1] / base))))
    return tuple(lifts)


def _ranked(bins: ScoreBins) -> tuple[tuple[tuple[float, float], ...], tuple[tuple[float, float], ...]]:
    """The points of the ROC curve and of precision by recall."""
    hits, misses = from_the_top(bins.hits), from_the_top(bins.misses)
    false_positive = misses / misses[-1] if misses[-1] else misses
    recall = hits / hits[-1]
    both = (hits + misses)[1:]
    precision = np.divide(hits[1:], both, out=np.zeros(len(both)), where=both > 0)
    return _thinned(false_positive, recall), _thinned(recall[1:], precision)


def _thinned(across: Floats, up: Floats) -> tuple[tuple[float, float], ...]:
    """Both ends and at most `POINTS` points, about equally far from each other along the curve."""
    way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(across)) + np.abs(np.diff(up)))])
    places = np.unique(np.searchsorted(way, np.linspace(0, way[-1], POINTS)).clip(0, len(way) - 1))
    chosen = np.union1d(places, [0, len(way) - 1])
    return tuple(zip(across[chosen].tolist(), up[chosen].tolist(), strict=True))
