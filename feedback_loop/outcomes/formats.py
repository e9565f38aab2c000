"""Outcomes in the formats that people send and keep them in: which there are, and bodies of requests as rows."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable
from typing import Any

import msgspec
import pyarrow as pa

from feedback_loop.errors import BadInput, RowError
from feedback_loop.schema.budget import Budget
from feedback_loop.schema.files.arrow import read_arrow

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


def decode_body(body: bytes, kind: str, budget: Budget, wanted: Collection[str], name: str = "outcomes") -> Any:
    """Rows of a request's body (JSON, NDJSON or Arrow), which may come from anybody: of JSON, the list of that name.

    Raises BadInput, and TooLarge for more than the budget allows. Only the wanted columns of Arrow are read.
    """
    if kind == "arrow":
        try:
            return read_arrow(body, budget, wanted)
        except (pa.ArrowException, OSError, ValueError) as error:
            cure = f"Send outcomes as {kind}, or say which format they are in."
            raise BadInput.of("body", f"is no {kind}: {error}", cure=cure) from error
    budget.check_json(body)
    rows = _json(body, name) if kind == "json" else read_objects(io.BytesIO(body), "body", budget)
    budget.check_rows(len(rows))
    return rows


def _json(body: bytes, name: str) -> list[dict[str, Any]]:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput.of("body", f"is not JSON: {error}", cure=_EXPECTED) from error
    rows = decoded.get(name) if isinstance(decoded, dict) else decoded
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInput.of(name, "is not a list of objects", cure=_EXPECTED.replace("outcomes", name))
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


_EXPECTED = 'Send {"outcomes": [{"prediction_id": "…" or the key\'s columns, "<label>": …, "occurred_at": "…"}]}.'
