"""What others' servers say, read: outputs, bodies, events, versions, ids."""

import base64
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from feedback_loop.capture import Deployed, Deployments, read_event, read_outputs
from feedback_loop.capture.payloads import read_answer, read_request
from feedback_loop.errors import BadInput, NotFound, Unavailable
from feedback_loop.schema import (
    Column,
    ColumnType,
    Task,
    derived_bits,
    make_contract,
    make_redaction,
    moment_of,
    prediction_id,
)
from tests.builders import binary_contract, multiclass_contract, regression_contract

BINARY = binary_contract()
NUMBERS = make_contract(
    model="churn",
    task=Task.BINARY,
    features=(Column("age", ColumnType.DOUBLE), Column("income", ColumnType.DOUBLE)),
    label="churned",
    label_type=ColumnType.LONG,
    classes=(0, 1),
    has_probabilities=True,
)
NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)


def outputs(contract, given):
    return read_outputs(contract, given).to_pydict()


@pytest.mark.parametrize(
    "given",
    [
        [True, False],
        (True, False),
        np.array([True, False]),
        [[True], [False]],
        pd.Series([True, False]),
        pa.array([True, False]),
        pa.chunked_array([[True, False]]),
        [np.True_, np.False_],
        [{"prediction": True}, {"prediction": False}],
        pd.DataFrame({"whatever": [True, False]}),
        {"prediction": [True, False]},
    ],
)
def test_classes_are_the_prediction_whatever_holds_them(given):
    assert outputs(BINARY, given) == {"prediction": [True, False], "probability": [None, None]}


@pytest.mark.parametrize(
    "given",
    [
        [0.75, 0.25],
        [[0.25, 0.75], [0.75, 0.25]],
        np.array([[0.25, 0.75], [0.75, 0.25]]),
        np.array([0.75, 0.25], dtype=np.float32),
        [[0.75], [0.25]],
        {"probability": [0.75, 0.25]},
    ],
)
def test_fractions_are_the_positive_classs_probability(given):
    assert outputs(BINARY, given) == {"prediction": [None, None], "probability": [0.75, 0.25]}


def test_the_positive_class_may_be_the_first():
    contract = binary_contract(positive=False)
    assert outputs(contract, [[0.25, 0.75]])["probability"] == [0.25]


def test_several_classes_have_a_probability_each():
    kind = multiclass_contract()
    assert outputs(kind, [[0.5, 0.25, 0.25]]) == {
        "prediction": [None],
        "probability_a": [0.5],
        "probability_b": [0.25],
        "probability_c": [0.25],
    }
    assert outputs(kind, ["b"])["prediction"] == ["b"]


def test_numbers_are_a_regressions_prediction():
    assert outputs(regression_contract(), [1, 2.5]) == {"prediction": [1.0, 2.5]}
    assert outputs(regression_contract(), np.array([[1.0], [2.5]])) == {"prediction": [1.0, 2.5]}


def test_no_rows_are_no_outputs():
    assert outputs(BINARY, []) == {"prediction": [], "probability": []}
    assert read_request(b'{"instances": []}', BINARY).num_rows == 0


@pytest.mark.parametrize(
    ("contract", "given", "said"),
    [
        (BINARY, ["yes"], "row 0: prediction: 'yes' does not fit"),
        (BINARY, [0.5, 1.5], "row 1: probability: 1.5 is no probability"),
        (BINARY, [True, None], "row 1: prediction: is missing"),
        (BINARY, [[0.2, 0.3, 0.5]], "has 3 values, where 2 probabilities"),
        (BINARY, [[0.2, 0.8], [1.0]], "row 1: predictions: has 1 values"),
        (BINARY, [[0.2, 0.8], 1.0], "rows of one value and rows of several"),
        (BINARY, "yes", "is str, where a value per row is expected"),
        (BINARY, None, "is NoneType"),
        (BINARY, [{"score": 0.3, "class": "a"}], "none of the columns prediction, probability"),
        (multiclass_contract(), ["a", "z"], "row 1: prediction: 'z' is none of the classes"),
        (regression_contract(), [[1.0, 2.0]], "has 2 values, where one value is expected"),
    ],
)
def test_an_answer_of_another_model_is_refused_by_row(contract, given, said):
    with pytest.raises(BadInput) as caught:
        read_outputs(contract, given)
    assert said in str(caught.value)


def tensor(name, shape, datatype, data):
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[30, 1000.5], [40, 2000]]},
        {"instances": [{"age": 30, "income": 1000.5}, {"age": 40, "income": 2000}]},
        {"inputs": {"age": [30, 40], "income": [1000.5, 2000]}},
        {"inputs": [[30, 1000.5], [40, 2000]]},
        {"inputs": [tensor("input-0", [2, 2], "FP32", [[30, 1000.5], [40, 2000]])]},
        {"inputs": [tensor("input-0", [2, 2], "FP64", [30, 1000.5, 40, 2000])]},
        {"inputs": [tensor("income", [2, 1], "FP64", [1000.5, 2000]), tensor("age", [2], "INT64", [30, 40])]},
        {"dataframe_split": {"columns": ["age", "income"], "data": [[30, 1000.5], [40, 2000]]}},
        {"dataframe_split": {"index": [0, 1], "data": [[30, 1000.5], [40, 2000]]}},
        {"dataframe_records": [{"age": 30, "income": 1000.5}, {"age": 40, "income": 2000}]},
    ],
)
def test_every_body_of_a_request_gives_the_same_features(body):
    rows = read_request(json.dumps(body).encode(), NUMBERS, "application/x-www-form-urlencoded")
    assert rows.select(["age", "income"]).to_pydict() == {"age": [30.0, 40.0], "income": [1000.5, 2000.0]}


def test_a_callers_ids_stand_beside_the_rows():
    body = {"instances": [[30, 1000.5]], "prediction_ids": ["one"]}
    assert read_request(json.dumps(body).encode(), NUMBERS).column("prediction_id").to_pylist() == ["one"]


def test_words_come_as_bytes_tensors_and_keys_beside_the_features():
    body = {
        "inputs": [
            tensor("age", [1], "FP64", [30]),
            tensor("plan", [1], "BYTES", ["pro"]),
            tensor("customer", [1], "INT64", [7]),
        ]
    }
    (row,) = read_request(json.dumps(body).encode(), BINARY).to_pylist()
    assert (row["age"], row["plan"], row["customer"], row["month"]) == (30.0, "pro", 7, None)


@pytest.mark.parametrize(
    ("body", "prediction", "probability"),
    [
        ({"predictions": [1, 0]}, [1, 0], [None, None]),
        ({"predictions": [0.75, 0.25]}, [None, None], [0.75, 0.25]),
        ({"predictions": [[0.25, 0.75], [0.75, 0.25]]}, [None, None], [0.75, 0.25]),
        ({"outputs": [tensor("predict", [2, 1], "INT64", [1, 0])]}, [1, 0], [None, None]),
        ({"outputs": [tensor("output-0", [2], "FP32", [1, 0])]}, [None, None], [1.0, 0.0]),
        (
            {
                "outputs": [
                    tensor("predict", [2], "INT64", [1, 0]),
                    tensor("predict_proba", [2, 2], "FP64", [0.25, 0.75, 0.75, 0.25]),
                ]
            },
            [1, 0],
            [0.75, 0.25],
        ),
        ({"outputs": [tensor("probability", [2], "FP32", [1, 0])]}, [None, None], [1.0, 0.0]),
    ],
)  # fmt: skip
def test_every_body_of_an_answer_gives_what_it_holds(body, prediction, probability):
    found = read_answer(json.dumps(body).encode(), NUMBERS).to_pydict()
    assert found == {"prediction": prediction, "probability": probability}


@pytest.mark.parametrize(
    ("read", "body", "said"),
    [
        (read_request, b"{", "is not JSON"),
        (read_request, b"\xff", "is not JSON"),
        (read_request, b"[" * 100_000, "is not JSON"),
        (read_request, b"[]", "Expected `object`"),
        (read_request, b"", "is not JSON"),
        (read_request, b'{"instances": [[NaN, 1]]}', "is not JSON"),
        (read_request, b'{"instances": [], "inputs": []}', "has instances and inputs"),
        (read_request, b'{"dataframe_records": [1, 2]}', "Expected `object`"),
        (read_request, b'{"dataframe_split": {"data": [[1, 2], [2]]}}', "row 1: body: has 1 values"),
        (read_request, b'{"instances": [1, {"age": 3}]}', "neither objects nor lists"),
        (read_request, b'{"instances": [[1, 2]], "params": {"threshold": 0.5}}', "params"),
        (read_request, b"{}", "none of the input formats"),
        (read_request, b'{"inputs": [{"datatype": "FP32"}]}', "missing required field"),
        (
            read_request,
            json.dumps({"inputs": [tensor("x", [2, 2], "FP32", [1])]}).encode(),
            "not of the shape [2, 2]",
        ),
        (read_request, json.dumps({"inputs": [tensor("x", [1, 3], "FP32", [1, 2, 3])]}).encode(), "has 3 values"),
        (read_answer, b"{}", "neither predictions nor outputs"),
        (read_request, b'{"data": {"ndarray": [[30, 1000.5]]}}', "none of the input formats"),
        (read_request, json.dumps({"inputs": [tensor("x", [1], "COMPLEX", [1])]}).encode(), "unknown datatype"),
        (read_request, json.dumps({"inputs": [tensor("x", [1], "FP32", ["a"])]}).encode(), "x: is not FP32"),
        (read_request, json.dumps({"inputs": [tensor("x", [1], "FP64", [10**400])]}).encode(), "x: is not FP64"),
        (read_answer, b'{"data": {"ndarray": [[0.25, 0.75]]}}', "neither predictions nor outputs"),
        (read_answer, b"[1]", "neither predictions nor outputs"),
        (read_answer, b'{"outputs": 3}', "Expected `array`"),
        (read_answer, b'{"predictions": 3}', "where a value per row is expected"),
    ],
)
def test_a_body_that_can_not_be_read_says_why(read, body, said):
    with pytest.raises(BadInput) as caught:
        read(body, NUMBERS)
    assert said in str(caught.value)


def event(body=b"{}", **headers):
    given = {"content-type": "application/json", **{f"ce-{name}": value for name, value in headers.items()}}
    return read_event(given.get, body)


KSERVE = {
    "id": "689b15e7-84a1-4e89-9805-20809efc216d",
    "type": "org.kubeflow.serving.inference.request",
    "source": "http://localhost:9081/",
    "specversion": "1.0",
    "time": "2023-04-05T07:39:53.501752983Z",
    "component": "predictor",
    "inferenceservicename": "sklearn-iris",
    "namespace": "default",
}
SELDON = {
    "id": "6a572f54-658c-413f-a272-dd757903bd89",
    "type": "io.seldon.serving.inference.response",
    "requestid": "12b0d447-288e-42a0-a7b4-b630c8b4895c",
    "modelid": "model-test-predictor",
    "inferenceservicename": "model-test",
    "time": "2022-08-16T22:38:13.453580537Z",
}


def test_kserves_halves_share_their_id_and_component():
    request = event(b"{}", **KSERVE)
    answer = event(b"{}", **{**KSERVE, "type": "org.kubeflow.serving.inference.response"})
    assert request.service == "sklearn-iris"
    assert request.half.event == answer.half.event == "689b15e7-84a1-4e89-9805-20809efc216d predictor"
    assert (request.half.is_request, answer.half.is_request) == (True, False)
    assert request.half.moment == datetime(2023, 4, 5, 7, 39, 53, 501752, tzinfo=UTC)
    assert event(b"{}", **{**KSERVE, "component": "transformer"}).half.event != request.half.event


def test_seldons_halves_share_their_requests_id():
    answer = event(b"{}", **SELDON)
    request = event(b"{}", **{**SELDON, "id": "another", "type": "io.seldon.serving.inference.request"})
    assert answer.half.event == request.half.event == "12b0d447-288e-42a0-a7b4-b630c8b4895c model-test-predictor"


def test_an_event_without_a_time_or_a_service_is_one_all_the_same():
    found = event(b"{}", id="7", type=KSERVE["type"])
    assert (found.service, found.half.event, found.half.moment) == (None, "7", None)


@pytest.mark.parametrize(
    "data",
    [
        {"data": {"instances": [[1, 2]]}},
        {"data": '{"instances":[[1,2]]}'},
        {"data_base64": base64.b64encode(b'{"instances":[[1,2]]}').decode()},
    ],
)
def test_a_structured_event_is_the_same_as_a_binary_one(data):
    body = json.dumps({**KSERVE, "datacontenttype": "application/json", **data}).encode()
    header = {"content-type": "application/cloudevents+json; charset=utf-8"}.get
    assert read_event(header, body) == event(b'{"instances":[[1,2]]}', **KSERVE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"type": "io.seldon.serving.feedback"}, "'io.seldon.serving.feedback' is not taken"),
        ({"type": ""}, "is not taken"),
        ({"id": ""}, "ce-id: is missing"),
        ({"time": "yesterday"}, "'yesterday' is not RFC 3339"),
        ({"time": "2023-04-05T07:39:53"}, "has no time zone"),
    ],
)
def test_an_event_that_is_none_of_ours_is_refused(changes, said):
    with pytest.raises(BadInput) as caught:
        event(b"{}", **{**KSERVE, **changes})
    assert said in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data_base64": 3}', b'{"data_base64": "%"}'])
def test_a_structured_event_that_is_none_is_refused(body):
    with pytest.raises(BadInput):
        read_event({"content-type": "application/cloudevents+json"}.get, body)


def test_what_is_brought_twice_gets_the_same_id_and_others_get_others():
    ids = {prediction_id(NOW, derived_bits(f"call:{row}")) for row in range(1000)}
    assert len(ids) == 1000
    assert prediction_id(NOW, derived_bits("call:7")) in ids
    assert moment_of(min(ids)) == moment_of(max(ids)) == NOW


class Registry:
    """Where versions are found: it counts how often it was asked, and may be away."""

    def __init__(self):
        self.asked = []
        self.champion = "1"
        self.is_away = False

    def find(self, model, version):
        self.asked.append((model, version))
        if self.is_away:
            raise Unavailable("registry", "away")
        if version == "9":
            raise NotFound("model version", "churn/9")
        return Deployed(make_redaction(BINARY, {}, b""), version or self.champion)


def test_an_alias_is_read_again_after_a_while_and_a_version_never():
    registry, time = Registry(), [100.0]
    deployments = Deployments(registry.find, timedelta(seconds=10), lambda: time[0])
    assert [deployments.find("churn").version for _ in range(3)] == ["1"] * 3
    assert [deployments.find("churn", "7").version for _ in range(3)] == ["7"] * 3
    assert registry.asked == [("churn", None), ("churn", "7")]
    registry.champion, time[0] = "2", 111.0
    assert [deployments.find("churn", version).version for version in (None, "7")] == ["2", "7"]
    assert len(registry.asked) == 3


def test_while_the_registry_is_away_what_was_known_goes_on():
    registry = Registry()
    deployments = Deployments(registry.find, timedelta(0))
    registry.is_away = True
    with pytest.raises(Unavailable):
        deployments.find("churn")
    registry.is_away = False
    assert deployments.find("churn").version == "1"
    registry.is_away = True
    assert deployments.find("churn").version == "1"


def test_a_version_that_is_not_there_is_not_found():
    with pytest.raises(NotFound):
        Deployments(Registry().find, timedelta(0)).find("churn", "9")


EVENT = {"type": "org.kubeflow.serving.inference.request", "id": "e", "data": {"instances": [[1.0]]}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"id": "\ud800"}, "body: is no structured CloudEvent"),
        ({"id": "a\0"}, "ce-id: holds a NUL"),
        ({"requestid": "x" * 201}, "ce-requestid: is longer than 200"),
        ({"datacontenttype": "\0"}, "ce-datacontenttype: holds a NUL"),
        ({"time": "9999-12-31T23:59:59-23:59"}, "beyond the years 1 to 9999"),
    ],
)
def test_events_whose_attributes_can_not_be_stored_are_refused(changed, said):
    headers = {"content-type": "application/cloudevents+json"}
    with pytest.raises(BadInput, match=said):
        read_event(headers.get, json.dumps(EVENT | changed).encode())


@pytest.mark.parametrize("predictions", [{"a": 1}, {"prediction": 1}, [{"": ""}, "x"], {"prediction": "xy"}, [[{}]]])
def test_odd_predictions_are_bad_input(predictions):
    with pytest.raises(BadInput):
        read_answer(json.dumps({"predictions": predictions}).encode(), BINARY)
