"""Outcomes as bytes, in the formats that people send and keep them in, as rows."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from feedback_loop.errors import BadInput, RowError
from feedback_loop.schema.budget import UNLIMITED, Budget
from feedback_loop.schema.files.arrow import read_arrow
from feedback_loop.schema.files.csv import read_csv

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".arrow": "arrow",
    ".feather": "arrow",
}
"""Formats by how a file's name ends."""


def format_of(name: str) -> str:
    """The format of a file by its name; raises BadInput."""
    ending = name[name.rfind(".") :].lower() if "." in name else ""
    if ending not in FORMATS:
        raise BadInput.of("file", f"{name} is none of {', '.join(FORMATS)}")
    return FORMATS[ending]


def decode_outcomes(body: bytes, kind: str, name: str = "body") -> tuple[Any, bool]:
    """Rows (a table, or a list of objects) of a file, and whether their values are text still.

    Raises BadInput, which calls the whole by its `name`.
    """
    try:
        if kind == "json":
            return _json(body), False
        if kind == "ndjson":
            return read_objects(io.BytesIO(body), name, UNLIMITED), False
        if kind == "arrow":
            return _arrow(body), False
        return (read_csv(body), True) if kind == "csv" else (pq.read_table(pa.BufferReader(body)), False)
    except (pa.ArrowException, OSError, ValueError) as error:
        cure = f"Send outcomes as {kind}, or say which format they are in." if name == "body" else _MEND
        raise BadInput.of(name, f"is no {kind}: {error}", cure=cure) from error


def decode_body(body: bytes, kind: str, budget: Budget, wanted: Collection[str]) -> Any:
    """Rows of a request's body (JSON, NDJSON or Arrow), which may come from anybody.

    Raises BadInput, and TooLarge for more than the budget allows. Only the wanted columns of Arrow are read.
    """
    if kind == "arrow":
        try:
            return read_arrow(body, budget, wanted)
        except (pa.ArrowException, OSError, ValueError) as error:
            cure = f"Send outcomes as {kind}, or say which format they are in."
            raise BadInput.of("body", f"is no {kind}: {error}", cure=cure) from error
    budget.check_json(body)
    rows = _json(body) if kind == "json" else read_objects(io.BytesIO(body), "body", budget)
    budget.check_rows(len(rows))
    return rows


def _json(body: bytes) -> list[dict[str, Any]]:
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput.of("body", f"is not JSON: {error}", cure=_EXPECTED) from error
    rows = given.get("outcomes") if isinstance(given, dict) else given
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInput.of("outcomes", "is not a list of objects", cure=_EXPECTED)
    return rows


def read_objects(lines: Iterable[bytes], name: str, budget: Budget, first_line: int = 1) -> list[dict[str, Any]]:
    """The objects, one a line; blank lines are no rows, so a bad one is told by its line too."""
    rows, problems = [], []
    numbered = ((number, line) for number, line in enumerate(lines, start=first_line) if not line.isspace())
    for row, (number, line) in enumerate(numbered):
        budget.check_rows(row + 1)
        try:
            rows.append(msgspec.json.decode(line, type=dict[str, Any]))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            problems.append(RowError(row, name, f"line {number} is no JSON object: {error}"))
    if problems:
        raise BadInput(problems, cure="Write one object a line.")
    return rows


def _arrow(body: bytes) -> pa.Table:
    """A stream or a file of Arrow IPC, every buffer of it checked: it may come from anybody."""
    is_file = body.startswith(b"ARROW1")
    with pa.ipc.open_file(body) if is_file else pa.ipc.open_stream(body) as reader:
        table = reader.read_all()
    table.validate(full=True)
    return table


_MEND = "Mend the file, or give it the ending of its format."
_EXPECTED = 'Send {"outcomes": [{"prediction_id": "…" or the key\'s columns, "<label>": …, "occurred_at": "…"}]}.'
