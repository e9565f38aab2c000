"""Pipelines of scikit-learn of every kind that people put into a registry, fitted on a small made-up task."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feedback_loop.config import ModelSettings
from feedback_loop.registry import LoadedModel, ModelVersion
from feedback_loop.retraining.recipes import BOOSTING, LINEAR, TREES, Columns, recipe

NUMBERS, WORDS = ("n0", "n1", "n2", "n3"), ("w0", "w1")
ROWS = 500


@dataclass(frozen=True)
class Kind:
    """A kind of pipeline: how one is made, of which task it is, what is special about its rows."""

    name: str
    make: Callable[[], Any]
    task: str = "binary"  # binary | multiclass | regression | several (outputs)
    missing: bool = False
    text: bool = False
    more: tuple[str, ...] = ()


def kinds() -> list[Kind]:
    """All of them."""
    from sklearn import (
        calibration,
        discriminant_analysis,
        ensemble,
        linear_model,
        multioutput,
        naive_bayes,
        neighbors,
        neural_network,
        preprocessing,
        svm,
        tree,
    )
    from sklearn.pipeline import make_pipeline

    linear, trees, boosted = linear_model.LogisticRegression, ensemble.RandomForestClassifier, ensemble
    network = neural_network.MLPClassifier

    def of(estimator: Callable[[], Any], **columns: Any) -> Callable[[], Any]:
        return lambda: piped(estimator(), **columns)

    ordinal = {
        "words": preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
        "numbers": "passthrough",
    }
    return [
        Kind("logistic regression", of(linear)),
        Kind("logistic regression, 3 classes", of(linear), "multiclass"),
        Kind("gradient descent (SGD)", of(lambda: linear_model.SGDClassifier(loss="log_loss", random_state=0))),
        Kind("random forest", of(lambda: trees(60, random_state=0))),
        Kind("random forest, 3 classes", of(lambda: trees(30, max_depth=6, random_state=0)), "multiclass"),
        Kind("extra trees", of(lambda: ensemble.ExtraTreesClassifier(30, random_state=0))),
        Kind("decision tree", of(lambda: tree.DecisionTreeClassifier(random_state=0))),
        Kind("gradient boosting", of(lambda: boosted.GradientBoostingClassifier(random_state=0))),
        Kind(
            "gradient boosting, 3 classes",
            of(lambda: boosted.GradientBoostingClassifier(n_estimators=30, random_state=0)),
            "multiclass",
        ),
        Kind(
            "histogram boosting, missing values",
            of(lambda: boosted.HistGradientBoostingClassifier(random_state=0), **ordinal),
            missing=True,
        ),
        Kind(
            "histogram boosting, categorical splits",
            lambda: boosted.HistGradientBoostingClassifier(categorical_features=list(WORDS), random_state=0),
            missing=True,
        ),
        Kind("support vector machine (RBF)", of(svm.SVC)),
        Kind("support vector machine, 3 classes", of(svm.SVC), "multiclass"),
        Kind("linear support vector machine", of(lambda: svm.LinearSVC(random_state=0))),
        Kind("k nearest neighbours", of(neighbors.KNeighborsClassifier)),
        Kind("neural network (MLP)", of(lambda: network((16, 8), max_iter=60, random_state=0))),
        Kind("neural network, 3 classes", of(lambda: network((16,), max_iter=60, random_state=0)), "multiclass"),
        Kind("naive Bayes (Gaussian)", of(naive_bayes.GaussianNB)),
        Kind("linear discriminant analysis", of(discriminant_analysis.LinearDiscriminantAnalysis)),
        Kind("discriminant analysis, 3 classes", of(discriminant_analysis.LinearDiscriminantAnalysis), "multiclass"),
        Kind("calibrated logistic regression", of(lambda: calibration.CalibratedClassifierCV(linear()))),
        Kind("bagged trees", of(lambda: ensemble.BaggingClassifier(random_state=0))),
        Kind(
            "stacking",
            of(lambda: ensemble.StackingClassifier([("a", linear()), ("b", trees(10, random_state=0))])),
        ),
        Kind("AdaBoost", of(lambda: ensemble.AdaBoostClassifier(random_state=0))),
        Kind("ridge regression", of(linear_model.Ridge), "regression"),
        Kind("forest regression", of(lambda: ensemble.RandomForestRegressor(30, random_state=0)), "regression"),
        Kind(
            "histogram boosting regression (Poisson)",
            of(lambda: ensemble.HistGradientBoostingRegressor(loss="poisson", random_state=0), **ordinal),
            "regression",
            missing=True,
        ),
        Kind("support vector regression", of(svm.SVR), "regression"),
        Kind(
            "several outputs (ridge)", of(lambda: multioutput.MultiOutputRegressor(linear_model.Ridge())), "several"
        ),
        Kind("several outputs (forest)", of(lambda: ensemble.RandomForestRegressor(20, random_state=0)), "several"),
        Kind("text column (TF-IDF)", of(linear, text=True), text=True),
        Kind("missing values (imputed, indicated)", of(linear, impute=True), missing=True),
        Kind(
            "unknown categories refused",
            of(linear, words=preprocessing.OneHotEncoder(handle_unknown="error")),
        ),
        Kind(
            "rare categories together, first dropped",
            of(
                linear,
                words=preprocessing.OneHotEncoder(
                    handle_unknown="infrequent_if_exist", min_frequency=60, drop="first"
                ),
            ),
        ),
        Kind("scaled by quantiles (robust)", of(linear, numbers=preprocessing.RobustScaler())),
        Kind("power transformed", of(linear, numbers=preprocessing.PowerTransformer())),
        Kind(
            "products of columns (polynomials)",
            of(linear, numbers=make_pipeline(preprocessing.StandardScaler(), preprocessing.PolynomialFeatures(3))),
        ),
        Kind("columns in bins", of(linear, numbers=preprocessing.KBinsDiscretizer(5, strategy="uniform"))),
        Kind(
            "columns in bins, as numbers",
            of(linear, numbers=preprocessing.KBinsDiscretizer(5, encode="ordinal", strategy="kmeans")),
        ),
        *(
            Kind(f"the search's {kind}, {task}", partial(_searched, kind, task), task, missing=True)
            for kind in (BOOSTING, LINEAR, TREES)
            for task in ("binary", "regression")
        ),
        *(
            Kind(f"average of three kinds, {task}", partial(_average, task), task, missing=True)
            for task in ("binary", "multiclass", "regression")
        ),
    ]


_COLUMNS = Columns(WORDS, NUMBERS)


def _searched(kind: str, task: str) -> Any:
    return recipe(kind, _COLUMNS, classifies=task != "regression", seed=0)


def _average(task: str) -> Any:
    from sklearn.ensemble import VotingClassifier, VotingRegressor

    members = [(kind, _searched(kind, task)) for kind in (BOOSTING, LINEAR, TREES)]
    if task == "regression":
        return VotingRegressor(members)
    return VotingClassifier(members, voting="soft", flatten_transform=False)


def piped(estimator: Any, *, numbers: Any = None, words: Any = None, text: bool = False, impute: bool = False) -> Any:
    """A pipeline as people write them: columns by their kind, then the estimator."""
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numeric = StandardScaler() if numbers is None else numbers
    encoder = OneHotEncoder(handle_unknown="ignore") if words is None else words
    if impute:
        numeric = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), numeric)
        encoder = make_pipeline(SimpleImputer(strategy="most_frequent"), encoder)
    parts: list[Any] = [("numbers", numeric, list(NUMBERS)), ("words", encoder, list(WORDS))]
    if text:
        parts.append(("text", TfidfVectorizer(ngram_range=(1, 2)), "text"))
    dense = 0.0 if type(estimator).__name__ in ("HistGradientBoostingClassifier", "GaussianNB") else 0.3
    return make_pipeline(ColumnTransformer(parts, sparse_threshold=dense), estimator)


def made_up(kind: Kind, rows: int = ROWS, seed: int = 0) -> tuple[Any, Any]:
    """A frame of features and the outcomes, such as the kind wants them."""
    import pandas as pd

    random = np.random.default_rng(seed)
    frame = pd.DataFrame({name: random.normal(size=rows) * 10**place for place, name in enumerate(NUMBERS)})
    for name in WORDS:
        frame[name] = random.choice(["red", "green", "blue", "grey"], rows, p=[0.4, 0.3, 0.2, 0.1])
    score = frame["n0"] + frame["n1"] / 10 + (frame["w0"] == "red") + random.normal(size=rows) * 0.5
    if kind.text:
        pool = ["Good work", "bad, really BAD", "it is so-so", "good but late", "never ünder way"]
        frame["text"] = random.choice(pool, rows)
        score += frame["text"].str.contains("ood") * 1.0
    outcomes: Any = score.to_numpy()
    if kind.task in ("binary", "multiclass"):
        cuts = [0.5] if kind.task == "binary" else [-0.5, 1.0]
        outcomes = np.array(["low", "middle", "high"])[np.digitize(outcomes, cuts)]
    elif kind.task == "several":
        outcomes = np.column_stack([outcomes, -2 * outcomes])
    elif "Poisson" in kind.name:
        outcomes = np.exp(outcomes / 4)
    if kind.missing:
        frame.loc[::7, "n1"] = np.nan
        frame.loc[::11, "w1"] = None
    return frame, outcomes


def fitted(kind: Kind) -> tuple[LoadedModel, ModelSettings, pa.Table]:
    """A version of that kind as it would come from a registry, its settings, and rows that it had not seen."""
    frame, outcomes = made_up(kind)
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(1):  # small models; threads would only wait for each other
        warnings.simplefilter("ignore")  # a network that has not converged is as good an example
        model = kind.make().fit(frame, outcomes)
    is_number = kind.task in ("regression", "several")
    words = {*WORDS, "text"}
    inputs = [
        {"type": "string" if name in words else "double", "name": name, "required": True} for name in frame.columns
    ]
    outputs = [{"type": "double" if is_number else "string", "required": True}]
    loaded = LoadedModel(
        version=ModelVersion("made-up", "1", None, datetime(2026, 1, 1, tzinfo=UTC), (), {}),
        path=Path(),
        signature={"inputs": json.dumps(inputs), "outputs": json.dumps(outputs)},
        estimator=model,
        pyfunc=None,
        answers_with="predict",
        requirements=(),
    )
    task: Any = "regression" if is_number else kind.task
    held, _ = made_up(kind, 200, seed=1)
    return loaded, ModelSettings(task=task, label="y"), pa.Table.from_pandas(held, preserve_index=False)
