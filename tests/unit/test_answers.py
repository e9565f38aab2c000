"""Whatever a model answers is one answer a row, given out as MLflow gives it, or the model's own fault."""

import json
from io import StringIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from feedback_loop.errors import ModelFault
from feedback_loop.inference import PyfuncEngine, SklearnEngine
from feedback_loop.schema import Column, ColumnType, Task, make_contract

FEATURES = (Column("a", ColumnType.DOUBLE),)
NUMBERS = make_contract(model="m", task=Task.REGRESSION, features=FEATURES, label="y", label_type=ColumnType.DOUBLE)
WORDS = make_contract(model="m", task=Task.MULTICLASS, features=FEATURES, label="y", label_type=ColumnType.STRING)
TWO, ONE = pa.table({"a": [1.0, -3.0]}), pa.table({"a": [1.0]})


def scored(answer, contract=NUMBERS, rows=TWO):
    return PyfuncEngine(lambda _: answer, contract).score(rows)


def mlflows(answer):
    from mlflow.pyfunc.scoring_server import predictions_to_json

    written = StringIO()
    predictions_to_json(answer, written)
    return json.loads(written.getvalue())["predictions"]


@pytest.mark.parametrize(
    "answer",
    [
        np.array([2.0, -6.0]),
        np.array([[2.0], [-6.0]]),
        np.array([[2.0, 1.0], [-6.0, 0.0]]),
        np.array([2.0, -6.0], dtype=object),
        [2.0, -6.0],
        [np.float32(2.0), np.float32(-6.0)],
        (2, -6),
        [[2.0, 1], [-6.0, 0]],
        [np.array([2.0]), np.array([-6.0])],
        pd.Series([2.0, -6.0]),
        pd.Series([2.0, -6.0], index=[7, 7], name="y"),
        pd.DataFrame({"y": [2.0, -6.0], "why": ["a", "b"]}),
        pd.DataFrame({"why": ["a", "b"], "y": [2.0, -6.0]}),
        pd.DataFrame([[2.0, 1.0], [-6.0, 0.0]]),
        {"y": [2.0, -6.0], "why": ["a", "b"]},
        {"why": ["a", "b"], "y": np.array([2.0, -6.0])},
        [{"y": 2.0, "why": "a"}, {"why": "b", "y": -6.0}],
        [[2.0], [-6.0, 1.0]],
        [{"y": 2.0, "only": 1}, {"y": -6.0}],
        [{"y": 2.0, "why": [1, {"deep": None}]}, {"y": -6.0, "why": []}],
    ],
    ids=lambda answer: f"{type(answer).__name__} {str(answer)[:30]!r}",
)
def test_what_mlflow_serves_is_given_out_as_mlflow_does_and_its_number_is_logged(answer):
    found = scored(answer)
    assert found.outputs.column("prediction").to_pylist() == [2.0, -6.0]
    assert json.loads(json.dumps(found.form.shaped(found.answers))) == mlflows_plain(answer)


def mlflows_plain(answer):
    is_of_arrays = isinstance(answer, list) and hasattr(answer[0], "tolist")
    return mlflows([each.tolist() for each in answer] if is_of_arrays else answer)


@pytest.mark.parametrize(
    "answer", [2.0, 2, np.float64(2.0), np.array(2.0), {"y": 2.0, "why": "a"}, {"y": 2.0, "many": [1, 2]}]
)
def test_a_single_value_or_object_answers_a_single_row(answer):
    found = scored(answer, rows=ONE)
    assert found.outputs.column("prediction").to_pylist() == [2.0]
    assert found.form.shaped(found.answers) == mlflows(answer.item() if hasattr(answer, "item") else answer)
    with pytest.raises(ModelFault):
        scored(answer)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (np.array([2.0]), "1 rows where it was asked 2"),
        ([1.0, 2.0, 3.0], "3 rows where it was asked 2"),
        ([], "0 rows where it was asked 2"),
        (pd.Series([1.0, 2.0, 3.0]), "3 rows"),
        (pd.DataFrame({"y": [1.0]}), "1 rows"),
        ({"y": [1.0], "why": ["a", "b"]}, "an object of lists"),
        ({}, "an object of lists"),
        ("ab", "a str"),
        (None, "a NoneType"),
        (iter([1.0, 2.0]), "a list_iterator"),
        ({1.0, 2.0}, "a set"),
        ([{"y": 1.0}, {"z": 1.0}], "0 values for a row"),
        ([[], [1.0, 2.0]], "0 values for a row"),
        (["much", "little"], "2 values for 'prediction' that are no double"),
        ([{"why": "a"}, {"why": "b"}], "no double"),
        ([2.0, {"y": 1.0}], "no double"),
        ([object(), object()], "JSON can't hold"),
        (pd.DataFrame([[1.0, 2.0]] * 2, columns=["y", "y"]), "there twice"),
    ],
)
def test_what_is_no_answer_for_each_row_is_the_models_fault(answer, said):
    with pytest.raises(ModelFault, match=said) as caught:
        scored(answer)
    assert "Mend" in caught.value.cure


def test_the_names_of_an_object_are_never_its_answers():
    found = scored({"label": ["yes", "no"], "score": [0.5, 0.5]}, WORDS)
    assert found.outputs.column("prediction").to_pylist() == ["yes", "no"]


class Estimator:
    """One of scikit-learn's kind, which answers what it is told to."""

    def __init__(self, predicted, chances=None):
        self.predict = lambda _: predicted
        self.predict_proba = lambda _: chances
        self.predict_log_proba = lambda _: np.log(chances)


CLASSES = make_contract(
    model="m",
    task=Task.BINARY,
    features=FEATURES,
    label="y",
    label_type=ColumnType.LONG,
    classes=(0, 1),
    has_probabilities=True,
)
CHANCES = np.array([[0.25, 0.75], [0.5, 0.5]])


@pytest.mark.parametrize("chances", [CHANCES[:1], CHANCES[:, :1], CHANCES[:, 1], None, [["a", "b"]] * 2])
def test_probabilities_that_are_no_matrix_of_rows_and_classes_are_the_models_fault(chances):
    with pytest.raises(ModelFault, match="predict_proba answers"):
        SklearnEngine(Estimator([1, 0], chances), CLASSES).score(TWO)


@pytest.mark.parametrize("chances", [CHANCES, CHANCES.tolist(), pd.DataFrame(CHANCES)])
def test_an_estimator_may_answer_with_lists_and_frames(chances):
    found = SklearnEngine(Estimator([1, 0], chances), CLASSES, answers_with="predict_proba").score(TWO)
    assert found.outputs.column("prediction").to_pylist() == [1, 0]
    assert found.outputs.column("probability").to_pylist() == [0.75, 0.5]
    assert found.answers == CHANCES.tolist()


def test_the_function_that_a_version_was_logged_with_answers_callers_and_classes_are_logged():
    found = SklearnEngine(Estimator([1, 0], CHANCES), CLASSES, answers_with="predict_log_proba").score(TWO)
    assert found.answers == np.log(CHANCES).tolist()
    assert found.outputs.column("prediction").to_pylist() == [1, 0]
    assert found.outputs.column("probability").to_pylist() == [0.75, 0.5]
