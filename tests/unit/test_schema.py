import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_loop.errors import BadInput
from feedback_loop.schema import (
    Column,
    ColumnType,
    as_table,
    check_prediction_id,
    coerce,
    misfits,
    moment_of,
    numbered_ids,
    prediction_id,
    with_booleans,
)
from feedback_loop.schema.protocol import WireError, make_decoder
from tests.builders import binary_contract

C, T = Column, ColumnType
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def coerced(values, kind, *, text=False):
    return coerce(as_table({"x": values}), [C("x", kind)], text=text).column("x").to_pylist()


def test_nanoseconds_which_any_arithmetic_of_pandas_makes_are_cut_but_for_a_keys(capsys):
    moments = pd.Series(pd.to_datetime([1_700_000_000_123_456_789, -1], utc=True))
    expected = [datetime(2023, 11, 14, 22, 13, 20, 123456, UTC), datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)]
    for _ in range(2):
        found = coerce(as_table({"cut": moments}), [C("cut", T.DATETIME)]).column("cut").to_pylist()
        assert found == expected
    assert capsys.readouterr().out.count("nanoseconds_cut") == 1
    with pytest.raises(BadInput, match="does not fit the type datetime"):
        coerce(as_table({"key": moments}), [C("key", T.DATETIME, is_key=True)])


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, 3], T.LONG, [1, None, 3]),
        ([1.0, 2.0], T.LONG, [1, 2]),
        ([1, 2], T.DOUBLE, [1.0, 2.0]),
        ([1.5, float("nan")], T.DOUBLE, [1.5, None]),
        (["a", None], T.STRING, ["a", None]),
        ([True, False], T.BOOLEAN, [True, False]),
        (["2026-03-01T01:00:00+01:00", "2026-03-01"], T.DATETIME, [NOW, NOW]),
        ([None, None], T.BOOLEAN, [None, None]),
        (pd.Series(["a", "b"], dtype="category"), T.STRING, ["a", "b"]),
        (pd.Series([1, None], dtype="Int64"), T.LONG, [1, None]),
        (np.array([1, 2], dtype="int8"), T.DOUBLE, [1.0, 2.0]),
        ([float("nan")] * 2, T.STRING, [None, None]),
        ([float("nan")] * 2, T.BOOLEAN, [None, None]),
        (pd.Series([np.nan, np.nan]), T.DATETIME, [None, None]),
        (pd.Series([], dtype="float64"), T.STRING, []),
        ([Decimal(2**53 + 1), Decimal("57.00"), None], T.LONG, [2**53 + 1, 57, None]),
        ([Decimal("0.5")], T.DOUBLE, [0.5]),
        ([Decimal(1), 0], T.LONG, [1, 0]),
    ],
)
def test_values_widen_where_nothing_is_lost(values, kind, expected):
    assert coerced(values, kind) == expected


@pytest.mark.parametrize(
    ("values", "kind", "row"),
    [
        ([1, 2.5], T.LONG, 1),
        ([True], T.LONG, 0),
        ([Decimal(1), Decimal("2.5")], T.LONG, 1),
        ([Decimal(2**63)], T.LONG, 0),
        ([Decimal(5)], T.STRING, 0),
        ([1], T.BOOLEAN, 0),
        (["1"], T.LONG, 0),
        ([1], T.STRING, 0),
        ([3_000_000_000], T.INTEGER, 0),
        ([1e300], T.FLOAT, 0),
        ([float("inf")], T.LONG, 0),
        (["2026-03-01", "soon"], T.DATETIME, 1),
        ([[1], [2]], T.DOUBLE, 0),
    ],
)
def test_what_would_lose_something_is_refused_with_its_row(values, kind, row):
    with pytest.raises(BadInput) as caught:
        coerced(values, kind)
    assert (caught.value.problems[0].row, caught.value.problems[0].field) == (row, "x")
    assert caught.value.cure == "Nothing was taken."


@pytest.mark.parametrize(
    ("values", "kind", "bad"),
    [
        ([0, 1, "two", 3], T.LONG, [2]),
        (["two", "three", 1], T.LONG, [0, 1]),  # by the column's type, and not by what most of them are
        ([1, 2.0, 2.5, None, float("nan"), "x"], T.LONG, [2, 5]),
        (["a", 1, None, float("nan"), [2]], T.STRING, [1, 4]),
        ([2**70, 2**63, -1, True], T.LONG, [0, 1, 3]),
        ([NOW, "2026-03-01", "soon", 5], T.DATETIME, [2, 3]),
        ([{"a": 1}, {"a": "b"}, b"c", "d"], T.STRING, [0, 1, 2]),
        (["\ud800", "a"], T.STRING, [0]),
    ],
)
def test_values_of_another_kind_are_each_named_by_their_row_and_the_others_are_good(values, kind, bad):
    with pytest.raises(BadInput) as caught:
        coerced(values, kind)
    assert [problem.row for problem in caught.value.problems] == bad
    assert all(f"does not fit the type {kind}" in problem.cause for problem in caught.value.problems)
    table = as_table({"x": values})
    good = table.filter(pa.array([row not in bad for row in range(len(values))]))
    assert coerce(good, [C("x", kind)]).num_rows == len(values) - len(bad)


def test_more_kinds_than_a_union_has_are_refused_row_by_row():
    values = [{f"x{number}": number} for number in range(150)]
    with pytest.raises(BadInput) as caught:
        coerced([*values, [1]], T.STRING)
    assert caught.value.total == 151


def test_zero_and_one_are_booleans_whatever_stands_beside_them():
    for values, expected in (
        ([1, 0, None], [True, False, None]),
        ([1, 2, "x"], [True, 2, "x"]),
        ([0, 2], [False, 2]),
        ([Decimal(1), Decimal(0), None], [True, False, None]),
    ):
        assert with_booleans(as_table({"x": values}), [C("x", T.BOOLEAN)]).column("x").to_pylist() == expected


@pytest.mark.parametrize("text", [False, True])
def test_an_empty_text_is_missing_in_a_key_and_a_value_elsewhere(text):
    table = as_table({"x": ["", "a", None]})
    for is_key, expected in ((True, [None, "a", None]), (False, ["", "a", None])):
        found = coerce(table, [C("x", T.STRING, is_key=is_key)], text=text)
        assert found.column("x").to_pylist() == expected
    contract = binary_contract(key=("month", "plan"))
    assert [(each.name, each.is_key) for each in (*contract.key, *contract.features)] == [
        ("month", True),
        ("plan", True),
        ("age", False),
        ("plan", False),
    ]


def test_text_is_parsed_for_csv_and_empty_is_missing():
    assert coerced(["1", "", " 3"], T.LONG, text=True) == [1, None, 3]
    assert coerced(["true", "0"], T.BOOLEAN, text=True) == [True, False]
    with pytest.raises(BadInput, match="row 1: x: 'x' does not fit"):
        coerced(["1", "x"], T.DOUBLE, text=True)


def test_text_that_is_too_large_for_a_float_is_refused():
    assert coerced(["0.5", "-3", None], T.FLOAT, text=True) == [0.5, -3.0, None]
    with pytest.raises(BadInput, match="row 1"):
        coerced(["1", "1e40"], T.FLOAT, text=True)


def test_a_missing_column_is_named_and_an_optional_one_is_null():
    table = as_table({"a": [1.0]})
    with pytest.raises(BadInput, match="b: is missing; its type is string"):
        coerce(table, [C("a", T.DOUBLE), C("b", T.STRING)])
    assert coerce(table, [C("a", T.DOUBLE), C("b", T.STRING, required=False)]).column("b").to_pylist() == [None]


def test_columns_that_nobody_asked_for_can_hold_anything():
    frame = pd.DataFrame({"x": [1.0, 2.0], "junk": [object(), "a"]})
    assert as_table(frame, {"x"}).column_names == ["x"]


def test_tables_come_from_rows_columns_and_frames_alike():
    rows = [{"x": 1, "y": "a"}, {"x": 2}]
    expected = {"x": [1, 2], "y": ["a", None]}
    assert as_table(rows).to_pydict() == expected
    assert as_table(expected).to_pydict() == expected
    assert as_table(pd.DataFrame(expected)).to_pydict() == expected
    assert as_table(pa.table(expected)).to_pydict() == expected


def test_a_wanted_column_that_is_there_twice_is_refused_and_another_is_not_looked_at():
    twice = pd.DataFrame([[1.0, 2.0, 3.0, 4.0]], columns=["x", "y", "x", "z"])
    arrays = pa.table([pa.array([1.0]), pa.array([2.0])], names=["x", "x"])
    for frame in (twice, arrays):
        with pytest.raises(BadInput, match="x: is there twice"):
            coerce(as_table(frame, {"x"}), [C("x", T.DOUBLE)])
    assert coerce(as_table(twice, {"y"}), [C("y", T.DOUBLE)]).to_pydict() == {"y": [2.0]}


def test_columns_of_different_length_are_refused():
    with pytest.raises(BadInput, match="differ in length"):
        as_table({"a": [1], "b": [1, 2]})


def test_text_that_is_no_unicode_is_refused():
    with pytest.raises(BadInput):
        coerced(["\ud800"], T.STRING)


def test_prediction_ids_are_uuid7_of_their_moment_and_sort_by_it():
    ids = [prediction_id(NOW + timedelta(milliseconds=step)) for step in range(5)]
    assert ids == sorted(ids)
    assert [moment_of(each) for each in ids] == [NOW + timedelta(milliseconds=step) for step in range(5)]
    assert all(each[14] == "7" and each[19] in "89ab" for each in ids)
    assert len({prediction_id(NOW) for _ in range(1000)}) == 1000


def test_a_callers_id_is_taken_in_any_spelling():
    given = prediction_id(NOW)
    assert check_prediction_id(given.upper(), NOW) == given
    assert check_prediction_id(given.replace("-", ""), NOW) == given


@pytest.mark.parametrize(
    "text",
    [
        "not one",
        "c232ab00-9414-4e1f-8d1b-2a3f5a0e7b11",  # version 4
        prediction_id(NOW + timedelta(days=2), lambda _: 0),
        prediction_id(datetime(1999, 12, 31, tzinfo=UTC), lambda _: 0),
        None,
        7,
    ],
)
def test_an_id_that_is_no_uuid7_of_now_or_before_is_refused(text):
    with pytest.raises(BadInput) as caught:
        check_prediction_id(text, NOW, row=3)
    assert caught.value.problems[0].row == 3


def test_bad_rows_are_found_among_many_of_every_kind():
    kinds = [1, 2.0, 2.5, 2**70, "1", True, None, [1], 10**10, float("nan")]
    values = [kinds[row % len(kinds)] for row in range(600)]
    column = Column("x", T.INTEGER, required=False)
    bad = [row for row in range(600) if row % len(kinds) in (2, 3, 4, 5, 7, 8)]
    assert [problem.row for problem in misfits(as_table({"x": values}).column("x"), column)] == bad
    for plain in ([0.5, 1.0, None] * 200, [2**31, 5, None] * 200, ["a", "5", None] * 200):
        found = misfits(as_table({"x": plain}).column("x"), column, text=True)
        assert [problem.row for problem in found] == list(range(0, 600, 3))


@pytest.mark.parametrize(
    "moment",
    [
        pa.array([-8_629_764_877_457_555_455], pa.timestamp("us", "UTC")),
        pa.array([253_402_300_800_000_000], pa.timestamp("us")),
        pa.array([10**13], pa.timestamp("s")),
        pa.array([10**9], pa.date32()),
        ["0001-01-01T00:00+23:59"],
        ["9999-12-31T23:59:59-23:59"],
    ],
)
def test_moments_that_nobody_could_read_back_are_refused_by_row_and_field(moment):
    with pytest.raises(BadInput) as refused:
        coerce(as_table({"t": moment}), [Column("t", T.DATETIME)])
    assert [(problem.row, problem.field) for problem in refused.value.problems] == [(0, "t")]


def test_texts_of_keys_and_segments_are_short_and_others_are_as_they_are():
    contract = binary_contract()
    assert {column.name for column in (*contract.features, *contract.key) if column.is_indexed} >= {"plan", "month"}
    month = next(column for column in contract.key if column.name == "month")
    coerce(as_table({"month": ["x" * 500]}), [month])
    for long in ("x" * 501, "\U0001f600" * 126):
        with pytest.raises(BadInput, match="row 1: month: is longer than 500 bytes"):
            coerce(as_table({"month": ["x", long]}), [month])
    coerce(as_table({"note": ["x" * 501]}), [Column("note", T.STRING)])


@pytest.mark.parametrize(
    ("record", "header"),
    [({"plan": "x" * 501}, {}), ({"month": "x" * 501}, {}), ({}, {"x-key-month": "x" * 501})],
)
def test_requests_have_short_keys_and_segments(record, header):
    decoder = make_decoder(binary_contract(), None)
    row = {"age": 1.0, "plan": "a", **record}
    for rows in ([row], [row, row]):
        given = {name: json.dumps([text] * len(rows)) for name, text in header.items()}
        with pytest.raises(WireError, match="is longer than 500 bytes"):
            decoder.decode(json.dumps({"dataframe_records": rows}).encode(), "application/json", given.get)


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_a_key_in_a_header_is_text_that_can_be_stored(text):
    body, header = b'{"dataframe_records": [{"age": 1.0, "plan": "a"}]}', {"x-key-month": json.dumps([text])}
    with pytest.raises(WireError, match="month: holds"):
        make_decoder(binary_contract(), None).decode(body, "application/json", header.get)


@given(first=st.integers(0, 2**32 - 40), count=st.integers(0, 40), seed=st.text(max_size=8))
def test_ids_of_a_files_rows_are_uuids_of_their_moment_in_the_order_of_the_rows(first, count, seed):
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def ids_of(seed, first, count):
        made = numbered_ids(moment, seed, first, count)
        made.validate(full=True)
        return made.to_pylist()

    ids = ids_of(seed, first, count)
    assert ids == sorted(set(ids))
    assert len(ids) == count
    assert all(check_prediction_id(each, moment) == each and moment_of(each) == moment for each in ids)
    cut = count // 3  # asked for in parts, or by another job
    assert ids == [*ids_of(seed, first, cut), *ids_of(seed, first + cut, count - cut)]
    assert not {*ids} & {*ids_of(seed + "'", first, count)}


def test_a_file_of_more_rows_than_ids_can_count_is_refused():
    with pytest.raises(BadInput, match="over 4,294,967,296"):
        numbered_ids(datetime(2026, 3, 1, tzinfo=UTC), "seed", 2**32 - 1, 2)
