"""What holds of any request: it gives its rows or says why not, by the fast way and by the rules alike."""

import json
import math
from datetime import datetime
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_loop.schema import Column, ColumnType, Task, make_contract
from feedback_loop.schema.protocol import Rows, WireError, concat_rows, make_decoder, oip, rows_table
from tests.streams import examples

T = ColumnType
FEATURES = (
    Column("d", T.DOUBLE),
    Column("s", T.STRING),
    Column("l", T.LONG),
    Column("i", T.INTEGER, required=False),
    Column("f", T.FLOAT, required=False),
    Column("b", T.BOOLEAN, required=False),
    Column("t", T.DATETIME, required=False),
)
CONTRACT = make_contract(
    model="any",
    task=Task.REGRESSION,
    features=FEATURES,
    label="y",
    label_type=T.DOUBLE,
    key=("order", "l"),
    key_types={"order": T.LONG},
)
DECODER = make_decoder(CONTRACT, None)
TIMELESS = make_decoder(
    make_contract(
        model="timeless",
        task=Task.REGRESSION,
        features=FEATURES[:-1],
        label="y",
        label_type=T.DOUBLE,
        key=("order", "l"),
        key_types={"order": T.LONG},
    ),
    None,
)
"""Of its bodies a single record stays one row."""
TENSOR = make_decoder(
    make_contract(
        model="tensor",
        task=Task.REGRESSION,
        features=(Column("feature_0", T.DOUBLE), Column("feature_1", T.DOUBLE)),
        label="y",
        label_type=T.DOUBLE,
    ),
    {"inputs": '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}]'},
)
JSON = "application/json"
FORMATS = ("dataframe_records", "dataframe_split", "instances", "inputs")

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
values = {
    "d": finite,
    "s": texts,
    "l": st.integers(-(2**63), 2**63 - 1),
    "i": st.integers(-(2**31), 2**31 - 1),
    "f": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "b": st.booleans(),
    "t": st.datetimes(min_value=datetime(1700, 1, 1), max_value=datetime(2200, 1, 1)).map(datetime.isoformat),  # noqa: DTZ001
    "order": st.integers(0, 2**40) | st.none(),
}
records = st.fixed_dictionaries(values)
plain = st.none() | st.booleans() | st.integers() | finite | texts | st.just(float("nan")) | st.just(float("inf"))
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
cells = st.one_of(plain, st.lists(plain, max_size=2), st.dictionaries(texts, plain, max_size=1))
names = st.sampled_from([*values, "other", "prediction_id"])
odd_rows = st.lists(st.dictionaries(names, cells, max_size=9) | plain | st.lists(cells, max_size=3), max_size=3)
odd_data = odd_rows | st.dictionaries(names, st.lists(cells, max_size=3) | cells, max_size=9) | anything
odd_split = st.fixed_dictionaries(
    {"data": odd_data}, optional={"columns": st.lists(names | plain, max_size=9) | plain, "index": anything}
)
nearly = st.builds(lambda row, name, cell: {**row, name: cell}, records, names, cells)
bodies = st.one_of(
    anything,
    st.dictionaries(st.sampled_from(FORMATS), odd_data | odd_split | st.lists(nearly, max_size=3), max_size=2),
    st.dictionaries(st.sampled_from([*FORMATS, "params", "prediction_ids", "prompt"]), odd_data, max_size=3),
)


def body_of(form, rows):
    columns = list(rows[0])
    return json.dumps(
        {
            "dataframe_records": {"dataframe_records": rows},
            "dataframe_split": {
                "dataframe_split": {"columns": columns, "data": [[row[name] for name in columns] for row in rows]},
            },
            "instances": {"instances": rows},
            "inputs": {"inputs": {name: [row[name] for row in rows] for name in columns}},
        }[form]
    ).encode()


def as_columns(rows):
    found = {name: [row[name] for row in rows] for name in rows[0]}
    return found | {"t": [datetime.fromisoformat(f"{each}+00:00") for each in found["t"]]}


@examples(40)
@given(st.lists(records, min_size=1, max_size=4), st.sampled_from(FORMATS))
def test_what_was_encoded_is_decoded_again(rows, form):
    decoded = DECODER.decode(body_of(form, rows), JSON, {}.get)
    assert (decoded.count, decoded.columns) == (len(rows), as_columns(rows))
    table = rows_table(CONTRACT, concat_rows(CONTRACT, [decoded, decoded]))
    assert table.num_rows == 2 * len(rows)
    assert table.slice(len(rows)).select(list(decoded.columns)).to_pydict() == decoded.columns


@examples(40)
@given(records, st.sampled_from(["dataframe_records", "instances"]), st.integers(0, 9) | st.none())
def test_a_single_record_stays_a_row_and_means_the_same(record, form, order):
    del record["t"]
    record["order"] = None
    header = {"x-key-order": str(order)}.get if order is not None else {}.get
    rows = TIMELESS.decode(body_of(form, [record]), JSON, header)
    assert rows.columns == {**{name: [value] for name, value in record.items()}, "order": [order]}
    given = TIMELESS.decode(body_of(form, [{**record, "order": 7}]), JSON, header)
    assert given.row is not None or "" in record.values()
    assert given.columns["order"] == [7]
    both = concat_rows(TIMELESS.contract, [rows, given, given])
    assert [list(values) for values in both.columns.values()] == [
        [*rows.columns[name], *given.columns[name], *given.columns[name]] for name in both.columns
    ]


def outcome(decode, *arguments):
    """What was decoded, or how it was refused."""
    try:
        return decode(*arguments, {}.get)
    except WireError as error:
        return error


@pytest.mark.parametrize("decoder", [DECODER, TIMELESS, TENSOR], ids=["columns", "timeless", "tensor"])
@examples(80)
@given(bodies)
def test_any_json_gives_rows_or_says_what_is_wrong(decoder, content):
    found = outcome(decoder.decode, json.dumps(content).encode(), JSON)
    if isinstance(found, Rows):
        rows_table(decoder.contract, found)
    else:
        assert found.status == 400
        assert json.loads(found.body())["message"]


@examples(80)
@given(st.binary(max_size=40) | bodies.map(lambda content: json.dumps(content).encode()[:-1]))
def test_any_bytes_give_rows_or_say_what_is_wrong(body):
    for content_type in (JSON, "text/csv"):
        found = outcome(DECODER.decode, body, content_type)
        assert isinstance(found, Rows) or found.status == 400
    with pytest.raises(WireError):
        oip.decode_infer(DECODER, body, {}.get)


@pytest.mark.parametrize("decoder", [DECODER, TIMELESS], ids=["columns", "timeless"])
@examples(150)
@given(bodies | st.lists(nearly, max_size=3).map(lambda rows: {"dataframe_records": rows}))
def test_the_fast_way_gives_what_the_rules_give(decoder, content):
    body = json.dumps(content).encode()
    fast = decoder._fast.decode(body)
    if fast is None:
        return
    ruled = decoder._slow(body, JSON)
    assert fast.count == ruled.count
    assert fast.ids in (ruled.ids, None) or list(fast.ids) == ruled.ids
    columns = fast.columns if fast.row is None else {n: [v] for n, v in zip(decoder._names, fast.row, strict=True)}
    first, second = (
        rows_table(decoder.contract, Rows(ruled.count, each, [None] * ruled.count))
        for each in (columns, ruled.columns)
    )
    assert first.equals(second)


tensors = st.lists(
    st.fixed_dictionaries(
        {
            "name": names,
            "datatype": st.sampled_from(["FP64", "FP32", "INT64", "INT32", "BYTES", "BOOL", "UINT8", "X"]),
            "shape": st.lists(st.integers(-1, 3), max_size=3),
            "data": st.lists(cells, max_size=4) | plain,
        },
        optional={"parameters": st.dictionaries(st.just("binary_data_size"), plain)},
    ),
    max_size=4,
)


@examples(80)
@given(
    st.fixed_dictionaries({"inputs": tensors}, optional={"id": plain, "outputs": anything, "parameters": anything})
)
def test_any_request_for_inference_gives_rows_or_says_what_is_wrong(content):
    found = outcome(partial(oip.decode_infer, DECODER), json.dumps(content).encode())
    if isinstance(found, oip.Infer):
        rows_table(CONTRACT, found.rows)
    else:
        assert found.status == 400


@examples(40)
@given(st.lists(records, min_size=1, max_size=4))
def test_tensors_give_the_rows_that_they_hold(rows):
    kinds = {"d": "FP64", "s": "BYTES", "l": "INT64", "i": "INT32", "f": "FP32", "b": "BOOL", "t": "BYTES"}
    inputs = [
        {"name": name, "datatype": kind, "shape": [len(rows)], "data": [row[name] for row in rows]}
        for name, kind in kinds.items()
    ]
    decoded = oip.decode_infer(DECODER, json.dumps({"inputs": inputs}).encode(), {}.get).rows
    expected = as_columns(rows) | {"order": [None] * len(rows)}
    assert decoded.columns == expected
    assert not any(math.isnan(value) for value in decoded.columns["d"])
