"""Drift of columns together, which none of them shows alone: rows of reference and window, told apart and rebuilt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.monitoring.drift import ALPHA, LEAST_ROWS, LEAST_WINDOWS, THRESHOLD
from feedback_loop.monitoring.evaluation import window_numbers
from feedback_loop.monitoring.losses import Floats, floats
from feedback_loop.monitoring.profiles import TIME
from feedback_loop.monitoring.profiles.layout import texts
from feedback_loop.schema import ColumnType, Contract
from feedback_loop.store.evaluations import DriftValue

AUC_THRESHOLD = 0.65
"""From this AUC on the rows are told apart well: NannyML's default."""

FOLDS = 5

EXPLAINED = 0.65
"""The components that are kept explain so much of the variance: NannyML's default."""

NAMED = 3
"""So many features are named, those that tell the most."""

MANY = 100
"""Of more features than this, what each tells is looked at in one fold only."""


def multivariate_values(
    contract: Contract, reference: pa.Table, current: pa.Table, length: timedelta
) -> tuple[DriftValue, ...]:
    """How well rows of the window are told from those of the reference, and how they fit its correlations.

    `classifier_auc` (Lopez-Paz and Oquab 2017; Rabanser et al. 2019): boosted trees learn to tell them apart; the AUC
    is that of rows that they have not seen (five folds), .5 where there is no difference. Drifted from .65 on, if
    chance shows it less than once in a hundred times (DeLong et al. 1988). `binning` names the features that tell the
    most, by how much of the AUC is lost without each. `pca_reconstruction`: the mean error of rebuilding rows from
    the reference's principal components, as in NannyML, signed, in standard deviations of the reference's own error.
    Drifted from 0.1 on, if the reference's own windows (five at least) stray less than a third as much, and if chance
    shows it as seldom.

    Features only; words by how often the reference has them. Nothing where either has fewer than 100 rows.
    """
    features = [
        each
        for each in contract.features
        if each.type is not ColumnType.DATETIME and each.stored in reference.column_names
    ]
    if min(reference.num_rows, current.num_rows) < LEAST_ROWS or not features:
        return ()
    encoded = [
        _encoded(reference.column(each.stored), current.column(each.stored), is_number=each.type.is_numeric)
        for each in features
    ]
    before, now = (np.column_stack([pair[side] for pair in encoded]) for side in (0, 1))
    windows = window_numbers(reference.column(TIME), length) if TIME in reference.column_names else None
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # threads that wait for each other are slower on work as small as this
        return _told_apart(before, now, [each.name for each in features]), _rebuilt(before, now, windows)


def _encoded(before: pa.ChunkedArray, now: pa.ChunkedArray, *, is_number: bool) -> tuple[Floats, Floats]:
    """Finite numbers, or the shares that words have in the reference; NaN for what is missing."""
    if is_number:
        pair = floats(before), floats(now)
        limit = 1e100  # squares of what is beyond would be beyond all doubles
        return np.clip(pair[0], -limit, limit), np.clip(pair[1], -limit, limit)
    counted = pc.value_counts(texts(before).drop_null())
    words, counts = (counted.field(name) for name in ("values", "counts"))
    shares = np.append(np.asarray(counts) / max(len(before), 1), 0.0)
    found = []
    for column in map(texts, (before, now)):
        places = pc.index_in(column, words).fill_null(len(words)).to_numpy()
        found.append(np.where(pc.is_null(column).to_numpy(), np.nan, shares[places]))
    return found[0], found[1]


@dataclass(frozen=True)
class _Fold:
    """The scores of one fold's rows by trees that have not seen them."""

    model: Any
    rows: Floats
    is_now: npt.NDArray[np.bool_]

    def auc(self, rows: Floats) -> tuple[float, float]:
        """The AUC and its variance (DeLong)."""
        scores = self.model.predict_proba(rows)[:, 1]
        placed = (scores[self.is_now][:, None] > scores[~self.is_now]) + 0.5 * (
            scores[self.is_now][:, None] == scores[~self.is_now]
        )
        by_row, by_other = placed.mean(axis=1), placed.mean(axis=0)
        variance = by_row.var(ddof=1) / len(by_row) + by_other.var(ddof=1) / len(by_other)
        return float(placed.mean()), float(variance)


def _told_apart(before: Floats, now: Floats, names: list[str]) -> DriftValue:
    from scipy import stats

    both = np.concatenate([before, now])
    least = np.where(np.isnan(both), np.inf, both).min(axis=0)
    least = np.where(np.isfinite(least), least, 0.0)
    gap = least - np.maximum(np.abs(least), 1.0)  # missing values are put below all others
    before, now = (np.where(np.isnan(each), gap, each) for each in (before, now))
    folds = [_fold(before, now, fold) for fold in range(FOLDS)]
    found = [fold.auc(fold.rows) for fold in folds]
    auc = float(np.mean([each for each, _ in found]))
    error = float(np.sqrt(sum(variance for _, variance in found))) / FOLDS
    p_value = float(stats.norm.sf((auc - 0.5) / error)) if error else float(auc <= 0.5)
    lost = np.zeros(len(names))
    looked = list(zip(folds, found, strict=True))[: 1 if len(names) > MANY else FOLDS]
    for fold, (whole, _) in looked:
        order = np.random.default_rng(0).permutation(len(fold.rows))
        for place in range(len(names)):
            mixed = fold.rows.copy()
            mixed[:, place] = mixed[order, place]
            lost[place] += (whole - fold.auc(mixed)[0]) / len(looked)
    telling = [place for place in np.argsort(-lost, kind="stable")[:NAMED] if lost[place] > error]
    binning = "told by " + ", ".join(f"{names[place]} ({lost[place]:.3f})" for place in telling) if telling else ""
    drifted = auc >= AUC_THRESHOLD and p_value < ALPHA
    return DriftValue("", "classifier_auc", auc, AUC_THRESHOLD, p_value, drifted, len(now), binning)


def _fold(before: Floats, now: Floats, fold: int) -> _Fold:
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = np.concatenate([before, now])
    is_now = np.arange(len(rows)) >= len(before)
    held = np.concatenate([np.arange(len(before)), np.arange(len(now))]) % FOLDS == fold
    trees = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=8, early_stopping=False, random_state=0)
    return _Fold(trees.fit(rows[~held], is_now[~held]), rows[held], is_now[held])


def _rebuilt(before: Floats, now: Floats, windows: npt.NDArray[np.int64] | None) -> DriftValue:
    from scipy import stats

    errors, others = _errors(before, now)
    scale = max(float(errors.std()), 1e-9)
    shift = float(others.mean() - errors.mean()) / scale
    threshold = THRESHOLD
    if windows is not None:
        means = [errors[windows == each].mean() for each in np.unique(windows)]
        if len(means) >= LEAST_WINDOWS:
            threshold = max(threshold, 3 * float(np.std(means, ddof=1)) / scale)
    error = float(np.sqrt(errors.var(ddof=1) / len(errors) + others.var(ddof=1) / len(others))) / scale
    p_value = float(2 * stats.norm.sf(abs(shift) / error)) if error else float(shift == 0)
    drifted = abs(shift) >= threshold and p_value < ALPHA
    return DriftValue("", "pca_reconstruction", shift, threshold, p_value, drifted, len(now))


def _errors(before: Floats, now: Floats) -> tuple[Floats, Floats]:
    """The distances of rows from what the reference's components make of them: standardised, gaps at the mean.

    Each half of the reference is rebuilt by the other's components: by its own it would seem to fit better than any
    window can. A window's rows are rebuilt by both.
    """
    known = ~np.isnan(before)
    counts = np.maximum(known.sum(axis=0), 1)
    centre = np.where(known, before, 0.0).sum(axis=0) / counts
    spread = np.sqrt(np.where(known, (before - centre) ** 2, 0.0).sum(axis=0) / counts)
    spread = np.where(spread > 0, spread, 1.0)
    one, other = (np.nan_to_num((each - centre) / spread, nan=0.0) for each in (before, now))
    errors, others = np.zeros(len(one)), np.zeros(len(other))
    for half in (0, 1):
        errors[half::2] = _distances(one[1 - half :: 2], one[half::2])
        others += _distances(one[1 - half :: 2], other) / 2
    return errors, others


def _distances(known: Floats, rows: Floats) -> Floats:
    from sklearn.decomposition import PCA

    if not known.std(axis=0).any():
        return np.asarray(np.linalg.norm(rows - known[0], axis=1))
    components = PCA(EXPLAINED, svd_solver="full").fit(known)
    return np.asarray(np.linalg.norm(rows - components.inverse_transform(components.transform(rows)), axis=1))
