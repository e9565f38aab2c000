"""Metrics of a classification before outcomes are known, from its scores alone (CBPE).

Confidence-based performance estimation as NannyML has it (Kivimäki, Białek, Kuberski and Nurminen 2025, "Performance
Estimation in Binary Classification Using Calibrated Confidence"): scores are calibrated on rows whose outcome is
known, so that of a hundred rows with a chance of 0.7 seventy are hits; then each row adds its chance to the hits and
the rest to the misses, and metrics are made of these expected counts. It sees that inputs have changed, not that the
same inputs have other outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from feedback_loop.monitoring.confusion import Confusion, Ratio, of_class
from feedback_loop.monitoring.losses import CLIP, Floats
from feedback_loop.monitoring.profiles import Mean
from feedback_loop.monitoring.scores import Scores, area_under, average_precision


@dataclass(frozen=True)
class Scored:
    """Of one class, by ascending score: how many predictions, how many of them are answered with it, their chance.

    One entry may be a row (with a weight of 1), or all rows of a bin of scores.
    """

    scores: Floats
    every: Floats
    answered: Floats
    chances: Floats

    @property
    def table(self) -> Floats:
        """The expected confusion of this class (1) with all others (0), by truth and answer."""
        hits = float(self.chances @ self.answered)
        true, said, every = (float(each.sum()) for each in (self.hits, self.answered, self.every))
        table: Floats = np.array([[every - true - said + hits, said - hits], [true - hits, hits]])
        return table.clip(min=0.0)

    @property
    def hits(self) -> Floats:
        """Expected rows of the class, by score."""
        hits: Floats = self.every * self.chances
        return hits


def calibrated(scores: Floats, hits: Floats, misses: Floats, asked: Floats) -> Floats:
    """The chance that goes with each `asked` score, by what came of others: weights of hits and misses by score.

    Isotonic regression, linear between its steps and level beyond its ends, as scikit-learn and NannyML have it.
    """
    from sklearn.isotonic import IsotonicRegression

    weights = hits + misses
    known = weights > 0
    fitted = IsotonicRegression(out_of_bounds="clip").fit(
        scores[known], hits[known] / weights[known], sample_weight=weights[known]
    )
    return np.asarray(fitted.predict(asked), dtype=np.float64)


def binary_estimates(scored: Scored, rows: int, effective: float) -> dict[str, Mean]:
    """accuracy, precision, recall, f1, outcome_rate, roc_auc, pr_auc, brier and log_loss of so many rows.

    Their errors are those of metrics of `effective` rows. What is undefined is left out.
    """
    table = scored.table
    found: dict[str, Mean | None] = {
        "accuracy": _share(float(np.trace(table) / table.sum()), rows, effective),
        "outcome_rate": _share(float(table[1].sum() / table.sum()), rows, effective),
        **{ratio.name: _ratio(scored, ratio, rows, effective) for ratio in Ratio},
        "roc_auc": area_under(_expected(scored), rows, _per_weight(scored, effective)),
        "pr_auc": _precision(scored, rows, effective),
    }
    score, chance, weight = scored.scores, scored.chances, scored.every
    sides = [(chance * weight, 1 - score), ((1 - chance) * weight, score)]
    found["brier"] = _mean([(side, gap**2) for side, gap in sides], rows, effective)
    found["log_loss"] = _mean([(side, _log_loss(1 - gap)) for side, gap in sides], rows, effective)
    return {name: mean for name, mean in found.items() if mean is not None}


def multiclass_estimates(
    classes: Mapping[str, Scored], rows: int, effective: float, unknown: float = 0.0
) -> dict[str, Mean]:
    """accuracy, log_loss, brier; precision, recall, f1 and roc_auc of each class (`f1[a]`), and their `_macro`.

    So large a share of rows is expected to be of a class that is `unknown` to the model.
    """
    answered = sum(float(each.answered.sum()) for each in classes.values())
    right = sum(float(each.chances @ each.answered) for each in classes.values())
    found = {"accuracy": _share(right / answered, rows, effective)}
    areas = []
    for ratio in Ratio:
        own = {name: _ratio(scored, ratio, rows, effective) for name, scored in classes.items()}
        found |= {f"{ratio.name}[{name}]": mean for name, mean in own.items() if mean is not None}
        # 0 / 0 counts as 0 in a mean, as in scikit-learn, and so does a class that is never answered.
        means = [*own.values(), *([None] if unknown else [])]
        found[f"{ratio.name}_macro"] = _macro([mean or Mean(0.0, rows, 0.0) for mean in means], rows)
    for name, scored in classes.items():
        area = area_under(_expected(scored), rows, _per_weight(scored, effective))
        if area is not None:
            found[f"roc_auc[{name}]"] = area
            areas.append(area)
    if areas:
        found["roc_auc_macro"] = _macro(areas, rows)
    whole = sum(float(each.every.sum()) for each in classes.values()) / len(classes)
    losses = [(each.hits, _log_loss(each.scores)) for each in classes.values()]
    strange = np.array([unknown * whole]), _log_loss(np.zeros(1))
    found["log_loss"] = _mean([*losses, strange], rows, effective)
    squares = sum(
        float(each.hits @ (1 - each.scores) ** 2 + (each.every - each.hits) @ each.scores**2)
        for each in classes.values()
    )
    # What is in [0, 1] varies at most like this.
    found["brier"] = _share((squares / whole + unknown) / 2, rows, effective)
    return found


def _ratio(scored: Scored, ratio: Ratio, rows: int, effective: float) -> Mean | None:
    return of_class(Confusion(scored.table, np.arange(2), effective, rows), 1, ratio)


def _expected(scored: Scored) -> Scores:
    hits = scored.hits
    return Scores(scored.scores, scored.scores, hits, scored.every - hits, np.zeros(len(hits)))


def _per_weight(scored: Scored, effective: float) -> Callable[[float], float]:
    """How many effective rows a part of the whole weight is."""
    share = effective / float(scored.every.sum())
    return lambda weight: weight * share


def _precision(scored: Scored, rows: int, effective: float) -> Mean | None:
    """The average precision; None where no hit is to be expected."""
    hits = _per_weight(scored, effective)(float(scored.hits.sum()))
    if not hits:
        return None
    value = average_precision(_expected(scored))
    return Mean(value, rows, float(np.sqrt(max(value * (1 - value), 0.0) / hits)))  # Boyd et al. 2013, section 3.2


def _log_loss(chance: Floats) -> Floats:
    return -np.log(np.clip(chance, CLIP, 1.0))


def _share(value: float, rows: int, effective: float) -> Mean:
    value = min(max(value, 0.0), 1.0)
    return Mean(value, rows, float(np.sqrt(value * (1 - value) / effective)))


def _mean(parts: Sequence[tuple[Floats, Floats]], rows: int, effective: float) -> Mean:
    """The mean of losses with these weights, and its error."""
    whole = sum(float(weights.sum()) for weights, _ in parts)
    value = sum(float(weights @ losses) for weights, losses in parts) / whole
    square = sum(float(weights @ losses**2) for weights, losses in parts) / whole
    return Mean(value, rows, float(np.sqrt(max(square - value**2, 0.0) / effective)))


def _macro(means: Sequence[Mean], rows: int) -> Mean:
    """The mean over classes, which errs at most as much as they do in the mean: they are of the same rows."""
    value = float(np.mean([each.value for each in means]))
    return Mean(value, rows, float(np.mean([each.standard_error or 0.0 for each in means])))
