"""Converted pipelines of every kind answer as scikit-learn does, or are not used."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from benchmarks.pipelines import Kind, fitted, kinds, piped
from feedback_loop.errors import BadInput
from feedback_loop.inference import EngineOptions
from feedback_loop.inference.choosing import make_engine
from feedback_loop.inference.conversion import convert
from feedback_loop.inference.onnx import NUMBERS, SCORES, OnnxEngine
from feedback_loop.inference.providers import open_session
from feedback_loop.inference.proving import Limits, compare, prove
from feedback_loop.inference.scorer import contract_of
from feedback_loop.inference.trying import make_native
from feedback_loop.schema import Column, ColumnType
from tests.streams import examples

KINDS = {kind.name: kind for kind in kinds()}
NATIVE = {"AdaBoost"}
"""What skl2onnx computes in single precision, or not as scikit-learn does."""


def engines(kind):
    loaded, chosen, known = fitted(kind)
    contract = contract_of(loaded, chosen)
    made = make_engine(loaded, contract, chosen.inference, known, EngineOptions())
    native = make_native(loaded, contract)
    if made.content is None:
        return made, contract, native, None, known
    return made, contract, native, OnnxEngine(open_session(made.content, EngineOptions()), contract, made.form), known


@pytest.mark.parametrize("name", sorted(set(KINDS) - NATIVE))
def test_this_pipeline_is_served_by_onnx_and_answers_as_it_did(name):
    made, contract, native, converted, known = engines(KINDS[name])
    assert made.reason == ""
    assert made.proof.holds
    assert made.proof.max_difference < 1e-12
    theirs, ours = native.score(known), converted.score(known)
    assert ours.outputs.schema == theirs.outputs.schema
    assert compare(contract, theirs, ours)[0] == 0
    assert np.shape(ours.answers) == np.shape(theirs.answers)


@pytest.mark.parametrize("name", sorted(NATIVE))
def test_what_has_no_proven_form_says_why_and_stays_as_it_is(name):
    made, _, _, converted, _ = engines(KINDS[name])
    assert converted is None
    assert made.reason.startswith(("the proof fails", "it can't be converted", "ONNX Runtime refuses"))


def test_powers_that_are_logarithms_are_converted_as_such():
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PowerTransformer

    rows = np.random.default_rng(0).normal(size=(200, 3))
    model = make_pipeline(PowerTransformer(), LinearRegression()).fit(rows, rows.sum(axis=1))
    model[0].lambdas_[:] = [0.0, 2.0, -1.3]
    made = convert(model, [Column(name, ColumnType.DOUBLE) for name in "abc"])
    (answers,) = open_session(made.content, EngineOptions()).run([SCORES], {NUMBERS: rows})
    assert np.allclose(answers.ravel(), model.predict(rows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("degree", [1, 3])
@pytest.mark.parametrize("include_bias", [True, False])
@pytest.mark.parametrize("columns", [[0], [1], [2], [0, 1, 2, 3]])
def test_beyond_what_they_saw_splines_go_on_as_scikit_learn_has_them(columns, include_bias, degree):
    """Where most values are the lowest or the highest (rain, visibility), their knots are the same."""
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import SplineTransformer

    random = np.random.default_rng(0)
    lowest, highest = random.normal(size=(2, 400))
    lowest[:300], highest[100:] = lowest.min(), highest.max()
    rows = np.column_stack([lowest, highest, np.full(400, 2.0), random.normal(size=400)])[:, columns]
    splines = SplineTransformer(6, degree=degree, knots="quantile", include_bias=include_bias)
    model = make_pipeline(splines, LinearRegression()).fit(rows, random.normal(size=400))
    made = convert(model, [Column(name, ColumnType.DOUBLE) for name in "abcd"[: len(columns)]])
    asked = np.vstack([rows, *(random.permuted(rows + shift, axis=0) for shift in (-9, -1e-9, 1e-9, 9))])
    (answers,) = open_session(made.content, EngineOptions()).run([SCORES], {NUMBERS: asked})
    assert np.allclose(answers.ravel(), model.predict(asked), rtol=1e-9, atol=1e-9)


def test_a_category_that_the_encoder_refuses_is_refused_by_its_row():
    _, _, native, converted, known = engines(KINDS["unknown categories refused"])
    words = known.column("w0").to_pylist()
    words[3] = "mauve"
    rows = known.set_column(known.column_names.index("w0"), "w0", pa.array(words))
    with pytest.raises(BadInput, match="unknown categories"):
        native.score(rows)
    with pytest.raises(BadInput, match="row 3: holds a category that the model does not know"):
        converted.score(rows)


def test_a_conversion_that_answers_otherwise_is_found_out():
    """Forests in single precision, as skl2onnx converts them by itself, are what the proof is there for."""
    _, contract, native, converted, known = engines(KINDS["random forest"])

    class Off:
        def score(self, features):
            scored = converted.score(features)
            moved = [value + 3e-3 for value in scored.outputs.column("probability").to_pylist()]
            outputs = scored.outputs.set_column(1, "probability", pa.array(moved))
            return type(scored)(contract, scored.answers, outputs.columns)

    found = prove(native, Off(), contract, {"reference": known}, Limits(1e-6))
    assert not found.holds
    assert "differ by up to 0.003" in found.reason


def estimators():
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    return st.one_of(
        st.builds(lambda c: LogisticRegression(C=c), st.floats(0.01, 10)),
        st.builds(
            lambda n, d: RandomForestClassifier(n, max_depth=d, random_state=0), st.integers(1, 8), st.integers(1, 9)
        ),
        st.builds(lambda n: GradientBoostingClassifier(n_estimators=n, random_state=0), st.integers(1, 12)),
        st.builds(lambda d: DecisionTreeClassifier(max_depth=d, random_state=0), st.none() | st.integers(1, 4)),
    )


def scalers():
    from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

    return st.sampled_from([StandardScaler(), MinMaxScaler(), MaxAbsScaler(), RobustScaler(), "passthrough"])


NUMBER = st.floats(-1e9, 1e9) | st.sampled_from([0.0, -0.0, 1e-300, 5e-324, 3e38])
WORD = st.sampled_from(["red", "blue", "", "ré\u0301d", "☂"]) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=5
)


@examples(5, suppress_health_check=[HealthCheck.too_slow])
@given(
    estimators(), scalers(), st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER, WORD, WORD), min_size=1, max_size=20)
)
def test_any_pipeline_on_any_rows_answers_the_same(estimator, scaler, rows):
    kind = Kind("any", lambda: piped(estimator, numbers=scaler))
    made, contract, native, converted, known = engines(kind)
    assert made.reason == ""
    table = pa.table([pa.array(column) for column in zip(*rows, strict=True)], names=known.column_names)
    found = prove(native, converted, contract, {"any": table}, Limits(1e-9))
    assert found.reason == ""


def test_columns_of_every_type_reach_the_converted_model_as_they_reach_the_original():
    """Booleans, integers (with gaps) and words, some encoded and some taken as numbers."""
    import json
    from datetime import UTC, datetime
    from pathlib import Path

    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    from feedback_loop.config import ModelSettings
    from feedback_loop.registry import LoadedModel, ModelVersion

    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "is_new": random.random(300) < 0.5,
            "store": random.integers(1, 6, 300),
            "count": random.integers(0, 50, 300).astype(np.int32),
            "price": random.normal(size=300).astype(np.float32),
            "plan": random.choice(["a", "b"], 300),
        }
    )
    truth = (frame["is_new"] ^ (frame["store"] > 3) ^ (frame["price"] > 0)).astype(bool).to_numpy()
    types = ["boolean", "long", "integer", "float", "string"]
    inputs = [{"type": kind, "name": name, "required": True} for kind, name in zip(types, frame, strict=True)]
    encoded = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["store", "plan", "is_new"]), (StandardScaler(), ["count", "price"])
    )
    taken = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["plan"]), remainder="passthrough")
    for pipeline in (
        make_pipeline(encoded, LogisticRegression()),
        make_pipeline(taken, HistGradientBoostingClassifier(max_iter=10)),
    ):
        loaded = LoadedModel(
            version=ModelVersion("m", "1", None, datetime(2026, 1, 1, tzinfo=UTC), (), {}),
            path=Path(),
            signature={"inputs": json.dumps(inputs), "outputs": json.dumps([{"type": "boolean", "required": True}])},
            estimator=pipeline.fit(frame, truth),
            pyfunc=None,
            answers_with="predict_proba",
            requirements=(),
        )
        wanted = ModelSettings(task="binary", label="y")
        known = pa.Table.from_pandas(frame, preserve_index=False)
        made = make_engine(loaded, contract_of(loaded, wanted), wanted.inference, known, EngineOptions())
        assert made.reason == ""
        assert made.proof.max_difference < 1e-12
