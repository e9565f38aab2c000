"""Cases of MLflow's scoring protocol, good and bad, and what we answer otherwise than MLflow, with the reason.

`tests/integration/test_conformance.py` sends each of them to our server and to `mlflow models serve`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

JSON, CSV = "application/json", "text/csv"

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
    case("csv: an integer out of range", HEADER + b"1,3,3000000000,a,True\n", CSV),
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
    "A moment may name its zone": [f"{form}: when '2026-01-02T03:04:05Z'" for form in ("records", "split")],
    "Moments are read as ISO 8601": [f"{form}: when '02.01.2026'" for form in ("records", "split")],
    "CSV may hold moments": ["csv: a moment"],
    "Half a surrogate pair is refused in one way": ["body: half a surrogate pair"],
    "Nothing that a caller sends is a 500": [
        "split: a column named by a list",
        "body: nested too deep",
        "body: too many digits",
    ],
}
"""What we answer otherwise, by the reason that docs/protocols.md gives."""

HOSTILE = [
    b"\0",
    b"\xff" * 1000,
    b"[" * 200_000,
    b'{"instances": ' + b'{"a":' * 100_000,
    b'{"inputs": [' + b'{"name": [' * 50_000,
    b'{"inputs": [{"name": "amount", "datatype": "FP64", "shape": [' + b"9" * 5000 + b'], "data": []}]}',
    b'{"inputs": [{"name": "amount", "datatype": "BYTES", "shape": [1], "data": ["\\ud800"]}]}',
    b'{"outcomes": [{"order": ' + b"9" * 5000 + b"}]}",
]
"""Bodies that are made to do harm."""
