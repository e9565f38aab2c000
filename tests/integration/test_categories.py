"""Boosting that was fitted on categories of pandas': which columns these are, and rows that come without them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from feedback_loop.inference import pandas_categories
from feedback_loop.inference.inputs import Inputs
from feedback_loop.schema import Column, ColumnType

COLUMNS = [Column("a word", ColumnType.STRING), Column("hour", ColumnType.LONG), Column("x", ColumnType.DOUBLE)]


def categories_fitted(boosting, *steps, **types):
    """What it is known to take as categories, and its answers as it was fitted and as a caller's rows come."""
    frame = pd.DataFrame(
        {"a word": ["ams", "ber"] * 100, "hour": [1, 2, 3, 5] * 50, "x": np.random.default_rng(0).normal(size=200)}
    )
    typed = frame.astype(types)
    model = make_pipeline(*steps, clone(boosting[1])).fit(typed, (frame["hour"] > 2) ^ (frame["a word"] == "ams"))
    categories = pandas_categories(model, COLUMNS)
    contract = SimpleNamespace(features=COLUMNS)
    asked = Inputs(categories=categories).of(pa.Table.from_pandas(frame), contract)
    return categories, model.predict_proba(typed), model.predict_proba(asked)


def test_numbers_that_are_categories_are_taken_as_such_and_words_that_are_encoded_are_not(boosting):
    known, fitted, asked = categories_fitted(boosting, **{"a word": "category", "hour": "category"})
    assert known == {"a word": ["ams", "ber"], "hour": [1, 2, 3, 5]}
    assert np.array_equal(fitted, asked)
    coded = ColumnTransformer(
        [("code", OrdinalEncoder(), ["a word"])], remainder="passthrough", verbose_feature_names_out=False
    ).set_output(transform="pandas")
    known, fitted, asked = categories_fitted(boosting, coded, hour="category")
    assert known == {"hour": [1, 2, 3, 5]}
    assert np.array_equal(fitted, asked)
    assert categories_fitted(boosting, coded)[0] == {}
