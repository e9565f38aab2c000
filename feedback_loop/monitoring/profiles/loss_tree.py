"""A tree that groups the rows of a regression by their expected loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from feedback_loop.monitoring.arrays import Floats, Ints

LEAST_LEAF, MOST_LEAVES = 20, 256
"""The least rows of the reference in a leaf, and the most leaves."""

MOST_ERROR = 1e75
"""The fourth power of a greater error overflows."""


@dataclass(frozen=True)
class LossTree:
    """Node i compares the slot of column `columns[i]` with `cuts[i]`: up to it `below[i]` is next, else `above[i]`.

    At a leaf the column is -1. A leaf has the number of the reference's rows in it, their effective sample size
    (Kish 1965), and the means of |e|, e² and e⁴; of inner nodes these are 0.
    """

    columns: tuple[int, ...]
    cuts: tuple[float, ...]
    below: tuple[int, ...]
    above: tuple[int, ...]
    rows: tuple[int, ...]
    effective: tuple[float, ...]
    absolute: tuple[float, ...]
    squared: tuple[float, ...]
    fourth: tuple[float, ...]

    def leaves(self, slots: Callable[[int], Ints], count: int) -> Ints:
        """The leaf that each of so many rows comes to; `slots` gives their slots of a column by its place."""
        columns, cuts, below, above = (
            np.asarray(field) for field in (self.columns, self.cuts, self.below, self.above)
        )
        used = sorted({column for column in self.columns if column >= 0})
        table = np.zeros((count, max(len(used), 1)), np.int64)
        for place, column in enumerate(used):
            table[:, place] = slots(column)
        where = np.searchsorted(used, columns)
        nodes, moving = np.zeros(count, np.int64), np.arange(count)
        while len(moving := moving[columns[nodes[moving]] >= 0]):
            at = nodes[moving]
            nodes[moving] = np.where(table[moving, where[at]] <= cuts[at], below[at], above[at])
        return nodes


def grow(codes: Ints, errors: Floats, weights: Floats) -> LossTree | None:
    """The tree of rows by their slots (rows, columns); None where too few of their errors are numbers to count with.

    It is grown for |e| and e² together (each by its spread), by scikit-learn.
    """
    from sklearn.tree import DecisionTreeRegressor

    usable = np.abs(errors) < MOST_ERROR
    codes, errors, weights = codes[usable], errors[usable], weights[usable]
    if len(codes) < 2 * LEAST_LEAF:
        return None
    losses = np.column_stack([np.abs(errors), errors**2, errors**4])
    least = max(LEAST_LEAF, -(-len(codes) // MOST_LEAVES))
    spread = losses[:, :2].std(axis=0)
    scaled = losses[:, :2] / np.where(spread > 0, spread, 1.0)
    fitted = DecisionTreeRegressor(min_samples_leaf=least, random_state=0).fit(codes, scaled, sample_weight=weights)
    tree = fitted.tree_
    at = fitted.apply(codes)
    counts, whole, squares = (np.bincount(at, of_rows, tree.node_count) for of_rows in (None, weights, weights**2))
    means = [np.bincount(at, weights * loss, tree.node_count) / np.maximum(whole, 1e-300) for loss in losses.T]
    effective = whole**2 / np.where(squares > 0, squares, 1.0)
    return LossTree(
        columns=tuple(np.maximum(tree.feature, -1).tolist()),
        cuts=tuple(tree.threshold.tolist()),
        below=tuple(tree.children_left.tolist()),
        above=tuple(tree.children_right.tolist()),
        rows=tuple(int(count) for count in counts),
        effective=tuple(effective.tolist()),
        absolute=tuple(means[0].tolist()),
        squared=tuple(means[1].tolist()),
        fourth=tuple(means[2].tolist()),
    )
