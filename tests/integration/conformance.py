"""Cases of MLflow's scoring protocol, good and bad, and what we answer otherwise than MLflow, with the reason.

`tests/integration/test_conformance.py` sends each of them to our server and to `mlflow models serve`.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"

ROW = {"amount": 12.5, "count": 3, "small": 2, "plan": "pro", "active": True}
OTHER = {"amount": 99.0, "count": 1, "small": 7, "plan": "basic", "active": False}
NAMES = list(ROW)
BOTH = {name: [ROW[name], OTHER[name]] for name in NAMES}
HEADER = b"amount,count,small,plan,active\n"


@dataclass(frozen=True)
class Case:
    """A request of `POST /invocations`."""

    name: str
    body: bytes
    content_type: str = JSON


def case(name: str, body: Any, content_type: str = JSON) -> Case:
    return Case(name, body if isinstance(body, bytes) else json.dumps(body).encode(), content_type)


def records(*rows: Any) -> dict[str, Any]:
    return {"dataframe_records": list(rows)}


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in row.items() if each != name}


def split(data: Any, columns: Any = NAMES, **more: Any) -> dict[str, Any]:
    return {"dataframe_split": {"columns": columns, "data": data, **more}}


def listed(row: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": {name: [value] for name, value in row.items()}}


FORMATS = {
    "records": records,
    "split": lambda row: split([list(row.values())], list(row)),
    "instances": lambda row: {"instances": [row]},
    "inputs": listed,
    "rows of inputs": lambda row: {"inputs": [row]},
}

VALUES: list[tuple[str, Any]] = [
    ("amount", 7),
    ("amount", "7.5"),
    ("amount", "dear"),
    ("amount", None),
    ("amount", True),
    ("amount", [1]),
    ("amount", {"a": 1}),
    ("amount", 2**70),
    ("amount", 2**53 + 1),
    ("amount", 1e300),
    ("count", 4.0),
    ("count", 4.5),
    ("count", "4"),
    ("count", "4.5"),
    ("count", None),
    ("count", True),
    ("count", 2**53 + 1),
    ("count", 2**63),
    ("count", 2**64),
    ("small", 2.0),
    ("small", 2**31),
    ("plan", "unseen"),
    ("plan", ""),
    ("plan", None),
    ("plan", 5),
    ("plan", 1.5),
    ("plan", True),
    ("plan", ["pro"]),
    ("plan", {"a": 1}),
    ("active", 1),
    ("active", 0),
    ("active", None),
    ("active", "false"),
    ("active", ""),
    ("ratio", 0.5),
    ("ratio", "x"),
    ("ratio", None),
    ("flag", True),
    ("flag", None),
    ("when", "2026-01-02"),
    ("when", "2026-01-02T03:04:05"),
    ("when", "2026-01-02T03:04:05Z"),
    ("when", 5),
    ("when", "soon"),
    ("when", "02.01.2026"),
    ("other", "ignored"),
]

CASES = [
    *(case(f"{form}: a row", make(ROW)) for form, make in FORMATS.items()),
    *(
        case(f"{form}: {name} {value!r}", make({**ROW, name: value}))
        for form, make in FORMATS.items()
        for name, value in VALUES
    ),
    *(
        case(f"{form}: no {name}", make(without(ROW, name)))
        for form, make in FORMATS.items()
        for name in ("amount", "plan")
    ),
    case("records: two rows", records(ROW, OTHER)),
    case("records: none", records()),
    case("records: an empty one", records({})),
    case("records: numbers", records(1, 2)),
    case("records: lists", records(list(ROW.values()))),
    case("records: a row and a number", records(ROW, 5)),
    case("records: a row and null", records(ROW, None)),
    case("records: an object", {"dataframe_records": ROW}),
    case("records: text", {"dataframe_records": "x"}),
    case("records: null", {"dataframe_records": None}),
    case(
        "records: rows that lack something",
        records(ROW, {**OTHER, "amount": None}, without(ROW, "plan")),
    ),
    case("records: an integer that one row lacks", records(ROW, without(ROW, "count"))),
    case("split: two rows", split([list(ROW.values()), list(OTHER.values())])),
    case("split: another order", split([["pro", 3, 12.5, True, 2]], ["plan", "count", "amount", "active", "small"])),
    case("split: more columns", split([[*ROW.values(), [1], None]], [*NAMES, "x", "y"])),
    case("split: no columns", {"dataframe_split": {"data": [list(ROW.values())]}}),
    case("split: no data", {"dataframe_split": {"columns": NAMES}}),
    case("split: null as data", split(None)),
    case("split: no rows", split([])),
    case("split: an index", split([list(ROW.values())], index=["a"])),
    case("split: an index that is too long", split([list(ROW.values())] * 2, index=[1, 2, 3])),
    case("split: an unknown key", split([list(ROW.values())], other=1)),
    case("split: a short row", split([list(ROW.values()), [1.0, 2, 3, "a", True][:3]])),
    case("split: a long row", split([[*ROW.values(), 1]])),
    case("split: rows that are too short", split([[1.0, 2]])),
    case("split: a column twice", split([[*ROW.values(), 1.0]], [*NAMES, "amount"])),
    case("split: rows as objects", split([ROW, OTHER])),
    case("split: columns as lists", split({name: [value] for name, value in ROW.items()})),
    case("split: numbers", split([1, 2])),
    case("split: a number", split(5)),
    case("split: text", split("ab")),
    case("split: a row and null", split([list(ROW.values()), None])),
    case("split: columns are text", split([list(ROW.values())], "abcde")),
    case("split: a column named null", split([[*ROW.values(), 1]], [*NAMES, None])),
    case("split: a column named by a list", split([list(ROW.values())], [*NAMES[:4], ["active"]])),
    case("split: a list", {"dataframe_split": [1]}),
    case("split: null", {"dataframe_split": None}),
    case("instances: two rows", {"instances": [ROW, OTHER]}),
    case("instances: lists", {"instances": [list(ROW.values())]}),
    case("instances: lists of numbers", {"instances": [[1, 2, 3, 4, 5]]}),
    case("instances: none", {"instances": []}),
    case("instances: null", {"instances": None}),
    case("instances: a number", {"instances": 5}),
    case("instances: text", {"instances": "x"}),
    case("instances: columns", {"instances": {name: [value] for name, value in ROW.items()}}),
    case("instances: rows that lack something", {"instances": [ROW, without(OTHER, "plan")]}),
    case("instances: an optional column in some rows", {"instances": [{**ROW, "ratio": 0.5}, OTHER]}),
    case("instances: a row and a number", {"instances": [ROW, 5]}),
    case("instances: a number and a row", {"instances": [5, ROW]}),
    case("instances: an empty row", {"instances": [{}]}),
    case("inputs: two rows", {"inputs": BOTH}),
    case("inputs: single values", {"inputs": ROW}),
    case(
        "inputs: a single value for two rows",
        {"inputs": {name: [ROW[name], OTHER[name]] if name != "plan" else "pro" for name in NAMES}},
    ),
    case(
        "inputs: columns of different length",
        {"inputs": {**BOTH, "plan": ["pro"]}},
    ),
    case("inputs: rows that lack something", {"inputs": [ROW, without(OTHER, "amount")]}),
    case("inputs: an integer that one row lacks", {"inputs": [ROW, without(ROW, "count")]}),
    case("inputs: nothing", {"inputs": {}}),
    case("inputs: no rows", {"inputs": []}),
    case("inputs: an empty row", {"inputs": [{}]}),
    case("inputs: null", {"inputs": None}),
    case("inputs: numbers", {"inputs": [1, 2]}),
    case("inputs: text", {"inputs": "x"}),
    case("inputs: lists in lists", {"inputs": {**BOTH, "amount": [[1], [2]]}}),
    case("inputs: ragged lists", {"inputs": {**BOTH, "amount": [1, [2]]}}),
    case("inputs: an object as a column", {"inputs": {**ROW, "amount": {"a": 1}}}),
    case("params: one", {**records(ROW), "params": {"threshold": 0.7}}),
    case("params: a whole number", {**records(ROW), "params": {"threshold": 1}}),
    case("params: text", {**records(ROW), "params": {"threshold": "high"}}),
    case("params: a list", {**records(ROW), "params": {"threshold": [1]}}),
    case("params: null", {**records(ROW), "params": None}),
    case("params: an unknown one", {**records(ROW), "params": {"other": 1}}),
    case("params: no object", {**records(ROW), "params": 5}),
    case("body: nothing", b""),
    case("body: not whole", b'{"dataframe_records": ['),
    case("body: a list", b"[]"),
    case("body: a number", b"5"),
    case("body: null", b"null"),
    case("body: no UTF-8", b'{"dataframe_records": "\xff"}'),
    case("body: a byte order mark", b"\xef\xbb\xbf" + json.dumps(records(ROW)).encode()),
    case("body: no format", {"rows": [ROW]}),
    case("body: two formats", {**records(ROW), "instances": [ROW]}),
    case("body: more beside a format", {**records(ROW), "signature_name": "x", "other": 1}),
    case("body: for a language model", {"prompt": "hello"}),
    case("body: NaN", json.dumps(records({**ROW, "amount": float("nan")})).encode()),
    case(
        "body: a name twice",
        json.dumps(records(ROW)).replace('"amount": 12.5', '"amount": 1, "amount": 12.5').encode(),
    ),
    case("body: an exponent too large", json.dumps(records(ROW)).replace("12.5", "1e999").encode()),
    case("body: nested too deep", b"[" * 100_000),
    case("body: too many digits", json.dumps(records(ROW)).replace("12.5", "9" * 5000).encode()),
    case("body: half a surrogate pair", json.dumps(records({**ROW, "plan": "\ud800"})).encode()),
    case("type: other parameters", records(ROW), "application/json; version=1"),
    case("type: UTF-8", records(ROW), "application/json; charset=UTF-8"),
    case("type: another charset", records(ROW), "application/json; charset=latin1"),
    case("type: XML", b"<a/>", "application/xml"),
    case("type: capitals", records(ROW), "Application/JSON"),
    case("csv: a row", HEADER + b"12.5,3,2,pro,True\n", CSV),
    case(
        "csv: two rows and an index",
        b",amount,count,small,plan,active\n0,12.5,3,2,pro,True\n1,99,1,7,basic,False\n",
        CSV,
    ),
    case("csv: quotes", b'"plan","amount",count,small,active\r\n"a ""b"", c",1.5,2,3,false\r\n', CSV),
    case("csv: missing values", HEADER + b",3,2,NA,True\n", CSV),
    case("csv: a missing integer", HEADER + b"1,,2,a,True\n", CSV),
    case("csv: a fraction as integer", HEADER + b"1,1.5,2,a,True\n", CSV),
    case("csv: text as a number", HEADER + b"dear,3,2,a,True\n", CSV),
    case("csv: text as a boolean", HEADER + b"1,3,2,a,maybe\n", CSV),
    case("csv: a missing boolean", HEADER + b"1,3,2,a,\n", CSV),
    case("csv: numbers as booleans", HEADER + b"1,3,2,a,1\n1,3,2,a,0\n", CSV),
    case("csv: no such column", b"amount,count,small,active\n1,3,2,True\n", CSV),
    case("csv: a long row", HEADER + b"1,3,2,a,True\n1,3,2,a,True,9\n", CSV),
    case("csv: a short row", b"amount,count,small,active,plan\n1,3,2,True,a\n1,3,2,True\n", CSV),
    case("csv: an open quote", b'amount,count,small,plan,active\n1,3,2,"a,True\n', CSV),
    case("csv: nothing", b"", CSV),
    case("csv: only a header", HEADER, CSV),
    case("csv: no UTF-8", b"\xff\xfe", CSV),
    case("csv: a moment", b"amount,count,small,plan,active,when\n1,3,2,a,True,2026-01-02\n", CSV),
    case("csv: a column twice", b"amount,count,small,plan,active,amount\n1,3,2,a,True,1\n", CSV),
    case("csv: whole numbers as fractions", HEADER + b"1,3.0,2e0,a,True\n", CSV),
    case("csv: 2 as a boolean", HEADER + b"1,3,2,a,2\n", CSV),
    case("csv: a missing optional boolean", b"amount,count,small,plan,active,flag\n1,3,2,a,True,\n", CSV),
    case("csv: words for nothing", HEADER + b"null,3,2,None,True\nn/a,3,2,,True\n", CSV),
    case("csv: an integer out of range", HEADER + b"1,3,3000000000,a,True\n", CSV),
]


def parquet(name: str, **changes: Any) -> Case:
    """Two rows as a file; columns (Arrow arrays, or values) in the place of the usual ones, None for none."""
    usual = pa.table(
        {
            "amount": BOTH["amount"],
            "count": BOTH["count"],
            "small": pa.array(BOTH["small"], pa.int32()),
            "plan": BOTH["plan"],
            "active": BOTH["active"],
        }
    )
    columns = {each: usual.column(each) for each in usual.column_names} | changes
    sink = io.BytesIO()
    pq.write_table(pa.table({each: values for each, values in columns.items() if values is not None}), sink)
    return Case(f"parquet: {name}", sink.getvalue(), PARQUET)


_MOMENTS = [datetime(2026, 1, 2, 3, 4, 5), datetime(2026, 1, 3)]  # noqa: DTZ001 (as pandas has them)

CASES += [
    parquet("two rows"),
    parquet("more columns, in another order", zebra=[1, 2]),
    parquet("no such column", plan=None),
    parquet("no such column, and one more", plan=None, zebra=[1, 2]),
    *(
        parquet(f"{name} as {kind}: {values[0]}", **{name: pa.array(values, kind)})
        for name, kind, values in [
            ("amount", pa.float32(), [1.5, 2.5]),
            ("amount", pa.float16(), np.array([1.5, 2.5], np.float16)),
            ("amount", pa.int32(), [1, 2]),
            ("amount", pa.int16(), [1, 2]),
            ("amount", pa.uint32(), [1, 2]),
            ("amount", pa.int64(), [5, 2]),
            ("amount", pa.string(), ["1", "2"]),
            ("amount", pa.bool_(), [True, False]),
            ("amount", pa.decimal128(5, 2), [Decimal("1.5"), Decimal("2.5")]),
            ("count", pa.int32(), [1, 2]),
            ("count", pa.uint8(), [1, 2]),
            ("count", pa.uint64(), [1, 2]),
            ("count", pa.float64(), [1, 2]),
            ("count", pa.bool_(), [True, False]),
            ("count", pa.string(), ["1", "2"]),
            ("small", pa.int64(), [1, 2]),
            ("small", pa.int8(), [1, 2]),
            ("small", pa.uint16(), [1, 2]),
            ("plan", pa.large_string(), ["pro", "unseen"]),
            ("plan", pa.int64(), [1, 2]),
            ("plan", pa.dictionary(pa.int32(), pa.string()), ["pro", "basic"]),
            ("active", pa.int64(), [1, 0]),
            ("active", pa.string(), ["a", "b"]),
            ("ratio", pa.float32(), [0.5, 1.5]),
            ("ratio", pa.float64(), [0.5, 1.5]),
            ("ratio", pa.int64(), [1, 0]),
            ("ratio", pa.int64(), [1, 2]),
            ("ratio", pa.int32(), [1, 2]),
            ("when", pa.timestamp("ns"), _MOMENTS),
            ("when", pa.timestamp("us"), _MOMENTS),
            ("when", pa.timestamp("us", "UTC"), _MOMENTS),
            ("when", pa.date32(), _MOMENTS),
            ("when", pa.string(), ["2026-01-02", "2026-01-03"]),
            ("when", pa.string(), ["soon", "later"]),
            ("when", pa.int64(), [1, 2]),
        ]
    ),
    parquet("int64 of ones and zeros as a double", amount=[1, 0]),
    parquet("a missing number", amount=[None, 1.5]),
    parquet("a missing whole number as a double", amount=pa.array([None, 1], pa.int64())),
    parquet("a missing integer", count=pa.array([None, 1], pa.int64())),
    parquet("a missing integer, as a fraction", count=pa.array([None, 1.5])),
    parquet("a missing text", plan=[None, "pro"]),
    parquet("a missing boolean", active=[None, True]),
    parquet("nothing but missing numbers", amount=pa.nulls(2)),
    parquet("nothing but missing texts", plan=pa.nulls(2)),
    parquet("booleans, one missing, as numbers", amount=pa.array([True, None])),
    parquet("decimals as integers", count=pa.array([Decimal(1), Decimal(2)])),
    parquet("dates as numbers", amount=pa.array([date(2026, 1, 2), date(2026, 1, 3)])),
    parquet("texts in fewer bits as numbers", ratio=pa.array(["1", "2"])),
    parquet("decimals as single floats", ratio=pa.array([Decimal("1.5"), Decimal("2.5")])),
    parquet("a list as a text", plan=pa.array([["pro"], ["a"]])),
    parquet("a list as a number", amount=pa.array([[1.0], [2.0]])),
    case("parquet: nothing", b"", PARQUET),
    case("parquet: no file", b"PAR1", PARQUET),
    case("parquet: not one at all", b"amount,count\n1,2\n" * 10, PARQUET),
    case("parquet: another charset", b"", PARQUET + "; charset=latin1"),
]


def told(answer: tuple[int, Any]) -> tuple[int, Any]:
    """What an answer says, without what MLflow's own says otherwise from one call to the next.

    Its messages hold the caller's data as pandas prints it, and sets in any order; CSV's have a stack trace.
    """
    status, body = answer
    if status == 200:
        return status, body["predictions"]
    if not isinstance(body, dict) or "message" not in body:
        return status, body
    message = re.sub(
        r"predict data '.*?'\. \nError:", "predict data '...'. \nError:", body["message"], flags=re.DOTALL
    )
    message = re.sub(
        r"schema of data '.*?' with schema", "schema of data '...' with schema", message, flags=re.DOTALL
    )
    message = re.sub(r"\{'[^{}]*\}", lambda found: "".join(sorted(found.group(0))), message)
    return status, {
        **{name: body.get(name) for name in ("error_code", "sqlstate", "error_class")},
        "message": message,
    }


DIFFERENCES: dict[str, list[str]] = {
    "An integer that its type can't hold is refused": [
        *(f"{form}: {value}" for form in ("records", "split") for value in (f"count {2**63}", f"small {2**31}")),
        "csv: an integer out of range",
    ],
    "A moment may name its zone": [
        *(f"{form}: when '2026-01-02T03:04:05Z'" for form in ("records", "split")),
        "parquet: when as timestamp[us, tz=UTC]: 2026-01-02 03:04:05",
    ],
    "Moments are read as ISO 8601": [f"{form}: when '02.01.2026'" for form in ("records", "split")],
    "CSV may hold moments": ["csv: a moment"],
    "A column of CSV is there once": ["csv: a column twice"],
    "What is optional in CSV may be missing": ["csv: a missing optional boolean"],
    "Half a surrogate pair is refused in one way": ["body: half a surrogate pair"],
    "Nothing that a caller sends is a 500": [
        "split: a column named by a list",
        "body: nested too deep",
        "body: too many digits",
    ],
}
"""What we answer otherwise, by the reason that docs/protocols.md gives."""
