"""Data of scikit-learn and SciPy in a file of skops: they run no code, and are read only within their bounds."""

import sys
from functools import cache, partial

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.preprocessing import FunctionTransformer, SplineTransformer
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import check_array

from benchmarks.pipelines import fitted, kinds
from feedback_loop.registry.sklearn_model import foreign_types
from feedback_loop.registry.soundness import DATA_TYPES, unsound

SEARCHED = {kind.name: kind for kind in kinds() if kind.name.startswith(("the search's", "average of three"))}


@cache
def kept(name):
    """A pipeline of that kind as skops keeps it, and what it asks to be trusted."""
    content = skops.io.dumps(fitted(SEARCHED[name])[0].estimator)
    return content, skops.io.get_untrusted_types(data=content)


@pytest.mark.parametrize("name", sorted(SEARCHED))
def test_what_a_search_makes_is_let_in(name):
    content, asked = kept(name)
    assert foreign_types(asked) == []
    assert unsound(skops.io.loads(content, trusted=asked)) == ""


WATCHED = []
"""Whether what Python audits is written down, and what was."""


@pytest.mark.parametrize("kind", sorted(DATA_TYPES))
def test_no_type_that_is_let_in_runs_code_while_it_is_loaded(kind):
    """Python audits what opens, starts, connects and executes. NumPy compiles each array's header, as a literal."""
    if not WATCHED:
        WATCHED.append([])
        sys.addaudithook(lambda event, _: WATCHED[0].append(event) if WATCHED[1:] else None)
    content, asked = kept("average of three kinds, binary")
    assert kind in {*asked, "numpy.dtype"}
    skops.io.loads(content, trusted=asked)  # what is imported is by now
    WATCHED[0].clear()
    WATCHED.append(True)
    skops.io.loads(content, trusted=asked)
    del WATCHED[1:]
    assert [event for event in WATCHED[0] if not event.startswith(("object.", "import", "compile"))] == []


def out_of_bounds(tree, field, value):
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    state["nodes"][field][0] = value
    tree.__setstate__(state)


def broken(what):
    """A model whose data would be read beyond their bounds, or that calls what is none of its business."""
    random = np.random.default_rng(0)
    rows = np.column_stack([random.normal(size=(300, 2)), random.integers(0, 5, 300)])
    label = (rows[:, 0] + random.normal(size=300) > 0).astype(int)
    kind, _, detail = what.partition(": ")
    if kind == "tree":
        model = DecisionTreeClassifier(max_depth=3).fit(rows, label)
        if detail == "features":
            model.n_features_in_ = 2
        else:
            field, value = detail.split("=")
            out_of_bounds(model.tree_, field, int(value))
    elif kind == "forest":
        model = ExtraTreesClassifier(3).fit(rows, label)
        model.estimators_[2] = DecisionTreeClassifier().fit(np.hstack([rows, rows]), label)
    elif kind == "boosting":
        model = HistGradientBoostingClassifier(max_iter=2, categorical_features=[2]).fit(rows, label)
        field, value = detail.split("=")
        if field == "is_categorical_":
            model._bin_mapper.is_categorical_ = model._bin_mapper.is_categorical_[:1]
        elif field == "raw_left_cat_bitsets":
            model._predictors[0][0].raw_left_cat_bitsets = np.zeros((0, 8), dtype=np.uint32)
            model._predictors[0][0].nodes["is_categorical"][0] = 1
        else:
            model._predictors[0][0].nodes[field][0] = int(value)
    elif kind == "preprocessor":
        model = HistGradientBoostingClassifier(max_iter=2, categorical_features=[2]).fit(rows, label)
        model._preprocessor.transformers_[1] = ("numerical", "drop", model._preprocessor.transformers_[1][2])
    elif kind == "spline":
        model = SplineTransformer(4).fit(rows)
        spline = model.bsplines_[0]
        spline.__dict__.update({"_c": spline.c[:2]} if detail == "coefficients" else {"_t": spline.t[::-1].copy()})
    else:
        model = FunctionTransformer(
            partial(np.asarray if kind == "function" else check_array, *[[1.0]][: kind == "arguments"])
        )
    return model


@pytest.mark.parametrize(
    "what",
    [
        "tree: left_child=10000",
        "tree: left_child=0",
        "tree: right_child=-7",
        "tree: feature=9",
        "tree: features",
        "forest",
        "boosting: left=10000",
        "boosting: left=0",
        "boosting: feature_idx=9",
        "boosting: is_categorical_=",
        "boosting: raw_left_cat_bitsets=",
        "preprocessor",
        "spline: coefficients",
        "spline: knots",
        "function",
        "arguments",
    ],
)
def test_data_that_would_be_read_beyond_their_bounds_are_refused_before_anybody_asks(what):
    content = skops.io.dumps(broken(what))
    asked = skops.io.get_untrusted_types(data=content)
    assert foreign_types(asked) or unsound(skops.io.loads(content, trusted=asked))


def run_by(content, asked):
    """What ran while a file was loaded, but for this process's own: imports, files, processes, connections."""
    import skops.io

    events = []
    watching = [True]
    sys.addaudithook(lambda event, arguments: events.append((event, arguments)) if watching[0] else None)
    skops.io.loads(content, trusted=asked)
    watching[0] = False
    harmless = ("object.", "import", "marshal.", "open", "compile", "exec", "os.listdir")
    return [event for event, _ in events if not event.startswith(harmless)]
