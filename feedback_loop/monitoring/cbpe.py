"""Metrics of a classification before outcomes are known, from its scores alone (CBPE).

Confidence-based performance estimation as NannyML has it (Kivimäki, Białek, Kuberski and Nurminen 2025, "Performance
Estimation in Binary Classification Using Calibrated Confidence"): scores are calibrated on rows whose outcome is
known, so that of a hundred rows with a probability of 0.7 seventy are hits; then each row adds its probability to the
hits and the rest to the misses, and metrics are made of these expected counts. It sees that inputs have changed, not
that the same inputs have other outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from feedback_loop.monitoring.arrays import Floats
from feedback_loop.monitoring.confusion import Confusion, Ratio, mean_of, proportion
from feedback_loop.monitoring.profiles.profile import Mean
from feedback_loop.monitoring.scores import ScoreBins, areas, binary_metrics, log_loss

ESTIMATED = ("accuracy", "outcome_rate", *(ratio.name for ratio in Ratio), "roc_auc", "pr_auc")
"""The metrics of a binary task that depend on outcomes, and on more than the calibration of the scores."""


def calibrated(scores: Floats, hits: Floats, misses: Floats, new_scores: Floats) -> Floats:
    """The calibrated probability of each of `new_scores`, from weights of hits and misses by score.

    Isotonic regression, linear between its steps and level beyond its ends, as scikit-learn and NannyML have it.
    """
    from sklearn.isotonic import IsotonicRegression

    weights = hits + misses
    has_outcome = weights > 0
    fitted = IsotonicRegression(out_of_bounds="clip").fit(
        scores[has_outcome], hits[has_outcome] / weights[has_outcome], sample_weight=weights[has_outcome]
    )
    return np.asarray(fitted.predict(new_scores), dtype=np.float64)


def expected(bins: ScoreBins, probabilities: Floats, rows: int, effective: float) -> ScoreBins:
    """The bins with the hits and misses expected of all predictions, which say as much as `effective` rows."""
    hits = bins.every * probabilities
    per_weight = effective / float(bins.every.sum())
    return replace(bins, hits=hits, misses=bins.every - hits, rows=rows, effective_per_weight=per_weight)


def expected_confusion(bins: ScoreBins) -> Confusion:
    """The expected confusion matrix of one class (second place) against all others (first place)."""
    hits = float(
        np.divide(bins.hits, bins.every, out=np.zeros(len(bins.every)), where=bins.every > 0) @ bins.answered
    )
    truth, answered, every = (float(counts.sum()) for counts in (bins.hits, bins.answered, bins.every))
    table = np.array([[every - truth - answered + hits, answered - hits], [truth - hits, hits]]).clip(min=0.0)
    return Confusion(table, np.arange(2), bins.rows, bins.effective(every), np.zeros(2))


def binary_estimates(bins: ScoreBins) -> dict[str, Mean]:
    """accuracy, precision, recall, f1, outcome_rate, roc_auc, pr_auc, brier and log_loss by expected counts.

    What is undefined is left out.
    """
    table = expected_confusion(bins)
    metrics = {"accuracy": table.share(float(np.trace(table.table))), **binary_metrics(table, bins)}
    sides = [(bins.hits, 1 - bins.middle), (bins.misses, bins.middle)]
    return {
        **{name: metrics[name] for name in ESTIMATED if name in metrics},
        "brier": _mean_loss([(weights, gap**2) for weights, gap in sides], bins),
        "log_loss": _mean_loss([(weights, log_loss(1 - gap)) for weights, gap in sides], bins),
    }


def multiclass_estimates(classes: Mapping[str, ScoreBins], unknown: float = 0.0) -> dict[str, Mean]:
    """accuracy, log_loss, brier; precision, recall, f1 and roc_auc of each class (`f1[a]`), and their `_macro`.

    `unknown` is the expected share of rows of a class that the model does not know.
    """
    tables = {name: expected_confusion(bins) for name, bins in classes.items()}
    first = next(iter(tables.values()))
    answered = sum(float(table.answers[1]) for table in tables.values())
    right = sum(float(table.table[1, 1]) for table in tables.values())
    metrics = {"accuracy": proportion(min(right / answered, 1.0), first.rows, first.effective)}
    for ratio in Ratio:
        of_classes = {name: table.ratio(ratio, 1) for name, table in tables.items()}
        metrics |= {f"{ratio.name}[{name}]": mean for name, mean in of_classes.items() if mean is not None}
        # 0 / 0 counts as 0 in a mean, as in scikit-learn, and so does a class that is never answered.
        means = [*of_classes.values(), *([None] if unknown else [])]
        metrics[f"{ratio.name}_macro"] = mean_of([mean or Mean(0.0, first.rows, 0.0) for mean in means])
    metrics |= areas(classes)
    every = list(classes.values())
    whole = sum(float(bins.every.sum()) for bins in every) / len(every)
    losses = [(bins.hits, log_loss(bins.middle)) for bins in every]
    metrics["log_loss"] = _mean_loss([*losses, (np.array([unknown * whole]), log_loss(np.zeros(1)))], every[0])
    squares = sum(float(b.hits @ (1 - b.middle) ** 2 + b.misses @ b.middle**2) for b in every)
    # A value in [0, 1] varies at most as a proportion does.
    metrics["brier"] = proportion(min((squares / whole + unknown) / 2, 1.0), first.rows, first.effective)
    return metrics


def _mean_loss(parts: Sequence[tuple[Floats, Floats]], bins: ScoreBins) -> Mean:
    """The weighted mean of losses, with its standard error."""
    whole = sum(float(weights.sum()) for weights, _ in parts)
    value = sum(float(weights @ losses) for weights, losses in parts) / whole
    square = sum(float(weights @ losses**2) for weights, losses in parts) / whole
    effective = bins.effective(float(bins.every.sum()))
    return Mean(value, bins.rows, float(np.sqrt(max(square - value**2, 0.0) / effective)))
