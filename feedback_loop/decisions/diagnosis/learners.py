"""What boosted trees expect of rows that they have not seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.decisions.diagnosis.comparison import FOLDS, Comparison, Ints, Mask
from feedback_loop.monitoring import Floats
from feedback_loop.monitoring.arrays import floats, frequencies

if TYPE_CHECKING:
    import pandas as pd

WORDS = 200
"""The most frequent words of a column are told apart, all others are one (the trees take 255)."""

TREES: dict[str, Any] = {"max_iter": 50, "max_leaf_nodes": 8, "min_samples_leaf": 40, "early_stopping": False}


def feature_frame(compared: Comparison) -> pd.DataFrame:
    """The features of all rows as trees take them: numbers, and words as categories."""
    import pandas as pd

    columns: dict[str, Any] = {"\0": np.zeros(compared.rows.num_rows)}  # tells nothing, where no other does
    for column in compared.features:
        values = compared.rows.column(column.stored)
        if column.type.is_numeric:
            numbers = floats(values)
            columns[column.stored] = np.where(np.isfinite(numbers), np.clip(numbers, -1e100, 1e100), np.nan)
        else:
            words = values.cast(pa.string())
            places = pc.index_in(words, pa.array(list(frequencies(words))[:WORDS], pa.string())).fill_null(WORDS)
            codes = np.where(pc.is_null(words).to_numpy(), -1, places.to_numpy())
            columns[column.stored] = pd.Categorical.from_codes(codes, range(WORDS + 1))
    return pd.DataFrame(columns)


def make_folds(compared: Comparison) -> Ints:
    """The fold of each row, whole windows of them where there are enough: rows of a window are alike."""
    random, windows = np.random.default_rng(compared.seed), compared.windows
    if windows is None:
        return random.permutation(compared.rows.num_rows) % FOLDS
    before, now = (np.unique(windows[side]) for side in (~compared.is_now, compared.is_now))
    fold_of: dict[int, int] = {}
    for own in (before, np.setdiff1d(now, before)):  # as many of either side in each fold
        fold_of |= dict(zip(own.tolist(), (random.permutation(len(own)) % FOLDS).tolist(), strict=True))
    return np.array([fold_of[window] for window in windows.tolist()], dtype=np.int64)


def learn_numbers(frame: pd.DataFrame, target: Floats, folds: Ints, seed: int, loss: str = "squared_error") -> Floats:
    """What trees that have not seen a row's fold expect of it."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    expected = np.zeros(len(target))
    for held_out, train, test in _folded(frame, folds):
        trees = HistGradientBoostingRegressor(loss=loss, random_state=seed, **TREES)
        expected[held_out] = trees.fit(train, target[~held_out]).predict(test)
    return expected


def learn_classes(frame: pd.DataFrame, target: npt.NDArray[np.generic], folds: Ints, seed: int) -> Floats:
    """The probability of each class (in the order of `np.unique`) by trees that have not seen a row's fold."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    classes = np.unique(target)
    expected = np.zeros((len(target), len(classes)))
    for held_out, train, test in _folded(frame, folds):
        trees = HistGradientBoostingClassifier(random_state=seed, **TREES).fit(train, target[~held_out])
        # All rows of a rare class may be held out at once: its probability stays 0 then.
        expected[np.ix_(held_out, np.searchsorted(classes, trees.classes_))] = trees.predict_proba(test)
    return expected


def _folded(frame: pd.DataFrame, folds: Ints) -> Iterator[tuple[Mask, pd.DataFrame, pd.DataFrame]]:
    """For each fold its mask, the rows to train on and those to predict; columns without any value to train on go."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # threads that wait for each other are slower on work as small as this
        for fold in np.unique(folds):
            held_out = folds == fold
            columns = frame.columns[frame[~held_out].notna().any()]
            yield held_out, frame.loc[~held_out, columns], frame.loc[held_out, columns]
