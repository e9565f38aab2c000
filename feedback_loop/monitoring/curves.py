"""Curves of a class' probability, from its score bins: is it right (calibration), what does it sort out (lift)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feedback_loop.monitoring.arrays import Floats
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.scores import ScoreBins, from_the_top, score_bins_of
from feedback_loop.schema import Task

Z = 1.96
"""The bands are of 95%."""

SHARES = np.arange(1, 21) / 20
"""The lift is told of these shares of the predictions, those with the highest scores first."""

POINTS = 200
"""So many points of the other curves are kept."""


@dataclass(frozen=True)
class Calibrated:
    """A tenth of the probability: its mean `score`, the share of outcomes of the class, of so many (weighted) rows.

    The share of all such predictions is between `least` and `most` (95%, Wilson 1927).
    """

    score: float
    rate: float
    rows: float
    least: float
    most: float


@dataclass(frozen=True)
class Lifted:
    """The `share` of predictions with the highest scores: how many times as often as in all of them the class comes.

    `found` is the part of all outcomes of the class that are among them, `least` and `most` the lift's band of 95%.
    """

    share: float
    lift: float
    found: float
    least: float
    most: float


@dataclass(frozen=True)
class Curves:
    """One class against all others. `roc` has false and true positive rates, `precision_recall` recall first."""

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
        name: Curves(_calibration(each), _lift(each), *_ranked(each))
        for name, each in bins.items()
        if each.hits.any()
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
    """At most `POINTS` of the points and both ends, as far from each other as may be."""
    way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(across)) + np.abs(np.diff(up)))])
    places = np.unique(np.searchsorted(way, np.linspace(0, way[-1], POINTS)).clip(0, len(way) - 1))
    chosen = np.union1d(places, [0, len(way) - 1])
    return tuple(zip(across[chosen].tolist(), up[chosen].tolist(), strict=True))
