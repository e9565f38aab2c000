"""A fitted pipeline in the words that converters know: same numbers, simpler parts."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np


def rewritten(estimator: Any) -> Any:
    """A copy in which a histogram boosting that takes the rows as they come has its own encoder as a step before."""
    from sklearn.pipeline import Pipeline

    if isinstance(estimator, Pipeline):
        steps = [(name, step) for name, step in estimator.steps if step is not None and step != "passthrough"]
        name, last = steps[-1]
        steps[-1] = (name, _as_linear(last))
        return Pipeline([(steps[0][0], rewritten(steps[0][1])), *steps[1:]])
    estimator = _as_linear(estimator)
    inner = getattr(estimator, "_preprocessor", None)
    if inner is None:
        return estimator
    bare = copy.copy(estimator)
    bare._preprocessor = None  # noqa: SLF001 (scikit-learn has no public word for it)
    bare.n_features_in_ = inner.n_features_in_
    return Pipeline([("columns", _by_place(inner)), ("model", bare)])


def without_lowering(model: Any) -> tuple[Any, tuple[str, ...]]:
    """The pipeline with vectorizers that take text as it comes, and the columns that are to be lowered before.

    ONNX's own lowering needs a locale to be installed, and knows letters one by one only (İ).
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.pipeline import Pipeline

    if not isinstance(model, Pipeline) or not isinstance(model.steps[0][1], ColumnTransformer):
        return model, ()
    chooser = copy.copy(model.steps[0][1])
    lowered, kept, parts = [], [], []
    for name, part, columns in chooser.transformers_:
        if isinstance(part, CountVectorizer) and part.lowercase and isinstance(columns, str):
            part = copy.copy(part)  # noqa: PLW2901 (the part in its other form)
            part.lowercase = False
            lowered.append(columns)
        elif part != "drop":
            kept += [columns] if isinstance(columns, str) else list(columns)
        parts.append((name, part, columns))
    if not lowered or set(lowered) & set(kept):
        return model, ()
    chooser.transformers_ = parts
    return Pipeline([(model.steps[0][0], chooser), *model.steps[1:]]), tuple(lowered)


def _as_linear(estimator: Any) -> Any:
    """A linear classifier as the one with the same coefficients that skl2onnx converts as scikit-learn means it.

    It can't leave a LinearSVC's scores as plain numbers, and takes the classes of a discriminant analysis one by one,
    whose probabilities are the logistic function of its scores (of more than two classes their softmax).
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.svm import LinearSVC

    if isinstance(estimator, LinearDiscriminantAnalysis):
        same = LogisticRegression()
    elif isinstance(estimator, LinearSVC):
        same = SGDClassifier(loss="hinge")
    else:
        return estimator
    same.coef_, same.classes_ = estimator.coef_, estimator.classes_
    same.intercept_ = np.broadcast_to(estimator.intercept_, len(estimator.coef_))
    same.n_features_in_ = estimator.n_features_in_
    return same


def _by_place(transformer: Any) -> Any:
    """The same column transformer with places where it has masks."""
    named = copy.copy(transformer)
    named.transformers_ = [
        (name, "passthrough" if name == "numerical" else part, np.flatnonzero(columns).tolist())
        for name, part, columns in transformer.transformers_
        if np.any(columns)
    ]
    return named
