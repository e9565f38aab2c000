import json

import pytest

from feedback_loop.errors import BadInput
from feedback_loop.schema import as_table
from feedback_loop.schema.protocol import decode_request, encode_answer, encode_error, make_decoder
from tests.builders import binary_contract

RECORD = {"age": 40.0, "plan": "pro", "customer": 7, "month": ""}

CONTRACT = binary_contract()
JSON = "application/json; charset=utf-8"
EXPECTED = {"age": [30, 40], "plan": ["basic", "pro"]}


def decoded(body, content_type=JSON):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode_request(text, content_type, CONTRACT)


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["age", "plan"], "data": [[30, "basic"], [40, "pro"]]}},
        {"dataframe_split": {"index": [0, 1], "columns": ["age", "plan"], "data": [[30, "basic"], [40, "pro"]]}},
        {"dataframe_split": {"data": [[30, "basic"], [40, "pro"]]}},
        {"dataframe_records": [{"age": 30, "plan": "basic"}, {"age": 40, "plan": "pro"}]},
        {"instances": [{"age": 30, "plan": "basic"}, {"age": 40, "plan": "pro"}]},
        {"instances": [[30, "basic"], [40, "pro"]]},
        {"inputs": {"age": [30, 40], "plan": ["basic", "pro"]}},
        {"inputs": [[30, "basic"], [40, "pro"]]},
    ],
)
def test_every_format_of_mlflow_gives_the_same_columns(body):
    assert decoded(body).columns == EXPECTED


def test_csv_gives_columns_of_text():
    found = decoded(b"age,plan\n30,basic\n40,\n", "text/csv")
    assert found.is_text
    assert as_table(found.columns).to_pydict() == {"age": ["30", "40"], "plan": ["basic", None]}


def test_a_callers_ids_stand_beside_the_rows():
    found = decoded({"instances": [[30, "basic"]], "prediction_ids": ["one"]})
    assert found.columns["prediction_id"] == ["one"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "is not the JSON"),
        (b"{", "is not the JSON"),
        (b"[1, 2]", "is not the JSON"),
        (b"\xff\xfe", "is not the JSON"),
        (b'{"instances": [[NaN, "a"]]}', "is not the JSON"),
        (b"[" * 100_000, "is not the JSON"),
        ({}, "has none of the input formats"),
        ({"instances": [], "inputs": []}, "has instances and inputs"),
        ({"dataframe_split": {"columns": ["age", "plan"], "data": [[1, "a"], [2]]}}, "row 1: body: has 1 values"),
        ({"dataframe_records": [1, 2]}, "is not the JSON"),
        ({"instances": [1, {"age": 3}]}, "neither objects nor lists"),
        ({"instances": [[1, "a"]], "params": {"threshold": 0.5}}, "params"),
    ],
)
def test_a_body_that_can_not_be_read_says_what_is_expected(body, said):
    with pytest.raises(BadInput, match=said.replace("(", r"\(")):
        decoded(body)


def test_an_answer_holds_mlflows_predictions_and_the_ids_beside_them():
    answer = json.loads(encode_answer([True, False], ["a", "b"], "7"))
    assert answer == {"predictions": [True, False], "prediction_ids": ["a", "b"], "model_version": "7"}


def test_an_error_is_worded_as_mlflow_does():
    assert json.loads(encode_error("BAD_REQUEST", "no")) == {"error_code": "BAD_REQUEST", "message": "no"}


@pytest.mark.parametrize(
    "body", [{"dataframe_records": [RECORD]}, {"inputs": {name: [RECORD[name]] for name in RECORD}}]
)
def test_an_empty_text_is_no_key(body):
    rows = make_decoder(binary_contract(), None).decode(json.dumps(body).encode(), "application/json", {}.get)
    assert (rows.columns["month"], rows.columns["customer"]) == ([None], [7])
    named = {"x-key-month": "2026-03"}.get
    rows = make_decoder(binary_contract(), None).decode(json.dumps(body).encode(), "application/json", named)
    assert rows.columns["month"] == ["2026-03"]
