"""Metrics of a class by counts in bins of its score, realised or expected: ROC AUC, precision, calibration, lift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from feedback_loop.monitoring.arrays import Floats
from feedback_loop.monitoring.confusion import Confusion, Ratio, mean_of
from feedback_loop.monitoring.losses import CLIP
from feedback_loop.monitoring.profiles.blocks import Block, Rows, score_bin_edges
from feedback_loop.monitoring.profiles.profile import Mean, Profile

CALIBRATION_BINS = 10

TOP = 0.1
"""The share of rows with the highest scores that the lift is of."""


@dataclass(frozen=True)
class ScoreBins:
    """Counts of one class by ascending bin of its score. Counts are weights; `least` and `most` are a bin's ends.

    `every` counts predictions, `answered` those of them that are answered with the class. `hits` are rows of the
    class and `misses` rows of others: those with outcomes, or expected ones. They are of so many `rows`, and a unit
    of weight says as much as `effective_per_weight` rows of equal weight.
    """

    least: Floats
    most: Floats
    every: Floats
    answered: Floats
    hits: Floats
    misses: Floats
    rows: int
    effective_per_weight: float

    @property
    def middle(self) -> Floats:
        """The middle of each bin."""
        return (self.least + self.most) / 2

    @property
    def labelled(self) -> Floats:
        """The rows with outcomes in each bin."""
        return self.hits + self.misses

    def effective(self, weight: float) -> float:
        """How many rows of equal weight say as much as this weight."""
        return float(weight) * self.effective_per_weight

    def tenths(self) -> tuple[Floats, Floats, Floats]:
        """Rows with outcomes, hits and sums of scores by tenths of the score."""
        place = np.minimum((self.middle * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1)
        counts = (self.labelled, self.hits, self.labelled * self.middle)
        rows, hits, scores = (np.asarray(np.bincount(place, count, CALIBRATION_BINS), np.float64) for count in counts)
        return rows, hits, scores

    def top_hits(self, share: float) -> float:
        """The hits among the share of rows with the highest scores; of the last bin in proportion."""
        labelled = from_the_top(self.labelled)
        return float(np.interp(share * labelled[-1], labelled, from_the_top(self.hits)))


def score_bins_of(profile: Profile, number: int = 0) -> ScoreBins:
    """The counts of one class of a profile's rows."""
    blocks = [profile.slots(block.of(number)) for block in (Block.SCORES, Block.ANSWERED, Block.HITS, Block.MISSES)]
    bins = np.unique(np.concatenate([slots for slots, _ in blocks]))
    counts = np.zeros((len(blocks), len(bins)))
    for row, (slots, weights) in zip(counts, blocks, strict=True):
        row[np.searchsorted(bins, slots)] = weights
    every, answered, hits, misses = counts
    rows, per_weight = profile.rows(Rows.SCORED), profile.effective(1.0)
    return ScoreBins(*score_bin_edges(bins), every, answered, hits, misses, rows, per_weight)


def from_the_top(weights: Floats) -> Floats:
    """What has come by each bin, the highest score first; at first nothing."""
    return np.concatenate([[0.0], np.cumsum(weights[::-1])])


def binary_metrics(table: Confusion, bins: ScoreBins | None) -> dict[str, Mean]:
    """The metrics of a binary task by its counts, realised or expected; what is undefined is left out.

    outcome_rate, prediction_rate, precision, recall and f1 of the positive class (the second of the table) and, where
    there are scores, calibration_error, roc_auc, pr_auc (average precision) and lift.
    """
    metrics: dict[str, Mean | None] = {
        "outcome_rate": table.share(table.truth[1]),
        "prediction_rate": table.share(table.answers[1]),
        **{ratio.name: table.ratio(ratio, 1) for ratio in Ratio},
    }
    if bins is not None and bins.labelled.sum():
        metrics |= {
            "calibration_error": calibration_error(bins),
            "roc_auc": roc_auc(bins),
            "pr_auc": average_precision(bins),
            "lift": lift(bins),
        }
    return {name: mean for name, mean in metrics.items() if mean is not None}


def areas(classes: Mapping[str, ScoreBins]) -> dict[str, Mean]:
    """`roc_auc[a]` of each class against all others, where both have rows, and their mean `roc_auc_macro`."""
    of_classes = {f"roc_auc[{name}]": area for name, bins in classes.items() if (area := roc_auc(bins)) is not None}
    return {**of_classes, "roc_auc_macro": mean_of(list(of_classes.values()))} if of_classes else {}


def roc_auc(bins: ScoreBins) -> Mean | None:
    """The area and its error by DeLong, DeLong and Clarke-Pearson (1988), from the placements of the bins.

    None where one side has no rows.
    """
    hits, misses = bins.hits.sum(), bins.misses.sum()
    if not hits or not misses:
        return None
    of_hits = (np.cumsum(bins.misses) - bins.misses / 2) / misses
    of_misses = 1 - (np.cumsum(bins.hits) - bins.hits / 2) / hits
    area = float(bins.hits @ of_hits / hits)
    variance = 0.0
    for weights, whole, placements in ((bins.hits, hits, of_hits), (bins.misses, misses, of_misses)):
        effective = bins.effective(whole)
        if effective <= 1:
            return Mean(area, bins.rows, None)
        variance += float(weights @ (placements - area) ** 2 / whole) / (effective - 1)
    return Mean(area, bins.rows, float(np.sqrt(variance)))


def average_precision(bins: ScoreBins) -> Mean | None:
    """The mean of the precision over hits, each bin being one threshold; None without hits.

    Its error is that of Boyd, Eng and Page (2013), section 3.2.
    """
    effective = bins.effective(bins.hits.sum())
    if not effective:
        return None
    hits, misses = from_the_top(bins.hits)[1:], from_the_top(bins.misses)[1:]
    precision = np.divide(hits, hits + misses, out=np.zeros(len(hits)), where=hits + misses > 0)
    value = float(bins.hits[::-1] @ precision / bins.hits.sum())
    return Mean(value, bins.rows, float(np.sqrt(max(value * (1 - value), 0.0) / effective)))


def calibration_error(bins: ScoreBins) -> Mean:
    """The expected calibration error by tenths of the score (Naeini et al. 2015)."""
    rows, hits, scores = bins.tenths()
    whole = rows.sum()
    value = float(np.abs(hits - scores).sum() / whole)
    squares = bins.hits * (1 - bins.middle) ** 2 + bins.misses * bins.middle**2
    variance = max(float(squares.sum() / whole) - value**2, 0.0)
    effective = bins.effective(whole)
    return Mean(value, bins.rows, float(np.sqrt(variance / (effective - 1))) if effective > 1 else None)


def lift(bins: ScoreBins) -> Mean | None:
    """How many times as often as in all rows the class comes in the tenth with the highest scores."""
    if not bins.hits.any():
        return None
    whole = bins.labelled.sum()
    rate, base = bins.top_hits(TOP) / (whole * TOP), float(bins.hits.sum() / whole)
    error = float(np.sqrt(max(rate * (1 - rate), 0.0) / bins.effective(whole * TOP)))
    return Mean(rate / base, bins.rows, error / base)


def log_loss(probability: Floats) -> Floats:
    """The logarithmic losses of outcomes that had these probabilities."""
    return -np.log(np.clip(probability, CLIP, 1.0))


def unlabelled_losses(bins: ScoreBins) -> tuple[float, dict[str, tuple[float, float]]]:
    """The weight of a binary task's unlabelled rows, and the mean of each loss over them at best and at worst."""
    unlabelled = np.maximum(bins.every - bins.labelled, 0.0)
    weight = float(unlabelled.sum())
    if not weight:
        return 0.0, {"brier": (0.0, 0.0), "log_loss": (0.0, 0.0)}
    near, far = np.minimum(bins.least, 1 - bins.most), np.maximum(bins.most, 1 - bins.least)
    ends = {"brier": (near**2, far**2), "log_loss": (log_loss(1 - near), log_loss(1 - far))}
    return weight, {
        name: (float(unlabelled @ best / weight), float(unlabelled @ worst / weight))
        for name, (best, worst) in ends.items()
    }
