"""Figures that gates rest on: inputs shuffled, calibration with its error between days, single features' shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feedback_loop.monitoring import Floats
from feedback_loop.monitoring.arrays import floats
from feedback_loop.monitoring.losses import class_places, class_probabilities
from feedback_loop.retraining.dataset import TrainingRows
from feedback_loop.schema import ColumnType, Contract, Task

TREE_ROWS = 20_000
"""The newest rows that a single feature's tree learns from, and as many that it is tried on."""

ERRORS = 3.0
"""So many standard errors between days are chance."""

CLIP = 1e-4
"""Probabilities are kept from 0 and 1 by this, for their logits."""


def shuffled(rows: TrainingRows, column: str) -> TrainingRows:
    """Rows with one column's values in another order, always the same one."""
    order = np.random.default_rng(0).permutation(len(rows))
    place = rows.table.column_names.index(column)
    return replace(rows, table=rows.table.set_column(place, column, rows.table.column(column).take(pa.array(order))))


def calibration_errors(
    contract: Contract, scored: pa.Table, times: npt.NDArray[np.datetime64]
) -> dict[str, tuple[float, float]]:
    """By name how far outcomes are from the answers in mean and in slope, each with how far they may be by chance.

    Of classes one against the rest, on the logit; of a regression in units of the outcome's deviation. The slope is
    that of one Newton step from 1 (Cox 1958, logistic recalibration). By chance: three standard errors between days,
    as many as Student's t asks for where days are few. Empty without probabilities.
    """
    if contract.task is Task.REGRESSION:
        outcome = floats(scored.column(contract.label.stored))
        spread = float(outcome.std()) or 1.0
        answers = floats(scored.column(contract.outputs[0].stored)) / spread
        residual = outcome / spread - answers
        return _moments("", answers, residual, np.ones(len(answers)), times)
    if not contract.probabilities:
        return {}
    places = class_places(contract.classes, scored.column(contract.label.stored))
    errors: dict[str, tuple[float, float]] = {}
    for place, (label, answered) in enumerate(
        zip(contract.classes, class_probabilities(contract, scored).T, strict=True)
    ):
        if contract.task is Task.BINARY and label != contract.positive:
            continue
        chances = np.clip(answered, CLIP, 1 - CLIP)
        logits, residual = np.log(chances / (1 - chances)), (places == place) - chances
        suffix = "" if contract.task is Task.BINARY else f" of {label}"
        errors |= _moments(suffix, logits, residual, chances * (1 - chances), times)
    return errors


def _moments(
    suffix: str, answers: Floats, residual: Floats, weights: Floats, times: npt.NDArray[np.datetime64]
) -> dict[str, tuple[float, float]]:
    """The mean residual, and its slope on the (centred) answers, with what chance makes of sums of whole days."""
    from scipy import special

    centred = answers - np.average(answers, weights=weights)
    parts = {"mean": (residual, float(len(residual))), "slope": (residual * centred, float(weights @ centred**2))}
    days, place = np.unique(times.astype("datetime64[D]"), return_inverse=True)
    result = {}
    for name, (values, scale) in parts.items():
        if scale <= 0 or len(days) < 3:
            continue
        sums = np.bincount(place, weights=values - values.mean())
        error = float(np.sqrt((sums**2).sum() * len(days) / (len(days) - 1)) / scale)
        chance = float(special.stdtrit(len(days) - 1, special.ndtr(ERRORS))) * error
        result[f"{name}{suffix}"] = float(values.sum() / scale), chance
    return result


def explained_by(learn: TrainingRows, holdout: TrainingRows, contract: Contract) -> dict[str, float]:
    """Which share of the outcome's variance on held-out rows a small tree on each feature alone explains (R²)."""
    from sklearn.tree import DecisionTreeRegressor

    size = min(len(learn), TREE_ROWS)
    learn = replace(learn, table=learn.table.slice(len(learn) - size))
    holdout = replace(holdout, table=holdout.table.slice(0, TREE_ROWS))
    target, wanted = _target(learn, contract), _target(holdout, contract)
    total = float(((wanted - target.mean(axis=0)) ** 2).sum())
    shares: dict[str, float] = {}
    for column in contract.features if total > 0 else ():
        columns = [rows.table.column(column.name) for rows in (learn, holdout)]
        known, asked = map(_by_frequency(columns[0]) if column.type is ColumnType.STRING else _numbers, columns)
        tree = DecisionTreeRegressor(max_leaf_nodes=64, min_samples_leaf=max(20, size // 500), random_state=0)
        answers = np.reshape(tree.fit(known, target).predict(asked), wanted.shape)
        shares[column.name] = 1 - float(((wanted - answers) ** 2).sum()) / total
    return shares


def _target(rows: TrainingRows, contract: Contract) -> Floats:
    """The outcome as numbers, of shape (rows, 1), or one column per class."""
    label = rows.table.column(contract.label.name)
    if contract.task is Task.REGRESSION:
        return floats(label)[:, None]
    places = class_places(contract.classes, label)
    return np.asarray(places[:, None] == np.arange(len(contract.classes)), dtype=np.float64)


def _numbers(column: pa.ChunkedArray) -> Floats:
    return floats(column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column)[:, None]


def _by_frequency(learned: pa.ChunkedArray) -> Callable[[pa.ChunkedArray], Floats]:
    """Codes categories by their place among the most frequent that were learned; all others come last."""
    counts = Counter(learned.to_pylist())
    order = {value: place for place, (value, _) in enumerate(counts.most_common())}
    return lambda column: np.array([[float(order.get(value, len(order)))] for value in column.to_pylist()])
