"""Curves of a class' probability, from its score bins: is it right (calibration), what does it sort out (lift)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feedback_loop.monitoring.losses import Floats
from feedback_loop.monitoring.profiles import Profile
from feedback_loop.monitoring.scores import CALIBRATION_BINS, Scores, scores_of
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
    found = {}
    for number in range(profile.layout.scored_classes):
        scores = scores_of(profile, number)
        if scores.hits.any():
            found[str(names[number])] = Curves(
                _calibration(profile, scores), _lift(profile, scores), *_ranked(scores)
            )
    return found


def _calibration(profile: Profile, scores: Scores) -> tuple[Calibrated, ...]:
    known, middle = scores.hits + scores.misses, scores.middle
    place = np.minimum((middle * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1)
    rows, hits, total = (np.bincount(place, each, CALIBRATION_BINS) for each in (known, scores.hits, known * middle))
    found = []
    for here in np.flatnonzero(rows):
        rate, counted = hits[here] / rows[here], profile.effective(float(rows[here]))
        # Wilson (1927): it holds where all or none are of the class, too.
        centre = (rate + Z**2 / (2 * counted)) / (1 + Z**2 / counted)
        half = Z / (1 + Z**2 / counted) * np.sqrt(rate * (1 - rate) / counted + (Z / (2 * counted)) ** 2)
        ends = max(centre - half, 0.0), min(centre + half, 1.0)
        found.append(Calibrated(*map(float, (total[here] / rows[here], rate, rows[here], *ends))))
    return tuple(found)


def _lift(profile: Profile, scores: Scores) -> tuple[Lifted, ...]:
    known, hits = _from_the_top(scores.hits + scores.misses), _from_the_top(scores.hits)
    whole, every = known[-1], hits[-1]
    base = every / whole
    found = []
    for share in SHARES:
        taken = float(np.interp(share * whole, known, hits))
        rate = taken / (share * whole)
        error = Z * np.sqrt(rate * (1 - rate) / profile.effective(share * whole))
        ends = max(rate - error, 0.0), min(rate + error, 1.0)
        found.append(Lifted(*map(float, (share, rate / base, taken / every, ends[0] / base, ends[1] / base))))
    return tuple(found)


def _ranked(scores: Scores) -> tuple[tuple[tuple[float, float], ...], tuple[tuple[float, float], ...]]:
    hits, misses = _from_the_top(scores.hits), _from_the_top(scores.misses)
    wrong = misses / misses[-1] if misses[-1] else misses
    right = hits / hits[-1]
    roc = _thinned(wrong, right)
    precision = np.divide(
        hits[1:], hits[1:] + misses[1:], out=np.zeros(len(hits) - 1), where=hits[1:] + misses[1:] > 0
    )
    return roc, _thinned(right[1:], precision)


def _from_the_top(weights: Floats) -> Floats:
    """What has come by each bin, the highest score first; at first nothing."""
    return np.concatenate([[0.0], np.cumsum(weights[::-1])])


def _thinned(across: Floats, up: Floats) -> tuple[tuple[float, float], ...]:
    """At most so many points, as far from each other as may be; the first and the last are among them."""
    way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(across)) + np.abs(np.diff(up)))])
    places = np.unique(np.searchsorted(way, np.linspace(0, way[-1], POINTS)).clip(0, len(way) - 1))
    kept = np.union1d(places, [0, len(way) - 1])
    return tuple(zip(across[kept].tolist(), up[kept].tolist(), strict=True))
