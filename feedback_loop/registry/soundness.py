"""What a file of skops may hold beside estimators: data of scikit-learn and SciPy, whose contents are checked.

None of these types runs code while it is loaded. But scikit-learn and SciPy read the numbers in them without looking
at bounds: wrong ones would read other memory. So each is checked before anybody asks the model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

DATA_TYPES = frozenset(
    {
        "functools.partial",  # of check_array, as histogram boosting has it: see below
        "numpy.dtype",
        "scipy._lib.array_api_compat.numpy._aliases.asarray",
        "scipy.interpolate._bsplines.BSpline",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
        "sklearn.utils.validation.check_array",
    }
)
"""What skops asks about that is neither an estimator nor a loss."""


def unsound(loaded: Any) -> str:
    """What in an object that was loaded is not as scikit-learn or SciPy would have made it; empty: nothing."""
    for part in _parts(loaded):
        try:
            cause = _cause(part)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            cause = f"a {type(part).__name__} that is not whole: {error}"
        if cause:
            return cause
    return ""


def _cause(part: Any) -> str:
    from scipy.interpolate import BSpline
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
    from sklearn.tree._tree import Tree

    by_type = {
        Tree: (_is_sound_tree, "a tree whose nodes lead out of it"),
        TreePredictor: (_is_sound_predictor, "a tree whose nodes lead out of it"),
        BSpline: (_is_sound_spline, "a spline whose knots don't fit its coefficients"),
        functools.partial: (_is_sound_partial, "a function with arguments of its own"),
    }
    is_sound, cause = by_type.get(type(part), (None, ""))
    if is_sound is not None:
        return "" if is_sound(part) else cause
    if hasattr(part, "tree_") and part.tree_.n_features != part.n_features_in_:
        return "a tree of other features than its estimator"
    if _members_differ(part):
        return "trees of other features than their ensemble"
    return _boosting_cause(part) if hasattr(part, "_predictors") else ""


def _is_sound_tree(tree: Any) -> bool:
    """Each node's children come after it, and it asks for a feature that there is."""
    count = tree.node_count
    if not 0 < count <= tree.capacity:
        return False
    left, right, feature = tree.children_left, tree.children_right, tree.feature
    is_inner = left != -1
    after = np.arange(count)[is_inner]
    children = (left[is_inner], right[is_inner])
    return all(bool(((child > after) & (child < count)).all()) for child in children) and bool(
        ((feature[is_inner] >= 0) & (feature[is_inner] < tree.n_features)).all()
    )


def _members_differ(part: Any) -> bool:
    members = getattr(part, "estimators_", ())
    members = members.ravel().tolist() if isinstance(members, np.ndarray) else members
    if not isinstance(members, list | tuple):
        return False
    trees = [member for member in members if hasattr(member, "tree_")]
    return any(tree.n_features_in_ != getattr(part, "n_features_in_", None) for tree in trees)


def _is_sound_predictor(predictor: Any) -> bool:
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE

    nodes = predictor.nodes
    sets = (predictor.raw_left_cat_bitsets, predictor.binned_left_cat_bitsets)
    if type(nodes) is not np.ndarray or nodes.dtype != PREDICTOR_RECORD_DTYPE or nodes.ndim != 1 or not len(nodes):
        return False
    if any(type(one) is not np.ndarray or one.dtype != np.uint32 or one.shape[1:] != (8,) for one in sets):
        return False
    is_inner = nodes["is_leaf"] == 0
    place, inner = np.arange(len(nodes))[is_inner], nodes[is_inner]
    by_set = inner["bitset_idx"][inner["is_categorical"] != 0]
    children = (inner["left"].astype(np.int64), inner["right"].astype(np.int64))
    return all(bool(((child > place) & (child < len(nodes))).all()) for child in children) and all(
        bool((by_set < len(one)).all()) for one in sets
    )


def _boosting_cause(model: Any) -> str:
    """Its trees' features are those that it takes, and what they take for categories are."""
    bins, features = model._bin_mapper, model.n_features_in_  # noqa: SLF001 (shown nowhere else)
    is_categorical = bins.is_categorical_
    if type(is_categorical) is not np.ndarray or is_categorical.shape != (features,):
        return "bins of other features than the boosting's"
    if len(bins.bin_thresholds_) != features or not _keeps_width(model._preprocessor, features):  # noqa: SLF001
        return "bins of other features than the boosting's"
    for predictor in (predictor for stage in model._predictors for predictor in stage):  # noqa: SLF001
        if not _is_sound_predictor(predictor):
            return "a tree whose nodes lead out of it"
        inner = predictor.nodes[predictor.nodes["is_leaf"] == 0]
        asked = inner["feature_idx"].astype(np.int64)
        if ((asked < 0) | (asked >= features)).any():
            return "a tree that asks for a feature that is not there"
        if (inner["is_categorical"].astype(bool) & ~is_categorical[asked].astype(bool)).any():
            return "a tree that takes a number for a category"
    return ""


def _keeps_width(preprocessor: Any, features: int) -> bool:
    """Whether what a boosting does with its rows first gives as many columns as it takes."""
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder

    if preprocessor is None:
        return True
    if type(preprocessor) is not ColumnTransformer or preprocessor.n_features_in_ != features:
        return False
    masks = np.zeros(features, dtype=np.int64)
    for _, part, mask in preprocessor.transformers_:
        if part == "drop" and not any(mask):
            continue  # of what is left over: nothing
        if type(part) not in (OrdinalEncoder, FunctionTransformer):
            return False
        if type(mask) is not np.ndarray or mask.dtype != bool or mask.shape != (features,):
            return False
        masks += mask
    return bool((masks == 1).all())


def _is_sound_spline(spline: Any) -> bool:
    from scipy.interpolate import BSpline, make_interp_spline

    usual = make_interp_spline([0.0, 1.0], [0.0, 1.0], k=1)
    parts = vars(spline)
    if set(parts) != set(vars(usual)) or parts["_asarray"] is not usual._asarray:  # noqa: SLF001
        return False
    if any(type(parts[name]) is not np.ndarray or parts[name].dtype != np.float64 for name in ("_t", "_c")):
        return False
    try:
        BSpline(spline.t, spline.c, spline.k, spline.extrapolate, spline.axis)
    except (TypeError, ValueError):
        return False
    return True


def _is_sound_partial(part: functools.partial[Any]) -> bool:
    from sklearn.utils import check_array

    usual = {"dtype": [np.float64], "ensure_all_finite": False}  # as histogram boosting makes it
    return part.func is check_array and not part.args and part.keywords == usual


def _parts(loaded: Any) -> Iterator[Any]:
    """Everything that an object is made of, once each."""
    waiting, seen = [loaded], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, Mapping):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple | set | frozenset):
            waiting += part
        elif isinstance(part, np.ndarray):
            waiting += part.ravel().tolist() if part.dtype == object else ()
        elif isinstance(part, functools.partial):
            waiting += [part.func, *part.args, *part.keywords.values()]
        if not isinstance(part, type) and hasattr(part, "__dict__"):
            waiting += vars(part).values()
