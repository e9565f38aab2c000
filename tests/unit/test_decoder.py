"""What our server makes of MLflow's requests, without a server: what MLflow itself says of them is compared in
tests/integration/test_conformance.py."""

import json
from datetime import UTC, datetime

import pytest

from feedback_loop.schema import Column, ColumnType, Task, make_contract
from feedback_loop.schema.protocol import (
    WireError,
    concat_rows,
    encode_answer,
    encode_error,
    make_decoder,
    rows_table,
)
from tests.builders import binary_contract

T = ColumnType
CONTRACT = binary_contract()
DECODER = make_decoder(CONTRACT, None)
JSON = "application/json"
ROW = {"age": 30.0, "plan": "pro"}
WIDE = make_contract(
    model="wide",
    task=Task.REGRESSION,
    features=(
        Column("l", T.LONG),
        Column("i", T.INTEGER, required=False),
        Column("f", T.FLOAT, required=False),
        Column("b", T.BOOLEAN, required=False),
        Column("t", T.DATETIME, required=False),
    ),
    label="y",
    label_type=T.DOUBLE,
)


def decoded(body, content_type=JSON, headers=None, decoder=DECODER):
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decoder.decode(sent, content_type, (headers or {}).get)


def refused(*arguments, **named):
    with pytest.raises(WireError) as error:
        decoded(*arguments, **named)
    return error.value


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["plan", "age"], "data": [["pro", 30]]}},
        {"dataframe_split": {"columns": ["plan", "x", "age"], "data": [["pro", {"deep": [1]}, 30]]}},
        {"dataframe_records": [{**ROW, "other": [1, {"a": None}]}]},
        {"instances": [ROW]},
        {"inputs": [ROW]},
        {"inputs": {"age": [30], "plan": ["pro"]}},
        {"inputs": {"age": 30, "plan": "pro"}},
        {"dataframe_records": [{**ROW, "age": "30"}]},
        b'{"dataframe_records": [{"age": 1, "age": 30, "plan": "pro"}]}',
        b'\xef\xbb\xbf{"dataframe_records": [{"age": 30, "plan": "pro"}]}',
    ],
)
def test_every_way_of_saying_a_row_gives_the_same_columns(body):
    rows = decoded(body)
    assert rows.count == 1
    assert rows.columns == {"age": [30.0], "plan": ["pro"], "customer": [None], "month": [None]}


def test_keys_and_ids_are_taken_beside_the_features():
    row = {**ROW, "customer": 7, "month": "may", "prediction_id": "mine"}
    for body in ({"dataframe_records": [row]}, {"instances": [row]}, {"inputs": {k: [v] for k, v in row.items()}}):
        rows = decoded(body)
        assert (rows.columns["customer"], rows.columns["month"], rows.ids) == ([7], ["may"], ["mine"])
    rows = decoded(b"age,plan,customer,prediction_id\n30,pro,7,mine\n", "text/csv")
    assert (rows.columns["customer"], rows.ids) == ([7], ["mine"])
    assert decoded({"instances": [ROW], "prediction_ids": ["mine"]}).ids == ["mine"]


def test_keys_and_ids_are_taken_from_headers():
    headers = {"x-prediction-id": "mine", "x-key-customer": "7", "x-key-month": "may"}
    rows = decoded({"instances": [ROW]}, headers=headers)
    assert (rows.columns["customer"], rows.columns["month"], rows.ids) == ([7], ["may"], ["mine"])
    many = {"x-prediction-id": '["a", null]', "x-key-customer": "[7, 8]"}
    rows = decoded({"instances": [ROW, ROW]}, headers=many)
    assert (rows.columns["customer"], rows.ids) == ([7, 8], ["a", None])


@pytest.mark.parametrize("form", [lambda row: {"dataframe_records": [row]}, lambda row: {"inputs": row}])
def test_an_empty_text_is_no_key(form):
    body = form({**ROW, "customer": 7, "month": ""})
    assert (decoded(body).columns["month"], decoded(body).columns["customer"]) == ([None], [7])
    assert decoded(body, headers={"x-key-month": "2026-03"}).columns["month"] == ["2026-03"]


def test_what_stands_beside_the_features_goes_before_a_header():
    rows = decoded({"instances": [{**ROW, "customer": 1}]}, headers={"x-key-customer": "2"})
    assert rows.columns["customer"] == [1]


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"x-key-customer": "seven"}, "x-key-customer does not fit the type long"),
        ({"x-key-customer": "[1, 2]"}, "has 2 values, where there are 1 rows"),
        ({"x-key-customer": "[1"}, "no JSON list"),
        ({"x-key-customer": "[" * 100_000}, "no JSON list"),
        ({"x-key-customer": "[[1]]"}, "does not fit"),
        ({"x-prediction-id": '["a", "b"]'}, "1 are expected, one a row"),
        ({"x-prediction-id": "[5]"}, "is not a UUID"),
    ],
)
def test_a_header_that_does_not_fit_is_refused_by_name(headers, said):
    assert said in refused({"instances": [ROW]}, headers=headers).message


@pytest.mark.parametrize(
    "ids",
    [["a", "b"], [1], "a", [["a"]], {"a": 1}, []],
)
def test_ids_are_one_text_a_row(ids):
    assert refused({"instances": [ROW], "prediction_ids": ids}).status == 400


def test_a_key_of_another_type_names_its_row_and_where_types_are_said():
    error = refused({"instances": [ROW, {**ROW, "customer": "seven"}]})
    assert "row 1: customer" in error.message
    assert "models.churn.key_types" in error.message
    assert [(each.row, each.field) for each in error.problems] == [(1, "customer")]


HOSTILE = [
    b"",
    b"\0",
    b"{",
    b"\xff\xfe{}",
    b'{"instances": [{"age": 1, "plan": "\xff"}]}',
    b'{"instances": [{"age": 1, "plan": "a", "\xff": 1}]}',
    b"[" * 200_000,
    b'{"instances": ' + b"[" * 200_000,
    b'{"instances": [{"age": 1, "plan": "a", "x": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}]}",
    b'{"instances": [{"age": ' + b"9" * 100_000 + b', "plan": "a"}]}',
    b'{"instances": [{"age": ' + b"[" * 500 + b"]" * 500 + b', "plan": "a"}]}',
    b'{"instances": [{"age": 1, "plan": "\\ud800"}]}',
    b'{"instances": [{"age": 1, "plan": "a\\u0000"}]}',
    b'{"dataframe_split": {"columns": ["age", "plan", "age"], "data": [[1, "a", 2]]}}',
    b'{"dataframe_split": {"columns": ["age", "plan"], "data": [[1, "a", 2], [1]]}}',
    b'{"dataframe_split": {"columns": [["age"], "plan"], "data": [[1, "a"]]}}',
    b'{"dataframe_split": {"columns": ["age", "plan"], "data": {"age": [1], "plan": ["a", "b"]}}}',
    b'{"dataframe_split": {"columns": ["age", "plan"], "data": []}}',
    b'{"instances": [{"age": {"a": 1}, "plan": ["a"]}]}',
    b'{"inputs": {"age": [[1, 2], [3]], "plan": ["a", "b"]}}',
    b'{"inputs": {"age": 1, "plan": null, "a": {}}, "instances": []}',
    b"NaN",
    b"-Infinity",
    b'"' + b"\\u0041" * 10_000,
]


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:40]))
def test_a_hostile_body_is_refused_in_few_words(body):
    error = refused(body)
    assert error.status == 400
    assert len(error.body()) < 20_000
    json.loads(error.body())


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_taken_as_mlflow_takes_them(token):
    (value,) = decoded(b'{"instances": [{"age": %b, "plan": "a"}]}' % token.encode()).columns["age"]
    assert value != value if token == "NaN" else abs(value) == float("inf")  # noqa: PLR0124, S105 (what NaN is)


@pytest.mark.parametrize("number", [2**53 + 1, 2**63 - 1, -(2**63)])
def test_large_integers_stay_what_they_are(number):
    decoder = make_decoder(WIDE, None)
    for body in ({"dataframe_records": [{"l": number}]}, {"inputs": {"l": [number]}}, {"instances": [{"l": number}]}):
        rows = decoded(body, decoder=decoder)
        assert rows_table(WIDE, rows).column("l").to_pylist() == [number]


@pytest.mark.parametrize(
    ("name", "number"), [("l", 2**63), ("l", -(2**63) - 1), ("l", 10**30), ("i", 2**31), ("i", 1e12)]
)
@pytest.mark.parametrize("form", ["dataframe_records", "instances", "inputs"])
def test_integers_out_of_range_are_refused_and_never_wrapped(form, name, number):
    error = refused({form: [{"l": 1, name: number}]}, decoder=make_decoder(WIDE, None))
    assert "too large" in error.message or "out of bounds" in error.message


def test_what_is_optional_may_be_missing_and_is_null_in_the_table():
    rows = decoded(
        {"dataframe_records": [{"l": 1}, {"l": 2, "f": None, "b": None}]}, decoder=make_decoder(WIDE, None)
    )
    table = rows_table(WIDE, rows)
    assert [table.column(name).null_count for name in "ifbt"] == [2, 2, 2, 2]


ROWS_OF_FLAGS = [{"l": 1, "b": True}, {"l": 1, "b": None}, {"l": 1, "b": False}]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": ROWS_OF_FLAGS},
        {"dataframe_split": {"columns": ["l", "b"], "data": [list(row.values()) for row in ROWS_OF_FLAGS]}},
        {"inputs": {"l": [1, 1, 1], "b": [True, None, False]}},
        {"inputs": ROWS_OF_FLAGS},
        {"instances": ROWS_OF_FLAGS},
    ],
)
def test_a_null_in_an_optional_boolean_is_missing_by_every_door(body):
    assert decoded(body, decoder=make_decoder(WIDE, None)).columns["b"] == [True, None, False]


def test_columns_may_have_any_name():
    names = ['disk 3.5"', "path\\size", "line\nbreak", "it's", "percent%", "ü"]
    contract = binary_contract(features=tuple(Column(name, T.DOUBLE) for name in names), key=(), segments=())
    row = {name: float(place) for place, name in enumerate(names)}
    decoder = make_decoder(contract, None)
    for body in ({"dataframe_records": [row]}, {"inputs": {name: [row[name]] for name in names}}):
        assert decoded(body, decoder=decoder).columns == {name: [row[name]] for name in names}


def test_moments_are_utc_whatever_way_they_are_said():
    expected = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    for text in ("2026-01-02T03:04:00", "2026-01-02 03:04", "2026-01-02T04:04:00+01:00", "2026-01-02T03:04:00Z"):
        for form in ("dataframe_records", "inputs"):
            rows = decoded({form: [{"l": 1, "t": text}]}, decoder=make_decoder(WIDE, None))
            assert rows.columns["t"] == [expected]
    assert (
        "unable to parse: yesterday"
        in refused({"dataframe_records": [{"l": 1, "t": "yesterday"}]}, decoder=make_decoder(WIDE, None)).message
    )


def test_a_tensors_rows_are_lists():
    contract = make_contract(
        model="tensor",
        task=Task.REGRESSION,
        features=(Column("feature_0", T.DOUBLE), Column("feature_1", T.DOUBLE)),
        label="y",
        label_type=T.DOUBLE,
        key=("order",),
    )
    spec = {"inputs": '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}]'}
    decoder = make_decoder(contract, spec)
    for body in (
        {"instances": [[1, 2]]},
        {"inputs": [[1, 2]]},
        {"dataframe_split": {"data": [[1, 2]]}},
        {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2]]}},
        {"dataframe_records": [{"a": 1, "b": 2}]},
        {"dataframe_records": [{"a": 1, "order": None, "b": 2}]},
    ):
        assert decoded(body, decoder=decoder).columns == {"feature_0": [1.0], "feature_1": [2.0], "order": [None]}
    assert "Shape of input (1, 3)" in refused({"inputs": [[1, 2, 3]]}, decoder=decoder).message


PARAMS = [
    {"name": "threshold", "default": 0.5, "shape": None, "type": "double"},
    {"name": "names", "default": ["a"], "shape": [-1], "type": "string"},
    {"name": "day", "default": "2026-01-02", "shape": None, "type": "datetime"},
]


def test_params_are_checked_against_the_signatures_and_have_its_defaults():
    decoder = make_decoder(CONTRACT, {"inputs": "[]", "params": json.dumps(PARAMS)})
    default = {"threshold": 0.5, "names": ["a"], "day": datetime(2026, 1, 2).date()}  # noqa: DTZ001
    assert decoded({"instances": [ROW]}, decoder=decoder).params == default
    given = decoded({"instances": [ROW], "params": {"threshold": 1, "unknown": 5}}, decoder=decoder).params
    assert given == {**default, "threshold": 1.0}
    error = refused({"instances": [ROW], "params": {"threshold": "high", "names": 5}}, decoder=decoder)
    assert (error.status, error.error_code) == (400, "INVALID_PARAMETER_VALUE")
    assert [each.field for each in error.problems] == ["threshold", "names"]
    assert decoded({"instances": [ROW], "params": {"threshold": "high"}}).params == {}


@pytest.mark.parametrize(
    ("content_type", "said"),
    [
        ("", "Got ''"),
        ("application/xml", "only supports the following content types"),
        ("text/csv; charset=latin1", "only supports UTF-8"),
        ("application/json; version=1", "Unrecognized content type parameters: version"),
    ],
)
def test_other_media_types_are_refused_in_text(content_type, said):
    error = refused(b"{}", content_type)
    assert (error.status, error.content_type) == (415, "text/plain; charset=utf-8")
    assert said in error.body().decode()


def test_rows_of_several_requests_make_one_table():
    parts = [
        decoded({"instances": [{**ROW, "age": age}]}, headers={"x-prediction-id": str(age)}) for age in (1, 2, 3)
    ]
    table = rows_table(CONTRACT, concat_rows(CONTRACT, parts))
    assert table.column_names == ["age", "plan", "customer", "month", "prediction_id"]
    assert table.column("age").to_pylist() == [1.0, 2.0, 3.0]
    assert table.column("prediction_id").to_pylist() == ["1", "2", "3"]


def test_answers_and_errors_are_worded_as_mlflow_does():
    answer = json.loads(encode_answer([True, False], ["a", "b"], "7"))
    assert answer == {"predictions": [True, False], "prediction_ids": ["a", "b"], "model_version": "7"}
    assert json.loads(encode_error("BAD_REQUEST", "no")) == {"error_code": "BAD_REQUEST", "message": "no"}
