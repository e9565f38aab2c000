"""Parts of an estimator, and the words that they know: of encoders, and of boosting that takes pandas' categories."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from feedback_loop.schema import Column, ColumnType


def parts_of(estimator: Any) -> Iterator[Any]:
    """An estimator and all that it is made of."""
    waiting, visited = [estimator], set()
    while waiting:
        part = waiting.pop()
        if id(part) in visited:
            continue
        visited.add(id(part))
        yield part
        for name in ("steps", "transformers_", "estimators_"):
            parts = getattr(part, name, None)
            if isinstance(parts, list):
                waiting += [member[1] if isinstance(member, tuple) else member for member in parts]


def categories_of(estimator: Any, wanted: Callable[[Any], bool]) -> list[Any]:
    """The categories that the encoders within an estimator have learned, as far as they are wanted."""
    return [
        value
        for part in parts_of(estimator)
        for categories in getattr(part, "categories_", ())
        for value in np.asarray(categories).ravel().tolist()
        if wanted(value)
    ]


def pandas_categories(estimator: Any, features: Sequence[Column]) -> dict[str, list[Any]]:
    """The columns that LightGBM or XGBoost was fitted on as categories of pandas', with those that it knows.

    The log, a signature and JSON know no categories. Empty where no part of the estimator is of them and takes just
    these features, and with an XGBoost that is older than 3.1: a model of those does not tell them.
    """
    for part in parts_of(estimator):
        if getattr(part, "n_features_in_", None) == len(features) and (known := _known_categories(part, features)):
            return known
    return {}


def _known_categories(part: Any, features: Sequence[Column]) -> dict[str, list[Any]]:
    """The categories of each column of a fitted part that was such a column."""
    library, names = type(part).__module__.partition(".")[0], [column.name for column in features]
    if library == "lightgbm" and part.booster_.feature_name() == [name.replace(" ", "_") for name in names]:
        known = part.booster_.pandas_categorical or []
        columns = [features[place] for place in part.booster_.params.get("categorical_column", ())]
        words = [column for column in features if column.type is ColumnType.STRING]
        for some in (columns, words):  # ordered categories are not among the first
            if len(some) == len(known) and all(map(_are_of, known, some)):
                return {column.name: values for column, values in zip(some, known, strict=True)}
    if library == "xgboost" and part.get_booster().feature_names == names:
        ask = getattr(part.get_booster(), "get_categories", None)
        columns_known = ask(export_to_arrow=True).to_arrow() if ask is not None else ()
        return {name: values.to_pylist() for name, values in columns_known if values is not None}
    return {}


def _are_of(categories: Sequence[Any], column: Column) -> bool:
    """Whether a column can have these values: text or none."""
    return all(isinstance(value, str) == (column.type is ColumnType.STRING) for value in categories)
