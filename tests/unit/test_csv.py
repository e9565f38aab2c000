"""CSV by every door: one reader, and MLflow's (`pandas.read_csv`) rules."""

import io

import pandas as pd
import pyarrow as pa
import pytest

from feedback_loop.capture.payloads import read_request
from feedback_loop.errors import BadInput
from feedback_loop.outcomes import OutcomeFile
from feedback_loop.schema import Column, ColumnType, coerce
from feedback_loop.schema.files.reader import read_chunks
from feedback_loop.schema.protocol import WireError, make_decoder
from tests.builders import binary_contract

T = ColumnType
COLUMNS = tuple(
    Column(name, kind, required=name in ("a", "n"))
    for name, kind in [("a", T.DOUBLE), ("n", T.LONG), ("w", T.STRING), ("b", T.BOOLEAN), ("at", T.DATETIME)]
)
CONTRACT = binary_contract(features=COLUMNS, key=(), segments=())
DTYPES = {"a": "float64", "n": "int64", "w": "object", "b": "bool"}


def by_http(body):
    return make_decoder(CONTRACT, None).decode(body, "text/csv", {}.get).columns


def by_file(body, folder, rows):
    (folder / "in.csv").write_bytes(body)
    parts = [coerce(part, COLUMNS, text=True) for part in read_chunks(folder / "in.csv", rows)]
    return pa.concat_tables(parts).to_pydict()


def by_outcomes(body, folder):
    (folder / "truth.csv").write_bytes(body)
    [(rows, is_text)] = OutcomeFile.of(folder / "truth.csv").parts(None)
    assert is_text
    return rows


def by_every_door(body, folder):
    return {
        "http": by_http(body),
        "batch, an import": by_file(body, folder, 1),
        "batch, all at once": by_file(body, folder, 1000),
        "outcomes": coerce(by_outcomes(body, folder), COLUMNS, text=True).to_pydict(),
        "middleware": read_request(body, CONTRACT, "text/csv").to_pydict(),
    }


def plain(values):
    return {name: [None if pd.isna(value) else value for value in column] for name, column in values.items()}


@pytest.mark.parametrize(
    "body",
    [
        b"a,n,w\n1.5,57,x\n2,58.0,y\n",
        b"a,n,w\n,1,NA\nNA,2,null\nnull,3,\nnan,4,None\n-1,5,n/a\n",
        b'a,n,w\n1,2,"NA"\n1,3," NA"\n1,1e3,""\n',
        b"a,n,b\n1,2,True\n1,3,false\n1,3,TRUE\n",
        b"a,n,b\n1,2,1\n1,3,0\n",
        b"a,n\n1,2\n\n\n5,6\n",
        b"a,n,w\n1,2,x\n3,4\n",
        b",a,n\n0,1,2\n1,3,4\n",
        b"a,n\n7,1,2\n8,3,4\n",
        b"\xef\xbb\xbfa,n\r\n 5 , 6\r\n",
        'n,a,w\r1,inf,"é\nü"\r'.encode(),
        b"a,n,w\n1,007,007\n",
    ],
)
def test_every_door_reads_csv_as_mlflow_does(body, tmp_path):
    expected = pd.read_csv(io.BytesIO(body), dtype=DTYPES)
    for door, found in by_every_door(body, tmp_path).items():
        assert plain({name: found[name] for name in DTYPES if name in expected}) == plain(
            {name: expected[name] for name in DTYPES if name in expected}
        ), door


def test_whole_numbers_of_csv_are_exact_and_what_is_optional_may_be_missing(tmp_path):
    body = b"a,n,b\n1,9007199254740993.0,\n1,-9007199254740993,NA\n"
    for door, found in by_every_door(body, tmp_path).items():
        assert found["n"] == [2**53 + 1, -(2**53) - 1], door
        assert found["b"] == [None, None], door


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"a,n,a\n1,2,3\n", "'a' is there twice"),
        (b"", "No columns to parse"),
        (b"a,n\n1,2\n1,2,3\n", "Expected 2 fields in line 3, saw 3"),
        (b'a,n\n1,"2\n', "EOF inside string starting at row 1"),
        (b"\xff\xfe", "utf-8"),
    ],
)
def test_what_is_no_csv_is_refused_by_every_door_in_the_same_words(body, said, tmp_path):
    with pytest.raises(WireError) as caught:
        by_http(body)
    assert said in caught.value.message.replace("\\n", "\n")
    for read in (
        lambda: by_file(body, tmp_path, 10),
        lambda: by_outcomes(body, tmp_path),
        lambda: read_request(body, CONTRACT, "text/csv"),
    ):
        with pytest.raises(BadInput, match=said):
            read()


@pytest.mark.parametrize("cell", ["1.5", "x", "0x1F", "1_0", "9223372036854775808", "1e999999", "inf"])
def test_what_is_no_whole_number_is_refused_with_its_row(cell, tmp_path):
    body = f"a,n\n1,2\n1,{cell}\n".encode()
    with pytest.raises(WireError):
        by_http(body)
    with pytest.raises(BadInput, match=r"row 1: n: .* does not fit the type long"):
        by_file(body, tmp_path, 10)


@pytest.mark.parametrize("cell", ["2", "yes", "0.5"])
def test_what_is_no_boolean_is_refused_by_every_door(cell, tmp_path):
    body = f"a,n,b\n1,2,{cell}\n".encode()
    with pytest.raises(WireError):
        by_http(body)
    with pytest.raises(BadInput, match=r"row 0: b: .* does not fit the type boolean"):
        by_file(body, tmp_path, 10)
