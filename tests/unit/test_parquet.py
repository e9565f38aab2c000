"""Parquet bodies: keys and ids beside the features, and files that are small only while they are packed."""

import io
import json
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedback_loop.capture.payloads import read_request
from feedback_loop.errors import BadInput
from feedback_loop.schema import Column, ColumnType, prediction_id
from feedback_loop.schema.protocol import WireError, make_decoder
from tests.builders import binary_contract
from tests.contract.external import NOW

PARQUET = "application/vnd.apache.parquet"
DECODER = make_decoder(binary_contract(), None)
X, Y = (Column(name, ColumnType.DOUBLE) for name in "xy")
SPEC = {"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}
TENSOR = make_decoder(binary_contract(features=(X, Y), segments=()), {"inputs": json.dumps([SPEC])})


def packed(columns, **options):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def decode(body, decoder=DECODER):
    return decoder.decode(body, PARQUET, {}.get)


def refused(body, decoder=DECODER):
    with pytest.raises(WireError) as caught:
        decode(body, decoder)
    return caught.value.status, caught.value.message


def test_keys_and_ids_stand_beside_the_features():
    ids = [prediction_id(NOW), None]
    rows = decode(
        packed(
            {"prediction_id": ids, "customer": [1, 2], "month": ["m", ""], "age": [1.5, None], "plan": ["a", None]}
        )
    )
    assert (rows.count, rows.ids) == (2, ids)
    assert rows.columns == {"age": [1.5, None], "plan": ["a", None], "customer": [1, 2], "month": ["m", None]}


def test_what_another_server_answered_is_read_as_it_is():
    body = packed({"age": [1.5], "plan": ["a"], "other": [1]})
    assert read_request(body, binary_contract(), PARQUET).select(["age", "plan"]).to_pylist() == [
        {"age": 1.5, "plan": "a"}
    ]
    with pytest.raises(BadInput, match="is not Parquet"):
        read_request(b"PAR1", binary_contract(), PARQUET)


def test_an_index_of_pandas_is_no_column():
    import pandas as pd

    frame = pd.DataFrame({"age": [1.5], "plan": ["a"], "customer": [7]}).set_index("customer")
    sink = io.BytesIO()
    frame.to_parquet(sink)
    assert decode(sink.getvalue()).columns["customer"] == [None]


@pytest.mark.parametrize("cut", [20, 200, 400])
def test_a_file_that_is_torn_or_overwritten_is_a_bad_request(cut):
    body = packed({"age": [float(place) for place in range(100)], "plan": [str(place) for place in range(100)]})
    assert refused(body[:-cut])[0] == 400
    with suppress(WireError):  # what was overwritten may be nothing that is looked at
        decode(body[:cut] + b"\xff" * 40 + body[cut + 40 :])


def test_texts_that_are_no_text_are_refused():
    table = pa.table({"age": [1.5], "plan": pa.array([b"\xff"])})
    table = table.set_column(1, "plan", table.column("plan").cast(pa.string(), safe=False))
    assert refused(packed(table))[0] == 400
    assert "is there twice" in refused(packed(pa.table([[1.0], [1.0], ["a"]], names=["age", "age", "plan"])))[1]


def test_a_tensors_columns_are_taken_as_they_come_and_are_of_its_type():
    assert decode(packed({"b": [1.0], "a": [2.0], "customer": [3]}), TENSOR).columns["x"] == [1.0]
    assert "does not match expected shape (-1, 2)" in refused(packed({"b": [1.0]}), TENSOR)[1]
    assert (
        "dtype of input int64 does not match expected dtype float64"
        in refused(packed({"b": [1], "a": [2]}), TENSOR)[1]
    )
