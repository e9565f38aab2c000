"""Estimates of the metrics of all predictions of a window, before their outcomes exist.

Classifications by CBPE (see `cbpe`), whose calibration is refitted on the version's reference and on the newest rows
that have matured. Regressions by their direct loss: each prediction counts as the reference's loss in its leaf of a
tree that was grown for it, which is post-stratification (Särndal, Swensson and Wretman 1992, section 7.6). Both need
nothing but profiles. Neither sees that the same inputs have other outcomes than before (concept change).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from feedback_loop.monitoring.arrays import BEYOND_DOUBLES, Floats
from feedback_loop.monitoring.cbpe import binary_estimates, calibrated, expected, multiclass_estimates
from feedback_loop.monitoring.drift import LEAST_ROWS
from feedback_loop.monitoring.finite import finite
from feedback_loop.monitoring.profiles.blocks import Block, Rows
from feedback_loop.monitoring.profiles.loss_tree import LossTree
from feedback_loop.monitoring.profiles.profile import Mean, Profile
from feedback_loop.monitoring.scores import score_bins_of
from feedback_loop.schema import Task
from feedback_loop.store.evaluations import INSUFFICIENT, EstimateValue
from feedback_loop.store.past_estimates import PastEstimate

CBPE, DLE = "cbpe", "dle"

PAST_WINDOWS = 30
"""The past error is the mean over this many newest windows."""


@BEYOND_DOUBLES
def estimate_values(
    profile: Profile, reference: Profile | None, matured: Profile | None = None
) -> tuple[EstimateValue, ...]:
    """Estimates for a window's predictions; none where the layout has neither scores nor a tree of losses.

    `matured` is the profile of labelled rows before the window that the calibration learns from beside the reference.
    With fewer than 100 rows of either, `insufficient_data` says how many are missing. The standard error is
    that of the difference between the realised metric and the estimate: as of n m / (n + m) rows, with n predictions
    and m rows to learn from.
    """
    layout = profile.layout
    if not profile.rows():
        return ()
    if layout.contract.task is Task.REGRESSION:
        return finite(_by_losses(profile, layout.tree)) if layout.tree is not None else ()  # mae, rmse
    if not layout.scored_classes:
        return ()
    parts = [part for source in (reference, matured) if source is not None for part in source.parts]
    estimates = _by_scores(profile, Profile(layout, tuple(parts)))
    return finite(sorted(estimates, key=lambda estimate: estimate.metric))


@dataclass(frozen=True)
class PastError:
    """The mean distance of estimates from the values realised later, over so many windows."""

    error: float
    windows: int


def past_errors(past: Iterable[PastEstimate]) -> dict[str, PastError]:
    """The past error by metric."""
    distances: dict[str, list[float]] = {}
    for estimate in past:
        distances.setdefault(estimate.metric, []).append(abs(estimate.estimate - estimate.realised))
    return {metric: PastError(float(np.mean(of_metric)), len(of_metric)) for metric, of_metric in distances.items()}


def _by_scores(profile: Profile, calibration: Profile) -> tuple[EstimateValue, ...]:
    contract, classes = profile.layout.contract, range(profile.layout.scored_classes)
    counts = [profile.rows_by_weight(Block.SCORES.of(number)) for number in classes]
    rows, learned_rows = int(min(count.sum() for count in counts)), calibration.rows(Rows.SCORED)
    if missing := _insufficient(CBPE, rows, learned_rows):
        return missing
    effective = _effective(profile, counts[0])
    learned = _effective(calibration, calibration.rows_by_weight(Block.ROWS, Rows.SCORED))
    effective = effective * learned / (effective + learned)
    bins, labelled = ([score_bins_of(side, number) for number in classes] for side in (profile, calibration))
    expected_bins = [
        expected(own, calibrated(past.middle, past.hits, past.misses, own.middle), rows, effective)
        for own, past in zip(bins, labelled, strict=True)
    ]
    if contract.task is Task.BINARY:
        estimates = binary_estimates(expected_bins[0])
    else:
        # The share of outcomes whose class the model does not know.
        hits = sum(float(of_class.hits.sum()) for of_class in labelled)
        unknown = max(1 - hits / calibration.weight(Rows.SCORED), 0.0)
        estimates = multiclass_estimates(dict(zip(map(str, contract.classes), expected_bins, strict=False)), unknown)
    return _values(CBPE, estimates, learned_rows)


def _by_losses(profile: Profile, tree: LossTree) -> tuple[EstimateValue, ...]:
    """Mae and rmse: the means of the reference's losses over its leaves, by the window's shares of them."""
    counts = profile.rows_by_weight(Block.LEAVES)
    rows, learned_rows = int(counts.sum()), sum(tree.rows)
    if missing := _insufficient(DLE, rows, learned_rows):
        return missing
    leaves, weights = profile.slots(Block.LEAVES)
    shares, effective = weights / weights.sum(), _effective(profile, counts)
    learned, *moments = (
        np.asarray(of_leaf)[leaves] for of_leaf in (tree.effective, tree.absolute, tree.squared, tree.fourth)
    )

    def mean(losses: Floats, squares: Floats) -> tuple[float, float]:
        spread = np.maximum(squares - losses**2, 0.0)
        return float(shares @ losses), float(np.sqrt(shares @ spread / effective + shares**2 @ (spread / learned)))

    absolute, squared = mean(moments[0], moments[1]), mean(moments[1], moments[2])
    root = float(np.sqrt(squared[0]))
    means = {"mae": Mean(absolute[0], rows, absolute[1])}
    means["rmse"] = Mean(root, rows, squared[1] / (2 * root) if root else 0.0)
    return _values(DLE, means, learned_rows)


def _insufficient(method: str, rows: int, learned_rows: int) -> tuple[EstimateValue, ...]:
    missing = LEAST_ROWS - min(rows, learned_rows)
    return (EstimateValue(INSUFFICIENT, float(missing), rows, method, learned_rows),) if missing > 0 else ()


def _values(method: str, means: Mapping[str, Mean], learned_rows: int) -> tuple[EstimateValue, ...]:
    return tuple(
        EstimateValue(metric, mean.value, mean.rows, method, learned_rows, mean.standard_error)
        for metric, mean in means.items()
    )


def _effective(profile: Profile, counts: Floats) -> float:
    """The effective sample size of so many rows of each weight (Kish 1965, section 11.7)."""
    weights = np.array([weight for weight, _ in profile.parts])
    return float((weights @ counts) ** 2 / (weights**2 @ counts))
