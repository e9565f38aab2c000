"""Open Inference Protocol v2: requests into rows and answers into tensors, without a server."""

import json
import struct

import numpy as np
import pytest

from feedback_loop.schema import Column, ColumnType, Task, make_contract
from feedback_loop.schema.protocol import WireError, make_decoder, oip
from tests.builders import binary_contract

CONTRACT = binary_contract()
DECODER = make_decoder(CONTRACT, None)
T = ColumnType
WIDE = make_contract(
    model="wide",
    task=Task.REGRESSION,
    features=(
        Column("d", T.DOUBLE),
        Column("f", T.FLOAT, required=False),
        Column("l", T.LONG, required=False),
        Column("i", T.INTEGER, required=False),
        Column("b", T.BOOLEAN, required=False),
        Column("s", T.STRING, required=False),
        Column("t", T.DATETIME, required=False),
    ),
    label="y",
    label_type=T.DOUBLE,
)


def tensor(name, datatype, data, shape=None, **more):
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data, **more}


SIZED = b'{"inputs":[{"name":"age","datatype":"FP64","shape":[1],"parameters":{"binary_data_size":%b}}]}'
AGE = tensor("age", "FP64", [30.5, 40])
PLAN = tensor("plan", "BYTES", ["basic", "pro"])


def infer(*inputs, decoder=DECODER, headers=None, **more):
    body = json.dumps({"inputs": list(inputs), **more}).encode()
    return oip.decode_infer(decoder, body, (headers or {}).get)


def text_bytes(*texts):
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def in_bytes(tensors, **more):
    """A body as Triton's client sends it: JSON, then each tensor's bytes."""
    specs = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        for name, kind, shape, raw in tensors
    ]
    text = json.dumps({"inputs": specs, **more}).encode()
    headers = {"inference-header-content-length": str(len(text))}
    return oip.decode_infer(DECODER, text + b"".join(raw for *_, raw in tensors), headers.get)


def test_columns_may_be_of_shape_n_1_and_nested():
    rows = infer(tensor("age", "FP32", [[1], [2]], [2, 1]), tensor("plan", "BYTES", [["a"], ["b"]], [2, 1])).rows
    assert (rows.columns["age"], rows.columns["plan"]) == ([1.0, 2.0], ["a", "b"])


def test_one_tensor_holds_all_features_in_the_signatures_order():
    contract = make_contract(
        model="m",
        task=Task.REGRESSION,
        features=(Column("a", T.DOUBLE), Column("b", T.LONG)),
        label="y",
        label_type=T.DOUBLE,
    )
    decoder = make_decoder(contract, None)
    rows = infer(tensor("input-0", "INT64", [[1, 2], [3, 4]], [2, 2]), decoder=decoder).rows
    assert rows.columns == {"a": [1.0, 3.0], "b": [2, 4]}


def test_every_datatype_fits_the_columns_that_lose_nothing_by_it():
    rows = infer(
        tensor("d", "INT32", [1]),
        tensor("f", "FP64", [1.5]),
        tensor("l", "UINT8", [200]),
        tensor("i", "INT64", [5]),
        tensor("b", "BOOL", [True]),
        tensor("s", "BYTES", ["x"]),
        tensor("t", "BYTES", ["2026-01-02T03:04:05"]),
        decoder=make_decoder(WIDE, None),
    ).rows
    assert [values[0] for values in rows.columns.values()][:6] == [1.0, 1.5, 200, 5, True, "x"]
    assert rows.columns["t"][0].isoformat() == "2026-01-02T03:04:05+00:00"


def test_tensors_in_bytes_are_read_as_the_json_ones():
    numbers = np.array([30.5, 40.0]).tobytes()
    found = in_bytes(
        [("age", "FP64", [2], numbers), ("plan", "BYTES", [2, 1], text_bytes(b"basic", "é".encode()))],
        parameters={"binary_data_output": True},
    )
    assert found.rows.columns["age"] == [30.5, 40.0]
    assert found.rows.columns["plan"] == ["basic", "é"]
    assert found.outputs == (("prediction", True), ("probability", True), ("prediction_id", True))


def test_keys_and_ids_are_taken_as_tensors_or_headers():
    named = infer(AGE, PLAN, tensor("customer", "INT64", [1, 2]), tensor("prediction_id", "BYTES", ["x", "y"]))
    assert (named.rows.columns["customer"], named.rows.ids) == ([1, 2], ["x", "y"])
    headers = {"x-key-customer": "[7, 8]", "x-prediction-id": '["p", null]', "x-key-month": '["a", "b"]'}
    beside = infer(AGE, PLAN, headers=headers)
    assert (beside.rows.columns["customer"], beside.rows.ids) == ([7, 8], ["p", None])
    assert beside.rows.columns["month"] == ["a", "b"]


def test_nan_is_a_missing_number_in_either_form():
    body = b'{"inputs":[{"name":"age","datatype":"FP64","shape":[1],"data":[NaN]},'
    body += b'{"name":"plan","datatype":"BYTES","shape":[1],"data":[null]}]}'
    (value,) = oip.decode_infer(DECODER, body, {}.get).rows.columns["age"]
    assert value != value  # noqa: PLR0124 (what NaN is)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ((AGE,), r"expected the inputs \['plan'\]"),
        ((AGE, PLAN, AGE), "is there twice"),
        ((AGE, PLAN, tensor("other", "FP32", [1, 2])), "unexpected inference input 'other' for model 'churn'"),
        ((tensor("age", "FP64", [1]), PLAN), "rows of different number"),
        ((tensor("age", "FP64", [1, 2], [3]), PLAN), "not of the shape"),
        ((tensor("age", "FP64", [1, 2], [1, 2]), PLAN), r"\[rows\] or \[rows, 1\]"),
        ((tensor("age", "BYTES", ["1", "2"]), PLAN), "datatype BYTES, where FP64 is expected"),
        ((tensor("age", "FP64", ["1", "2"]), PLAN), "is not FP64"),
        ((tensor("age", "FP64", [True, 2]), PLAN), "is not FP64"),
        ((tensor("age", "INT8", [1, 300]), PLAN), "is not INT8"),
        ((tensor("age", "UINT64", [1, -3]), PLAN), "is not UINT64"),
        ((tensor("age", "COMPLEX", [1, 2]), PLAN), "unknown datatype 'COMPLEX'"),
        (({"name": "age", "datatype": "FP64", "shape": [2]}, PLAN), "neither data nor a binary_data_size"),
        ((tensor("age", "FP64", [1, 2], [-2]), PLAN), "failed to parse the request"),
        ((tensor("age", "FP64", [], [0]), tensor("plan", "BYTES", [], [0])), "no rows"),
        ((AGE, tensor("plan", "BYTES", ["a", "b\0"])), "NUL"),
        ((AGE, PLAN, tensor("customer", "BYTES", ["1", "2"])), "where INT64 is expected"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(inputs, said):
    with pytest.raises(WireError, match=said) as refused:
        infer(*inputs)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([("age", "FP64", [2], b"1234567")], "has 7 bytes"),
        ([("age", "FP64", [10**18], b"12345678")], "has 8 bytes"),
        ([("plan", "BYTES", [1], b"\x05\x00\x00\x00ab")], "ends within a text"),
        ([("plan", "BYTES", [1], b"\x05\x00")], "ends within a text's length"),
        ([("plan", "BYTES", [1], text_bytes(b"\xff"))], "not UTF-8"),
        ([("plan", "BYTES", [3], text_bytes(b"a", b"b"))], "has 2 values"),
    ],
)
def test_bytes_that_do_not_add_up_are_refused(tensors, said):
    with pytest.raises(WireError, match=said):
        in_bytes(tensors)


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"", None),
        (b"[]", None),
        (b"{", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b'{"inputs": 5}', None),
        (b'{"inputs": [], "id": 5}', None),
        (b'{"inputs": []}', "99"),
        (b'{"inputs": []}', "-1"),
        (b'{"inputs": []}', "1" * 30),
        (b'{"inputs": []}x', "14"),
        (SIZED % b"9", None),
        (SIZED % b'"x"', None),
    ],
)
def test_a_request_that_can_not_be_read_is_a_400(body, length):
    headers = {} if length is None else {"inference-header-content-length": length}
    with pytest.raises(WireError) as refused:
        oip.decode_infer(DECODER, body, headers.get)
    assert refused.value.status == 400
    assert json.loads(oip.encode_oip_error(refused.value.message))["error"]


def test_an_answer_holds_outputs_ids_and_the_version():
    asked = infer(AGE, PLAN, id="42")
    outputs = {"prediction": [True, False], "probability": [0.75, 0.25]}
    body, headers = oip.encode_infer(asked, CONTRACT, outputs, ["a", "b"], ["7"])
    assert headers == [("content-type", "application/json")]
    assert json.loads(body) == {
        "model_name": "churn",
        "model_version": "7",
        "id": "42",
        "parameters": {"prediction_ids": "a,b"},
        "outputs": [
            {"name": "prediction", "datatype": "BOOL", "shape": [2], "data": [True, False]},
            {"name": "probability", "datatype": "FP64", "shape": [2], "data": [0.75, 0.25]},
            {"name": "prediction_id", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]},
        ],
    }


def test_an_answer_of_two_versions_says_whose_each_row_is():
    asked = infer(AGE, PLAN, outputs=[])
    body, _ = oip.encode_infer(asked, CONTRACT, {}, ["a", "b"], ["7", "8"])
    assert json.loads(body)["parameters"] == {"prediction_ids": "a,b", "model_versions": "7,8"}


def test_an_answer_in_bytes_says_where_its_json_ends():
    wanted = [{"name": "probability", "parameters": {"binary_data": True}}, {"name": "prediction"}]
    asked = infer(AGE, PLAN, outputs=wanted)
    outputs = {"prediction": [True, False], "probability": [0.75, 0.25]}
    body, headers = oip.encode_infer(asked, CONTRACT, outputs, ["a", "b"], ["7"])
    length = int(dict(headers)["inference-header-content-length"])
    first, second = json.loads(body[:length])["outputs"]
    assert first == {"name": "probability", "datatype": "FP64", "shape": [2], "parameters": {"binary_data_size": 16}}
    assert second["data"] == [True, False]
    assert np.frombuffer(body[length:], "<f8").tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"name": "other"}, "unexpected inference output"),
        ({"name": "prediction", "parameters": {"classification": 2}}, "classification"),
    ],
)
def test_an_output_that_is_not_offered_is_refused(output, said):
    with pytest.raises(WireError, match=said):
        infer(AGE, PLAN, outputs=[output])


def test_metadata_names_what_goes_in_and_out():
    found = oip.model_metadata(CONTRACT, ["3"])
    assert found["versions"] == ["3"]
    assert found["inputs"][0] == {"name": "age", "datatype": "FP64", "shape": [-1]}
    assert [each["name"] for each in found["outputs"]] == ["prediction", "probability", "prediction_id"]
    assert oip.server_metadata("1.0")["extensions"] == ["binary_tensor_data"]


def test_an_id_that_is_no_text_is_refused_before_anything_is_scored():
    body = {"id": "\ud800", "inputs": []}
    with pytest.raises(WireError, match="id: holds half a surrogate pair"):
        oip.decode_infer(DECODER, json.dumps(body).encode(), {}.get)
