"""What score bins say: ROC AUC, average precision, calibration and lift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from feedback_loop.monitoring.losses import CLIP, Floats
from feedback_loop.monitoring.profiles import Block, Mean, Profile, Rows, score_bin_edges

CALIBRATION_BINS = 10
TOP = 0.1
"""The share of rows with the highest scores that the lift is of."""


@dataclass(frozen=True)
class Scores:
    """By ascending score bin: weights of labelled rows of the class and of the others, and of unlabelled rows."""

    least: Floats
    most: Floats
    hits: Floats
    misses: Floats
    unknown: Floats

    @property
    def middle(self) -> Floats:
        """The middle of each bin."""
        return (self.least + self.most) / 2


def scores_of(profile: Profile, number: int = 0) -> Scores:
    """The score bins of one class."""
    found = [profile.slots(block + number) for block in (Block.SCORES, Block.HITS, Block.MISSES)]
    bins = np.unique(np.concatenate([slots for slots, _ in found]))
    weights = np.zeros((3, len(bins)))
    for row, (slots, held) in zip(weights, found, strict=True):
        row[np.searchsorted(bins, slots)] = held
    every, hits, misses = weights
    return Scores(*score_bin_edges(bins), hits, misses, np.maximum(every - hits - misses, 0.0))


def unlabelled_losses(profile: Profile) -> tuple[float, dict[str, tuple[float, float]]]:
    """The weight of a binary task's unlabelled rows, and the mean of each loss over them at best and at worst."""
    scores = scores_of(profile)
    gap = float(scores.unknown.sum())
    if not gap:
        return 0.0, {"brier": (0.0, 0.0), "log_loss": (0.0, 0.0)}
    near, far = np.minimum(scores.least, 1 - scores.most), np.maximum(scores.most, 1 - scores.least)
    ends = {"brier": (near**2, far**2)}
    ends["log_loss"] = (-np.log(np.clip(1 - near, CLIP, 1.0)), -np.log(np.clip(1 - far, CLIP, 1.0)))
    return gap, {
        name: (float(scores.unknown @ best / gap), float(scores.unknown @ worst / gap))
        for name, (best, worst) in ends.items()
    }


def binary_metrics(profile: Profile) -> dict[str, Mean]:
    """roc_auc, pr_auc, calibration_error and lift of a binary task, as far as they are defined."""
    scores, rows = scores_of(profile), profile.rows(Rows.SCORED)
    hits, misses = scores.hits.sum(), scores.misses.sum()
    found: dict[str, Mean] = {}
    if not hits + misses:
        return found
    found["calibration_error"] = _calibration_error(scores, rows, profile.effective(hits + misses))
    area = area_under(scores, rows, profile.effective)
    if area is not None:
        found["roc_auc"] = area
    if hits:
        precision = average_precision(scores)
        error = float(np.sqrt(precision * (1 - precision) / profile.effective(hits)))  # Boyd et al. 2013, section 3.2
        found["pr_auc"] = Mean(precision, rows, error)
        found["lift"] = _lift(scores, rows, profile.effective)
    return found


def roc_auc(profile: Profile, number: int) -> Mean | None:
    """The area of one class against all others; None where one side has no rows."""
    return area_under(scores_of(profile, number), profile.rows(Rows.SCORED), profile.effective)


def area_under(scores: Scores, rows: int, effective: Callable[[float], float]) -> Mean | None:
    """The area and its error by DeLong, DeLong and Clarke-Pearson (1988), from the placements of the bins.

    None where one side has no rows.
    """
    hits, misses = scores.hits.sum(), scores.misses.sum()
    if not hits or not misses:
        return None
    of_hits = (np.cumsum(scores.misses) - scores.misses / 2) / misses
    of_misses = 1 - (np.cumsum(scores.hits) - scores.hits / 2) / hits
    area = float(scores.hits @ of_hits / hits)
    variance = 0.0
    for weights, whole, placements in ((scores.hits, hits, of_hits), (scores.misses, misses, of_misses)):
        own = effective(float(whole))
        if own <= 1:
            return Mean(area, rows, None)
        variance += float(weights @ (placements - area) ** 2 / whole) / (own - 1)
    return Mean(area, rows, float(np.sqrt(variance)))


def average_precision(scores: Scores) -> float:
    """The mean of the precision over hits, each bin being one threshold."""
    hits, misses = scores.hits[::-1], scores.misses[::-1]
    found, wrong = np.cumsum(hits), np.cumsum(misses)
    precision = np.divide(found, found + wrong, out=np.zeros(len(hits)), where=found + wrong > 0)
    return float(hits @ precision / hits.sum())


def _tenths(scores: Scores) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], Floats]:
    middle = scores.middle
    return np.minimum((middle * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1), middle


def _calibration_error(scores: Scores, rows: int, effective: float) -> Mean:
    """The expected calibration error by tenths of the probability (Naeini et al. 2015)."""
    place, middle = _tenths(scores)
    known = scores.hits + scores.misses
    gaps = np.bincount(place, scores.hits - known * middle, CALIBRATION_BINS)
    whole = known.sum()
    value = float(np.abs(gaps).sum() / whole)
    squares = scores.hits * (1 - middle) ** 2 + scores.misses * middle**2
    variance = max(float(squares.sum() / whole) - value**2, 0.0)
    error = float(np.sqrt(variance / (effective - 1))) if effective > 1 else None
    return Mean(value, rows, error)


def _lift(scores: Scores, rows: int, effective: Callable[[float], float]) -> Mean:
    known, hits = (scores.hits + scores.misses)[::-1], scores.hits[::-1]
    wanted = known.sum() * TOP
    taken = np.clip(wanted - (np.cumsum(known) - known), 0.0, known)
    share = float((taken * np.divide(hits, known, out=np.zeros(len(hits)), where=known > 0)).sum() / wanted)
    base = float(hits.sum() / known.sum())
    return Mean(share / base, rows, float(np.sqrt(share * (1 - share) / effective(wanted))) / base)
