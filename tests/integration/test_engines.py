"""Engines over real models, of every task and of every way that MLflow loads one."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from feedback_loop.config import ModelSettings
from feedback_loop.errors import BadInput, ContractError
from feedback_loop.inference import PyfuncEngine, SklearnEngine, make_scorer
from feedback_loop.registry import Reference, Registry
from feedback_loop.schema.protocol import make_decoder
from tests.builders import churn_pipeline, customers

NOW = datetime(2026, 3, 1, tzinfo=UTC)
RANDOM = np.random.default_rng(0)


@pytest.fixture
def scorer(registry: Registry, tmp_path: Path):
    """Saves a model as MLflow would, adopts it and wraps it."""

    def scorer(model, example, settings, *, flavor="sklearn", **options):
        import mlflow
        from mlflow.models import infer_signature

        path = tmp_path / f"model{len(list(tmp_path.glob('model*')))}"
        answers = getattr(model, options.get("pyfunc_predict_fn", "predict"))(example)
        signature = infer_signature(example, answers)
        common = {"signature": signature, "pip_requirements": [], **options}
        if flavor == "sklearn":
            mlflow.sklearn.save_model(model, str(path), serialization_format="cloudpickle", **common)
        else:
            mlflow.pyfunc.save_model(str(path), python_model=model, input_example=example, **common)
        version = registry.adopt("m", str(path))
        return make_scorer(registry.load(registry.find(Reference("m", version=version.version))), settings)

    return scorer


BINARY = ModelSettings(task="binary", label="churned", key=("customer",), key_types={"customer": "long"})


def fitted_churn():
    known = pd.DataFrame(customers(400, 1))
    return churn_pipeline().fit(known[["age", "plan"]], known["churned"]), known


def test_a_binary_pipeline_logs_classes_and_probabilities(scorer):
    model, known = fitted_churn()
    found = scorer(model, known[["age", "plan"]], BINARY)
    scored = found.score(found.rows_of(known))
    assert isinstance(found.engine, SklearnEngine)
    assert scored.answers == model.predict(known[["age", "plan"]]).tolist()
    expected = model.predict_proba(known[["age", "plan"]])[:, 1]
    assert scored.outputs.column("probability").to_pylist() == expected.tolist()
    assert scored.outputs.column("prediction").to_pylist() == scored.answers


def test_a_model_that_answers_probabilities_answers_them_and_logs_the_class_too(scorer):
    model, known = fitted_churn()
    found = scorer(model, known[["age", "plan"]], BINARY, pyfunc_predict_fn="predict_proba")
    scored = found.score(found.rows_of(known))
    assert np.allclose(scored.answers, model.predict_proba(known[["age", "plan"]]))
    assert scored.outputs.column("prediction").to_pylist() == model.predict(known[["age", "plan"]]).tolist()


@pytest.mark.parametrize("way", ["predict_log_proba", "decision_function"])
def test_a_model_that_answers_with_another_function_answers_as_mlflow_would(scorer, way):
    model, known = fitted_churn()
    found = scorer(model, known[["age", "plan"]], BINARY, pyfunc_predict_fn=way)
    scored = found.score(found.rows_of(known))
    assert scored.answers == getattr(model, way)(known[["age", "plan"]]).tolist()
    assert scored.outputs.column("prediction").to_pylist() == model.predict(known[["age", "plan"]]).tolist()


def test_a_model_whose_function_answers_no_rows_is_refused_by_its_name(scorer):
    from dataclasses import replace

    model, known = fitted_churn()
    loaded = scorer(model, known[["age", "plan"]], BINARY).loaded
    for way in ("score", "predict_joint_log_proba"):
        with pytest.raises(ContractError, match=way):
            make_scorer(replace(loaded, answers_with=way), BINARY)


def test_the_positive_class_is_the_one_that_is_configured(scorer):
    from sklearn.linear_model import LogisticRegression

    frame = pd.DataFrame({"x": RANDOM.normal(size=50)})
    model = LogisticRegression().fit(frame, np.where(frame["x"] > 0, "yes", "no"))
    settings = ModelSettings(task="binary", label="bought", positive="no")
    found = scorer(model, frame, settings)
    probability = found.score(found.rows_of(frame)).outputs.column("probability").to_numpy()
    assert np.allclose(probability, model.predict_proba(frame)[:, 0])


def test_classes_whose_answer_is_not_the_likeliest_are_asked_for_and_not_guessed(scorer):
    """A tuned threshold: the class does not follow from the probability."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import FixedThresholdClassifier

    frame = pd.DataFrame({"x": RANDOM.normal(size=200)})
    truth = (frame["x"] + RANDOM.normal(size=200) > 0).astype(int)
    model = FixedThresholdClassifier(LogisticRegression(), threshold=0.9).fit(frame, truth)
    found = scorer(model, frame, ModelSettings(task="binary", label="y"))
    scored = found.score(found.rows_of(frame))
    assert scored.answers == model.predict(frame).tolist()
    probability = scored.outputs.column("probability").to_numpy()
    assert ((probability > 0.5) != np.array(scored.answers, dtype=bool)).any()


def test_a_multiclass_model_logs_every_probability(scorer):
    from sklearn.tree import DecisionTreeClassifier

    frame = pd.DataFrame({"x": RANDOM.normal(size=90)})
    model = DecisionTreeClassifier(max_depth=3).fit(frame, np.array(["a", "b", "c"] * 30))
    found = scorer(model, frame, ModelSettings(task="multiclass", label="kind"))
    outputs = found.score(found.rows_of(frame)).outputs
    together = np.column_stack([outputs.column(f"probability_{name}").to_numpy() for name in "abc"])
    assert np.allclose(together, model.predict_proba(frame))


def test_a_regression_of_a_matrix_takes_numbered_features(scorer):
    from sklearn.linear_model import LinearRegression

    matrix = RANDOM.normal(size=(30, 3))
    model = LinearRegression().fit(matrix, matrix.sum(axis=1))
    found = scorer(model, matrix, ModelSettings(task="regression", label="paid"))
    rows = found.rows_of({f"feature_{place}": matrix[:, place] for place in range(3)})
    assert np.allclose(found.score(rows).answers, matrix.sum(axis=1))


def test_anything_else_that_mlflow_loads_answers_through_pyfunc(scorer):
    import mlflow

    class Doubler(mlflow.pyfunc.PythonModel):
        def predict(self, model_input):
            return (model_input["x"] * 2).to_numpy()

    frame = pd.DataFrame({"x": [1.0, 2.0]})
    found = scorer(Doubler(), frame, ModelSettings(task="regression", label="y"), flavor="pyfunc")
    assert isinstance(found.engine, PyfuncEngine)
    scored = found.score(found.rows_of({"x": [1.5, 4.0]}))
    assert scored.answers == [3.0, 8.0]
    assert scored.outputs.column("prediction").to_pylist() == [3.0, 8.0]


def test_missing_values_reach_the_model_as_it_expects_them(scorer):
    from sklearn.ensemble import HistGradientBoostingRegressor

    frame = pd.DataFrame({"x": np.where(RANDOM.random(100) < 0.3, np.nan, RANDOM.normal(size=100))})
    model = HistGradientBoostingRegressor().fit(frame, frame["x"].isna().astype(float))
    found = scorer(model, frame, ModelSettings(task="regression", label="y"))
    answers = found.score(found.rows_of({"x": [None, float("nan"), 0.1]})).answers
    assert answers[0] == answers[1] > 0.9 > answers[2]


def test_rows_that_the_model_refuses_are_the_callers_error(scorer):
    model, known = fitted_churn()
    found = scorer(model, known[["age", "plan"]], BINARY)
    with pytest.raises(BadInput, match="the model refused these rows: ValueError: Input X contains NaN"):
        found.score(found.rows_of({"age": [None], "plan": ["pro"], "customer": [1]}))


def test_a_task_that_the_model_contradicts_is_refused(scorer):
    model, known = fitted_churn()
    with pytest.raises(ContractError, match="has no column 'region'"):
        scorer(model, known[["age", "plan"]], BINARY.model_copy(update={"segments": ("region",)}))
    from sklearn.tree import DecisionTreeClassifier

    three = DecisionTreeClassifier().fit(known[["age"]], np.arange(len(known)) % 3)
    with pytest.raises(ContractError, match="knows 3 classes"):
        scorer(three, known[["age"]], BINARY)


def test_a_row_that_lacks_an_optional_integer_is_asked_without_it_whatever_stands_beside_it(scorer):
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    class Known(mlflow.pyfunc.PythonModel):
        def predict(self, model_input):
            return model_input["x"] + model_input.get("n", 100)

    inputs = [ColSpec("double", "x"), ColSpec("long", "n", required=False)]
    signature = ModelSignature(Schema(inputs), Schema([ColSpec("double")]))
    frame, settings = pd.DataFrame({"x": [1.0], "n": [1]}), ModelSettings(task="regression", label="y")
    found = scorer(Known(), frame, settings, flavor="pyfunc", signature=signature)
    for given, expected in (
        ({"x": [1.0, 2.0]}, [101.0, 102.0]),
        ({"x": [1.0, 2.0, 3.0, 4.0], "n": [7, None, None, 9]}, [8.0, 102.0, 103.0, 13.0]),
        ({"x": [1.0, 2.0], "n": [7, 8]}, [8.0, 10.0]),
    ):
        scored = found.score(found.rows_of(given))
        assert [next(iter(answer.values())) for answer in scored.answers] == expected
        assert scored.outputs.column("prediction").to_pylist() == expected


def test_an_error_of_a_model_or_of_mlflow_prints_none_of_the_rows(scorer):
    import mlflow

    class Refuses(mlflow.pyfunc.PythonModel):
        def predict(self, model_input):
            if len(model_input) == 2:
                return model_input["x"]
            raise ValueError(f"can't make sense of 'secret' in {model_input['w'].iloc[0]!r} of 'w' and \"it's\"")

    frame = pd.DataFrame({"x": [48151.6234, 1.0], "w": ["a", "b"]})
    found = scorer(Refuses(), frame, ModelSettings(task="regression", label="y"), flavor="pyfunc")
    with pytest.raises(BadInput, match=r"can't make sense of '\.\.\.' in '\.\.\.' of 'w' and '\.\.\.'"):
        found.score(found.rows_of({"x": [1.0], "w": ["secret"]}))
    rows = found.rows_of({"x": [48151.6234], "w": ["secret"]})
    broken = rows.set_column(0, "x", rows.column("w"))
    with pytest.raises(BadInput, match="Incompatible input types") as caught:
        found.score(broken)
    assert "secret" not in str(caught.value)


def test_classes_that_are_whole_floats_are_whole_numbers(scorer):
    model, known = fitted_churn()
    model = model.fit(known[["age", "plan"]], known["churned"].astype(float))
    found = scorer(model, known[["age", "plan"]], BINARY)
    assert (found.contract.classes, found.contract.positive) == ((0, 1), 1)
    scored = found.score(found.rows_of({"age": [20.0, 85.0], "plan": ["pro", "basic"], "customer": [1, 2]}))
    assert scored.answers == [0.0, 1.0]
    assert scored.outputs.column("prediction").to_pylist() == [0, 1]


@pytest.mark.parametrize("flavor", ["sklearn", "pyfunc"])
def test_columns_that_nobody_named_are_called_by_their_numbers(scorer, flavor):
    import mlflow
    from sklearn.linear_model import LinearRegression

    class Second(mlflow.pyfunc.PythonModel):
        def predict(self, model_input):
            return model_input[1].to_numpy()

    frame = pd.DataFrame(RANDOM.normal(size=(20, 2)))
    model = LinearRegression().fit(frame, frame[1]) if flavor == "sklearn" else Second()
    found = scorer(model, frame, ModelSettings(task="regression", label="y"), flavor=flavor)
    for given in ({"0": [1.0], "1": [5.0]}, pd.DataFrame([[1.0, 5.0]])):
        assert found.score(found.rows_of(given)).answers == pytest.approx([5.0])
    decoder = make_decoder(found.contract, found.loaded.signature)
    for body in (
        {"dataframe_split": {"columns": [0, 1], "data": [[1.0, 5.0]]}},
        {"dataframe_split": {"data": [[1.0, 5.0]]}},
        {"inputs": [[1.0, 5.0]]},
        {"dataframe_records": [{"0": 1.0, "1": 5.0}]},
    ):
        rows = decoder.decode(json.dumps(body).encode(), "application/json", {}.get)
        assert (rows.columns["0"], rows.columns["1"]) == ([1.0], [5.0])
