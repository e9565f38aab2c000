"""Drift of the joint distribution: how well a classifier tells rows of the window from those of the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.monitoring.arrays import Floats, floats, frequencies, texts
from feedback_loop.monitoring.drift import ALPHA, LEAST_ROWS
from feedback_loop.schema import ColumnType, Contract
from feedback_loop.store.evaluations import DriftValue

AUC_THRESHOLD = 0.65
"""An AUC from here on is drift: NannyML's default."""

FOLDS = 5

NAMED = 3
"""So many of the most important features are named."""

MANY = 100
"""With more features than this, each is permuted once only."""


def multivariate_values(contract: Contract, reference: pa.Table, current: pa.Table) -> tuple[DriftValue, ...]:
    """How well rows of the window are told from those of the reference.

    `classifier_auc` (Lopez-Paz and Oquab 2017; Rabanser et al. 2019): boosted trees learn to tell them apart; the AUC
    is that of rows that they have not seen (five folds), .5 where there is no difference. Drifted from .65 on, if
    chance shows it less than once in a hundred times (DeLong et al. 1988). `binning` names the most
    important features, with the loss of AUC when each is permuted.

    Features only; words by how often the reference has them. Nothing where either has fewer than 100 rows.
    """
    features = [
        feature
        for feature in contract.features
        if feature.type is not ColumnType.DATETIME and feature.stored in reference.column_names
    ]
    if min(reference.num_rows, current.num_rows) < LEAST_ROWS or not features:
        return ()
    encoded = [
        _encoded(reference.column(feature.stored), current.column(feature.stored), is_number=feature.type.is_numeric)
        for feature in features
    ]
    rows = np.column_stack([np.concatenate(pair) for pair in encoded])
    least = np.where(np.isnan(rows), np.inf, rows).min(axis=0)
    least = np.where(np.isfinite(least), least, 0.0)
    rows = np.where(np.isnan(rows), least - np.maximum(np.abs(least), 1.0), rows)  # missing: below all others
    is_now = np.arange(len(rows)) >= reference.num_rows
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # threads that wait for each other are slower on work as small as this
        return (_separation(rows, is_now, [feature.name for feature in features]),)


def _encoded(before: pa.ChunkedArray, now: pa.ChunkedArray, *, is_number: bool) -> tuple[Floats, Floats]:
    """Finite numbers, or the shares that words have in the reference; NaN for what is missing."""
    if is_number:
        limit = 1e100  # the middle of what is beyond would be beyond all doubles
        return np.clip(floats(before), -limit, limit), np.clip(floats(now), -limit, limit)
    counts = frequencies(texts(before))
    words = pa.array(list(counts), pa.string())
    shares = np.append(np.array([*counts.values()]) / max(len(before), 1), 0.0)
    encoded = []
    for column in map(texts, (before, now)):
        places = pc.index_in(column, words).fill_null(len(words)).to_numpy()
        encoded.append(np.where(pc.is_null(column).to_numpy(), np.nan, shares[places]))
    return encoded[0], encoded[1]


def _separation(rows: Floats, is_now: npt.NDArray[np.bool_], names: Sequence[str]) -> DriftValue:
    from scipy import stats
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    trees = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=8, early_stopping=False, random_state=0)
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(rows, is_now))
    scores = cross_val_predict(trees, rows, is_now, cv=folds, method="predict_proba")[:, 1]
    auc, error = _auc(scores[is_now], scores[~is_now])
    p_value = float(stats.norm.sf((auc - 0.5) / error)) if error else float(auc <= 0.5)
    train, test = folds[0]
    trees.fit(rows[train], is_now[train])
    repeats = 1 if len(names) > MANY else FOLDS
    lost = permutation_importance(
        trees, rows[test], is_now[test], scoring="roc_auc", n_repeats=repeats, random_state=0
    ).importances_mean
    important = [place for place in np.argsort(-lost, kind="stable")[:NAMED] if lost[place] > error]
    binning = (
        "told by " + ", ".join(f"{names[place]} ({lost[place]:.3f})" for place in important) if important else ""
    )
    drifted = auc >= AUC_THRESHOLD and p_value < ALPHA
    return DriftValue("", "classifier_auc", auc, AUC_THRESHOLD, p_value, drifted, int(is_now.sum()), binning)


def _auc(higher: Floats, lower: Floats) -> tuple[float, float]:
    """How often one of the first is above one of the second (ties count half), and its standard error (DeLong)."""

    def places(values: Floats, others: Floats) -> Floats:
        ordered = np.sort(others)
        below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
        return np.asarray(below / 2 / len(others))

    above, under = places(higher, lower), places(lower, higher)
    variance = above.var(ddof=1) / len(higher) + under.var(ddof=1) / len(lower)
    return float(above.mean()), float(np.sqrt(variance))
