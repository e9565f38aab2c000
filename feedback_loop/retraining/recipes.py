"""Recipes: the few, different kinds of pipelines that a search fits, and the average of the best of them.

Which ones and with which parameters was measured once; they are not tuned to a model. Argmin over many trials on one
holdout picks the lucky one, the mean of a few different kinds does not (docs/retraining.md has the figures).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feedback_loop.retraining.column_types import unfitted
from feedback_loop.schema import ColumnType, Contract

OWN, BOOSTING, LINEAR, TREES = "own", "boosting", "linear", "trees"
KINDS = (OWN, BOOSTING, LINEAR, TREES)

RARE = 20
"""Categories of fewer rows are taken together."""

MOST_CODES = 254
"""Categories of a column that histogram boosting can tell apart, with one for the rest."""


@dataclass(frozen=True)
class Columns:
    """The features by what a recipe does with them: names, or places where the model takes an array."""

    words: tuple[Any, ...]
    numbers: tuple[Any, ...]

    @classmethod
    def of(cls, contract: Contract, *, array: bool, without: Sequence[str] = ()) -> Columns:
        """All features of a contract but those `without` which a recipe is to do."""
        words: list[Any] = []
        numbers: list[Any] = []
        for place, column in enumerate(contract.features):
            if column.name not in without:
                chosen = words if column.type is ColumnType.STRING else numbers
                chosen.append(place if array else column.name)
        return cls(tuple(words), tuple(numbers))


def kinds_after(contract: Contract, own: Any | None) -> tuple[tuple[str, ...], str]:
    """The kinds that can follow a champion, and why not all; `own` is its estimator, if that can be fitted again."""
    kinds, causes = set(KINDS), []
    if own is None:
        kinds -= {OWN}
        causes.append("none of its versions is a pipeline of scikit-learn's own, which could be fitted again")
    moments = [column.name for column in contract.features if column.type is ColumnType.DATETIME]
    if moments:
        causes.append(f"only the champion's own recipe takes {moments[0]!r}, a time")
    elif contract.task.is_classification and not contract.probabilities:
        causes.append("the champion tells no probabilities")
    if len(causes) > (own is None):
        kinds &= {OWN}
    return tuple(kind for kind in KINDS if kind in kinds), "; ".join(causes)


def recipe(kind: str, columns: Columns, *, classifies: bool, seed: int) -> Any:
    """An estimator of that kind (all but `own`), not fitted yet, that converts to ONNX and is kept without code."""
    make = {BOOSTING: _boosting, LINEAR: _linear, TREES: _trees}[kind]
    return make(columns, classifies, seed)


def with_parameters(kind: str, estimator: Any, parameters: Mapping[str, Any]) -> Any:
    """The estimator (a copy that is not fitted) with other parameters: of the champion's pipeline by their path
    (`step__name`), of the other kinds by their model's names.
    """
    if not parameters:
        return estimator
    return unfitted(estimator).set_params(**{path_of(kind, name): value for name, value in parameters.items()})


def path_of(kind: str, name: str) -> str:
    """Where a recipe of that kind has a parameter."""
    return name if kind == OWN else f"model__{name}"


def _boosting(columns: Columns, classifies: bool, seed: int) -> Any:
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.preprocessing import OrdinalEncoder

    encoder = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=np.nan,
        encoded_missing_value=np.nan,
        max_categories=MOST_CODES,
    )
    model = HistGradientBoostingClassifier if classifies else HistGradientBoostingRegressor
    boosting = model(
        max_leaf_nodes=7,
        learning_rate=0.05,
        max_iter=100,
        max_features=0.3,
        early_stopping=False,
        categorical_features=list(range(len(columns.words))) or None,
        random_state=seed,
    )
    return _piped(columns, encoder, "passthrough", boosting)


def _linear(columns: Columns, classifies: bool, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import SplineTransformer, StandardScaler

    splines = SplineTransformer(6, knots="quantile", extrapolation="constant", handle_missing="zeros")
    model = LogisticRegression(C=0.01, max_iter=500, random_state=seed) if classifies else Ridge()
    return _piped(columns, _one_hot(), make_pipeline(splines, StandardScaler()), model)


def _trees(columns: Columns, classifies: bool, seed: int) -> Any:
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
    from sklearn.impute import SimpleImputer

    model = ExtraTreesClassifier if classifies else ExtraTreesRegressor
    forest = model(n_estimators=50, min_samples_leaf=50, random_state=seed)
    return _piped(columns, _one_hot(), SimpleImputer(strategy="median"), forest)


def _one_hot() -> Any:
    from sklearn.preprocessing import OneHotEncoder

    return OneHotEncoder(min_frequency=RARE, handle_unknown="infrequent_if_exist")


def _piped(columns: Columns, words: Any, numbers: Any, model: Any) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    parts = [("words", words, list(columns.words)), ("numbers", numbers, list(columns.numbers))]
    chooser = ColumnTransformer([part for part in parts if part[2]], sparse_threshold=0.0)
    return Pipeline([("columns", chooser), ("model", model)])


def averaged(members: Mapping[str, Any]) -> Any:
    """The mean of what fitted estimators answer (probabilities of classes, which all know, or numbers).

    scikit-learn's own Voting estimators, whose fitted attributes are set: nothing is fitted again, and a clone of it
    learns as any other estimator does.
    """
    from sklearn.ensemble import VotingClassifier, VotingRegressor
    from sklearn.preprocessing import LabelEncoder
    from sklearn.utils import Bunch

    estimators, first = list(members.items()), next(iter(members.values()))
    if hasattr(first, "classes_"):
        average = VotingClassifier(estimators, voting="soft", flatten_transform=False)
        average.le_ = LabelEncoder().fit(first.classes_)
        average.classes_ = average.le_.classes_
    else:
        average = VotingRegressor(estimators)
    average.estimators_ = list(members.values())
    average.named_estimators_ = Bunch(**members)
    if hasattr(first, "feature_names_in_"):
        average.feature_names_in_ = first.feature_names_in_
    return average
