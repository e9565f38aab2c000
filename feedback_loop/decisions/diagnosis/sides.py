"""Two sides that a diagnosis compares, and what learners that have not seen a row say of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.monitoring import Floats, row_losses, window_numbers
from feedback_loop.monitoring.arrays import floats
from feedback_loop.monitoring.losses import class_places, class_probabilities
from feedback_loop.schema import Column, ColumnType, Contract, Task

FOLDS = 4

LEAST_WINDOWS = 2 * FOLDS
"""With so many windows on each side, those are the units: of errors, and of what a fold leaves out."""

WORDS = 200
"""The most frequent words of a column are told apart, all others are one (the trees take 255)."""

TIME = "predicted_at"

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Effect:
    """A difference of mean losses, with its standard error."""

    value: float
    error: float

    @property
    def is_sure(self) -> bool:
        """Whether it is above zero by three standard errors."""
        return self.value > 3 * self.error


@dataclass(frozen=True)
class Sides:
    """Labelled rows of the reference and then current ones, as one table (stored names)."""

    contract: Contract
    rows: pa.Table
    before: int  # so many are the reference's
    length: timedelta
    seed: int
    scale: float = 1.0  # of absolute errors

    @cached_property
    def is_now(self) -> Mask:
        """Which rows are current ones."""
        return np.arange(self.rows.num_rows) >= self.before

    @property
    def features(self) -> tuple[Column, ...]:
        """Those that are compared. A time is always another one later."""
        return tuple(each for each in self.contract.features if each.type is not ColumnType.DATETIME)

    @cached_property
    def windows(self) -> Ints | None:
        """The window of each row; None where there are too few of them to be units."""
        found = self.numbers(self.rows)
        counts = [len(np.unique(found[side])) for side in (self.is_now, ~self.is_now)]
        return found if min(counts) >= LEAST_WINDOWS else None

    def numbers(self, rows: pa.Table) -> Ints:
        """The number of the window that each row is in."""
        return window_numbers(rows.column(TIME), self.length)

    @cached_property
    def losses(self) -> Floats:
        """Brier's where there are probabilities, else the error; of numbers the absolute error in [0, 1]."""
        return losses_of(self.contract, self.rows, self.scale)

    @property
    def reference(self) -> pa.Table:
        """The reference's rows."""
        return self.rows.slice(0, self.before)

    @property
    def current(self) -> pa.Table:
        """The current rows."""
        return self.rows.slice(self.before)


def make_sides(contract: Contract, reference: pa.Table, current: pa.Table, *, length: timedelta, seed: int) -> Sides:
    """Both tables as one, of the columns that a diagnosis looks at.

    Absolute errors are measured by the reference's 99% quantile.
    """
    names = [each.stored for each in (*contract.features, *contract.outputs, contract.label)]
    before, now = (table.select([TIME, *names]) for table in (reference, current))
    scale = 1.0
    if contract.task is Task.REGRESSION:
        scale = float(np.quantile(row_losses(contract, before)[loss_name(contract)], 0.99)) or 1.0
    return Sides(contract, pa.concat_tables([before.cast(now.schema), now]), before.num_rows, length, seed, scale)


def loss_name(contract: Contract) -> str:
    """The loss that changes are told in."""
    if contract.task is Task.REGRESSION:
        return "absolute_error"
    return "brier" if contract.probabilities else "error"


def losses_of(contract: Contract, rows: pa.Table, scale: float) -> Floats:
    """The loss of each row, in [0, 1]."""
    return np.asarray(np.minimum(row_losses(contract, rows)[loss_name(contract)] / scale, 1.0))


def residuals_of(contract: Contract, rows: pa.Table, scale: float) -> Floats:
    """How far each outcome is from what was expected, with its sign; of several classes the loss."""
    label = rows.column(contract.label.stored)
    if contract.task is Task.REGRESSION:
        return np.clip((floats(label) - floats(rows.column(contract.outputs[0].stored))) / scale, -1, 1)
    if contract.task is Task.BINARY and contract.probabilities:
        return np.asarray((class_places(contract.classes, label) == 1) - class_probabilities(contract, rows)[:, 1])
    return losses_of(contract, rows, scale)


def mean_effect(values: Floats, windows: Ints | None = None) -> Effect:
    """A mean with its error, that between windows where they are given."""
    mean = float(values.mean())
    return Effect(mean, standard_error(values - mean, windows))


def mean_change(sides: Sides) -> Effect:
    """The change of the mean loss."""
    change, influence = influence_of_change(sides)
    return Effect(change, standard_error(influence, sides.windows))


def influence_of_change(sides: Sides) -> tuple[float, Floats]:
    """The change of the mean loss, and by how much each row moves it."""
    now, losses = sides.is_now, sides.losses
    share, before, after = now.mean(), losses[~now].mean(), losses[now].mean()
    return float(after - before), np.where(now, (losses - after) / share, (before - losses) / (1 - share))


def standard_error(influence: Floats, windows: Ints | None) -> float:
    """The standard error of a mean by its influences (cluster-robust: Cameron and Miller 2015, eq. 11)."""
    sums = influence if windows is None else np.bincount(np.unique(windows, return_inverse=True)[1], influence)
    return float(np.sqrt((sums**2).sum() * len(sums) / max(len(sums) - 1, 1))) / max(len(influence), 1)


@dataclass(frozen=True)
class Matrix:
    """Features as the trees take them, NaN where missing; `words` says which columns are codes of words."""

    values: Floats
    words: Mask

    def plus(self, values: Floats) -> Matrix:
        """The same with more columns of numbers."""
        columns = values[:, None] if values.ndim == 1 else values
        words = np.append(self.words, np.zeros(columns.shape[1], dtype=bool))
        return Matrix(np.column_stack([self.values, columns]), words)

    def only(self, rows: Mask) -> Matrix:
        """Some of the rows."""
        return Matrix(self.values[rows], self.words)


def encode(sides: Sides, without: str = "") -> Matrix:
    """The features of all rows (but one of them)."""
    columns = [each for each in sides.features if each.name != without]
    values = [_encoded(sides.rows.column(each.stored), is_number=each.type.is_numeric) for each in columns]
    is_word = np.array([not each.type.is_numeric for each in columns], dtype=bool)
    return Matrix(
        np.column_stack(values or [np.zeros(sides.rows.num_rows)]), is_word if values else np.zeros(1, bool)
    )


def _encoded(column: pa.ChunkedArray, *, is_number: bool) -> Floats:
    if is_number:
        values = floats(column)
        return np.where(np.isfinite(values), np.clip(values, -1e100, 1e100), np.nan)
    words = column.cast(pa.string())
    places = pc.index_in(words, pa.array(most_frequent(words, WORDS), pa.string())).fill_null(WORDS).to_numpy()
    return np.where(pc.is_null(words).to_numpy(), np.nan, places)


def most_frequent(words: pa.ChunkedArray, most: int) -> list[str]:
    """The most frequent words, those that are as frequent in the alphabet's order."""
    counted = pc.value_counts(words.drop_null()).to_pylist()
    return [each["values"] for each in sorted(counted, key=lambda each: (-each["counts"], each["values"]))[:most]]


def make_folds(sides: Sides) -> Ints:
    """The fold of each row, whole windows of them where there are enough: rows of a day know each other's weather."""
    random, windows = np.random.default_rng(sides.seed), sides.windows
    if windows is None:
        return random.permutation(sides.rows.num_rows) % FOLDS
    before, now = (np.unique(windows[side]) for side in (~sides.is_now, sides.is_now))
    fold_of: dict[int, int] = {}
    for known in (before, np.setdiff1d(now, before)):  # as many of either side in each fold
        fold_of |= dict(zip(known.tolist(), (random.permutation(len(known)) % FOLDS).tolist(), strict=True))
    return np.array([fold_of[each] for each in windows.tolist()], dtype=np.int64)


def learn_numbers(matrix: Matrix, target: Floats, folds: Ints, seed: int, loss: str = "squared_error") -> Floats:
    """What boosted trees that have not seen a row's fold expect of it."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    found = np.zeros(len(target))
    for held, (taught, asked), words in _folded(matrix, folds):
        trees = HistGradientBoostingRegressor(loss=loss, **_options(words, seed))
        found[held] = trees.fit(taught, target[~held]).predict(asked)
    return found


def learn_classes(matrix: Matrix, target: npt.NDArray[np.generic], folds: Ints, seed: int) -> Floats:
    """The probability of each class (in the order of `np.unique`) by trees that have not seen a row's fold."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    known = np.unique(target)
    found = np.zeros((len(target), len(known)))
    for held, (taught, asked), words in _folded(matrix, folds):
        trees = HistGradientBoostingClassifier(**_options(words, seed)).fit(taught, target[~held])
        # A fold may leave a rare class to the held rows alone: nothing is said of it then.
        found[np.ix_(held, np.searchsorted(known, trees.classes_))] = trees.predict_proba(asked)
    return found


def _options(words: Mask, seed: int) -> dict[str, Any]:
    return {
        "max_iter": 50,
        "max_leaf_nodes": 8,
        "min_samples_leaf": 40,
        "categorical_features": words,
        "early_stopping": False,
        "random_state": seed,
    }


def _folded(matrix: Matrix, folds: Ints) -> Iterator[tuple[Mask, tuple[Floats, Floats], Mask]]:
    """For each fold its rows, what is taught without them and what is asked of them: columns that say anything."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # threads that wait for each other are slower on work as small as this
        for fold in np.unique(folds):
            held = folds == fold
            known = ~np.isnan(matrix.values[~held]).all(axis=0)
            values = matrix.values[:, known]
            yield held, (values[~held], values[held]), matrix.words[known]
