"""An estimator made smaller: trees dropped, branches merged, coefficients and weights to zero."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

KEPT = (0.75, 0.5, 0.3, 0.2, 0.1)
"""The shares of trees, stages, coefficients or weights that are tried."""

FEWEST_ROWS = (0, 5, 20, 50)
"""A branch that fewer training rows went through is merged (0: only those whose leaves say the same)."""


@dataclass(frozen=True)
class Variant:
    """One way to make a model smaller; `make` gives the smaller estimator, which is scikit-learn's still."""

    name: str
    make: Callable[[], Any]


def variants(estimator: Any) -> tuple[list[Variant], str]:
    """What can be tried with an estimator; or nothing, and why."""
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    found = [Variant(name, partial(_with_last, estimator, make)) for name, make in _ways(last)]
    kind = type(last).__name__
    return found, "" if found else f"{kind} has no trees, coefficients or layers of which some could be left out"


def _ways(last: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    from sklearn import ensemble, linear_model, neural_network, tree

    forests = (
        ensemble.RandomForestClassifier,
        ensemble.RandomForestRegressor,
        ensemble.ExtraTreesClassifier,
        ensemble.ExtraTreesRegressor,
    )
    boosted = (ensemble.GradientBoostingClassifier, ensemble.GradientBoostingRegressor)
    histograms = (ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor)
    trees = (tree.DecisionTreeClassifier, tree.DecisionTreeRegressor)
    if isinstance(last, forests):
        yield from _fewer(last, "trees", len(last.estimators_), _fewer_trees)
        yield from ((_merged_name(rows), partial(_merged_forest, last, rows)) for rows in FEWEST_ROWS)
        yield "50% of the trees, " + _merged_name(20), lambda: _merged_forest(_half(last), 20)
    elif isinstance(last, boosted):
        yield from _fewer(last, "stages", len(last.estimators_), _fewer_stages)
    elif isinstance(last, histograms):
        yield from _fewer(last, "stages", len(last._predictors), _fewer_predictors)  # noqa: SLF001
    elif isinstance(last, trees):
        yield from ((_merged_name(rows), partial(_merged_tree, last, rows)) for rows in FEWEST_ROWS)
    elif isinstance(last, linear_model.LogisticRegression | linear_model.Ridge | linear_model.SGDClassifier):
        yield from ((f"{kept:.0%} of the coefficients", partial(_fewer_coefficients, last, kept)) for kept in KEPT)
    elif isinstance(last, neural_network.MLPClassifier | neural_network.MLPRegressor):
        yield from ((f"{kept:.0%} of the weights", partial(_fewer_weights, last, kept)) for kept in KEPT)


def _with_last(estimator: Any, make: Callable[[], Any]) -> Any:
    last = make()
    if not hasattr(estimator, "steps"):
        return last
    shorter = copy.copy(estimator)
    shorter.steps = [*estimator.steps[:-1], (estimator.steps[-1][0], last)]
    return shorter


def _fewer(
    last: Any, what: str, count: int, make: Callable[[Any, int], Any]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    for kept in dict.fromkeys(max(round(count * share), 1) for share in KEPT):
        if kept < count:
            yield f"{kept} of {count} {what}", partial(make, last, kept)


def _fewer_trees(forest: Any, kept: int) -> Any:
    fewer = copy.copy(forest)
    fewer.estimators_, fewer.n_estimators = forest.estimators_[:kept], kept
    return fewer


def _fewer_stages(boosting: Any, kept: int) -> Any:
    fewer = copy.copy(boosting)
    fewer.estimators_, fewer.n_estimators, fewer.n_estimators_ = boosting.estimators_[:kept], kept, kept
    return fewer


def _fewer_predictors(boosting: Any, kept: int) -> Any:
    fewer = copy.copy(boosting)
    fewer._predictors, fewer.max_iter = boosting._predictors[:kept], kept  # noqa: SLF001
    return fewer


def _half(forest: Any) -> Any:
    return _fewer_trees(forest, max(len(forest.estimators_) // 2, 1))


def _merged_name(rows: int) -> str:
    return f"branches below {rows} rows merged" if rows else "branches that say the same merged"


def _merged_forest(forest: Any, rows: int) -> Any:
    merged = copy.copy(forest)
    merged.estimators_ = [_merged_tree(each, rows) for each in forest.estimators_]
    return merged


def _merged_tree(estimator: Any, rows: int) -> Any:
    merged = copy.deepcopy(estimator)
    tree = merged.tree_
    # A node's children come after it: from the last to the first, what is below a node is done before it.
    for node in range(tree.node_count - 1, -1, -1):
        left, right = tree.children_left[node], tree.children_right[node]
        if left < 0 or tree.children_left[left] >= 0 or tree.children_left[right] >= 0:
            continue
        same = np.array_equal(tree.value[left], tree.value[right])
        if same or tree.n_node_samples[node] < rows:
            tree.children_left[node] = tree.children_right[node] = -1
    return merged


def _fewer_coefficients(model: Any, kept: float) -> Any:
    fewer = copy.copy(model)
    fewer.coef_ = _smallest_zero(np.asarray(model.coef_), kept)
    return fewer


def _fewer_weights(network: Any, kept: float) -> Any:
    fewer = copy.copy(network)
    fewer.coefs_ = [_smallest_zero(weights, kept) for weights in network.coefs_]
    return fewer


def _smallest_zero(values: np.ndarray[Any, Any], kept: float) -> np.ndarray[Any, Any]:
    limit = np.quantile(np.abs(values), 1 - kept)
    return np.where(np.abs(values) >= limit, values, 0.0)
