"""A fitted pipeline in the words that converters know: same numbers, simpler parts."""

from __future__ import annotations

import copy
from typing import Any


def rewritten(estimator: Any) -> Any:
    """A copy in which a histogram boosting that takes the rows as they come has its own encoder as a step before."""
    from sklearn.pipeline import Pipeline

    if isinstance(estimator, Pipeline):
        steps = [(name, step) for name, step in estimator.steps if step is not None and step != "passthrough"]
        return Pipeline([(steps[0][0], rewritten(steps[0][1])), *steps[1:]])
    inner = getattr(estimator, "_preprocessor", None)
    if inner is None:
        return estimator
    bare = copy.copy(estimator)
    bare._preprocessor = None  # noqa: SLF001 (scikit-learn has no public word for it)
    bare.n_features_in_ = inner.n_features_in_
    return Pipeline([("columns", _by_place(inner)), ("model", bare)])


def _by_place(transformer: Any) -> Any:
    """The same column transformer with places where it has masks."""
    import numpy as np

    named = copy.copy(transformer)
    named.transformers_ = [
        (name, "passthrough" if name == "numerical" else part, np.flatnonzero(columns).tolist())
        for name, part, columns in transformer.transformers_
        if np.any(columns)
    ]
    return named
