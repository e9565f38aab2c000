"""A model's contract, as its signature and its settings make it."""

import json

import pytest

from feedback_loop.errors import ContractError
from feedback_loop.schema import (
    Column,
    ColumnType,
    JoinRule,
    Task,
    feature_columns,
    make_contract,
    make_redaction,
    output_type,
)
from tests.builders import binary_contract, multiclass_contract, regression_contract

C, T = Column, ColumnType


def test_a_signature_of_columns_becomes_features():
    inputs = [
        {"type": "double", "name": "age", "required": True},
        {"type": "string", "name": "plan", "required": False},
    ]
    columns = feature_columns("m", {"inputs": json.dumps(inputs)})
    assert columns == (C("age", T.DOUBLE), C("plan", T.STRING, required=False))


def test_a_signature_of_a_matrix_becomes_numbered_features():
    spec = [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 3]}}]
    columns = feature_columns("m", {"inputs": json.dumps(spec)})
    assert [column.name for column in columns] == ["feature_0", "feature_1", "feature_2"]


@pytest.mark.parametrize(
    "signature",
    [
        None,
        {"inputs": None},
        {"inputs": json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 28, 28]}}])},
        {"inputs": json.dumps([{"type": "array", "name": "tags", "items": {"type": "string"}}])},
    ],
)
def test_inputs_that_are_no_table_are_refused(signature):
    with pytest.raises(ContractError):
        feature_columns("m", signature)


def test_the_output_type_is_read_from_tensors_and_columns():
    tensor = [{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]
    assert output_type({"outputs": json.dumps(tensor)}) is T.LONG
    assert output_type({"outputs": json.dumps([{"type": "string"}])}) is T.STRING
    assert output_type(None) is None


def test_a_binary_contract_logs_the_probability_of_the_positive_class():
    contract = binary_contract()
    assert [column.name for column in contract.outputs] == ["prediction", "probability"]
    assert contract.positive is True
    assert [column.name for column in contract.extra_key] == ["customer", "month"]


def test_a_multiclass_contract_logs_one_probability_a_class():
    assert [column.name for column in multiclass_contract().probabilities] == [
        "probability_a",
        "probability_b",
        "probability_c",
    ]
    many = multiclass_contract([f"c{number}" for number in range(101)])
    assert many.probabilities == ()


def test_a_regression_logs_its_prediction():
    assert regression_contract().outputs[0].type is T.DOUBLE


def test_features_that_are_called_like_our_columns_get_another_name_in_the_table():
    contract = binary_contract(
        features=(C("role", T.STRING), C("Prediction", T.DOUBLE), C("age", T.LONG), C("AGE", T.LONG)),
        segments=(),
    )
    assert [column.stored for column in contract.features] == ["role_2", "Prediction_2", "age", "AGE_2"]


def names_in_the_log(contract):
    return [column.stored for column in contract.log_columns]


def test_the_log_has_columns_of_its_own_for_raw_answers_where_an_adapter_can_be_on():
    always = ["adapter_revision", "explored", "propensity"]
    assert names_in_the_log(binary_contract()) == [*always, "raw_prediction", "raw_probability"]
    raw = [f"raw_probability_{name}" for name in "abc"]
    assert names_in_the_log(multiclass_contract()) == [*always, "raw_prediction", *raw]
    assert names_in_the_log(regression_contract()) == [*always, "raw_prediction", "lower", "upper"]
    for changes in ({"probabilities": False}, {"query": "plan"}, {"more_labels": ("complained",)}):
        assert names_in_the_log(binary_contract(**changes)) == always


def test_columns_of_the_log_meet_no_names_of_the_model():
    contract = binary_contract(
        features=(C("propensity", T.DOUBLE), C("Explored", T.LONG), C("prediction", T.DOUBLE)), segments=()
    )
    assert [column.stored for column in contract.features] == ["propensity", "Explored", "prediction"]
    assert names_in_the_log(contract) == [
        "adapter_revision", "explored_2", "feedback_loop_propensity", "raw_prediction", "raw_probability",
    ]  # fmt: skip
    dropped = make_redaction(contract, {"propensity": "drop"}, b"").logged
    assert names_in_the_log(dropped)[2] == "propensity"  # nothing is called so in its tables


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": "age"}, "also one of its features"),
        ({"features": (C("a", T.LONG), C("a", T.DOUBLE))}, "there twice"),
        ({"key": ("customer", "customer")}, "there twice"),
        ({"positive": "maybe"}, "which positive names"),
        ({"classes": (0, 1, 2)}, "knows 3 classes"),
        ({"classes": (0, 1), "label_type": T.LONG, "settled": (2,)}, "has no room for the class 2"),
        ({"classes": (0, 1), "label_type": T.LONG, "settled": ("x",)}, "'x' of 'churn' is no long"),
        ({"classes": (), "label_type": T.LONG, "positive": "yes"}, "'yes' of 'churn' is no long"),
        ({"classes": (0, 1), "join": JoinRule(absent_means="maybe")}, "absent_means names"),
        ({"segments": ("nothing",)}, "has no column 'nothing'"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(changes, said):
    with pytest.raises(ContractError, match=said):
        binary_contract(**changes)


@pytest.mark.parametrize(
    ("kind", "settled", "positive", "expected"),
    [
        (T.LONG, (-1, 1), None, ((-1, 1), 1)),
        (T.LONG, ("-1", "1"), "-1", ((-1, 1), -1)),
        (T.BOOLEAN, (), "true", ((), True)),
        (T.STRING, (0, 1), 1, (("0", "1"), "1")),
        (T.LONG, (), "1", ((), 1)),
    ],
)
def test_classes_that_a_version_does_not_show_are_the_configurations_in_the_type_of_its_answers(
    kind, settled, positive, expected
):
    contract = binary_contract(classes=(), label_type=kind, settled=settled, positive=positive)
    assert (contract.classes, contract.positive) == expected
    assert [type(each) for each in contract.classes] == [type(contract.positive)] * len(contract.classes)


def test_what_absence_means_is_one_of_the_classes():
    contract = binary_contract(classes=(0, 1), label_type=T.LONG, join=JoinRule(absent_means=False))
    assert contract.join.absent_means == 0
    assert type(contract.join.absent_means) is int


def test_the_positive_class_may_be_written_as_text():
    contract = make_contract(
        model="m",
        task=Task.BINARY,
        features=(C("x", T.DOUBLE),),
        label="y",
        label_type=T.LONG,
        classes=(0, 1),
        positive="0",
    )
    assert contract.positive == 0
