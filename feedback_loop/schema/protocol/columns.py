"""Bodies of MLflow's protocol read generously: for what others' servers have answered already.

Our own server reads as MLflow does (`make_decoder`). What is captured beside another server was accepted there, by
rules that are not known here: rows without names are taken in the signature's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from feedback_loop.errors import BadInput
from feedback_loop.schema.budget import USUAL, Budget
from feedback_loop.schema.contract import Contract
from feedback_loop.schema.files.csv import read_csv
from feedback_loop.schema.files.parquet import unpacked

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
"""The top-level names, one of which a JSON body has."""


class _Split(msgspec.Struct):
    data: list[list[Any]]
    columns: list[str] | None = None


class _Body(msgspec.Struct):
    dataframe_split: _Split | None = None
    dataframe_records: list[dict[str, Any]] | None = None
    instances: list[Any] | None = None
    inputs: dict[str, Any] | list[Any] | None = None
    params: dict[str, Any] | None = None
    prediction_ids: list[str] | None = None


class Decoded(msgspec.Struct):
    """The columns of a request: `is_text` says that values are text still (CSV)."""

    columns: dict[str, Any]
    is_text: bool = False


_decoder = msgspec.json.Decoder(_Body)


def decode_request(body: bytes, content_type: str, contract: Contract, budget: Budget = USUAL) -> Decoded:
    """Reads a body of JSON, `text/csv` or Parquet; raises BadInput with what was expected."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/csv":
        return Decoded(_csv_columns(body, budget), is_text=True)
    if kind == "application/vnd.apache.parquet":
        return Decoded(_parquet_columns(body, budget))
    budget.check_json(body)
    try:
        decoded = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput.of("body", f"is not the JSON that is expected: {error}", cure=_EXPECTED) from error
    given = [name for name in FORMATS if getattr(decoded, name) is not None]
    if len(given) != 1:
        what = f"has {' and '.join(given)}" if given else "has none of the input formats"
        raise BadInput.of("body", what, cure=_EXPECTED)
    if decoded.params:
        raise BadInput.of("params", "are not taken: this model's signature has none")
    columns = _columns(decoded, contract, budget)
    if decoded.prediction_ids is not None:
        columns["prediction_id"] = decoded.prediction_ids
    return Decoded(columns)


def _columns(body: _Body, contract: Contract, budget: Budget) -> dict[str, Any]:
    names = [column.name for column in contract.features]
    if body.dataframe_split is not None:
        return _by_position(body.dataframe_split.data, body.dataframe_split.columns or names, budget)
    if body.dataframe_records is not None:
        return _from_records(body.dataframe_records, budget)
    if body.instances is not None:
        return columns_of(body.instances, names, budget)
    if isinstance(body.inputs, dict):
        lists = {name: each if isinstance(each, list) else [each] for name, each in body.inputs.items()}
        budget.check_rows(max(map(len, lists.values()), default=0))
        return lists
    return columns_of(body.inputs or [], names, budget)


def columns_of(rows: list[Any], names: Sequence[str], budget: Budget) -> dict[str, Any]:
    """Rows (objects, or lists in the order of `names`) as columns; raises BadInput."""
    budget.check_rows(len(rows))
    if all(isinstance(row, dict) for row in rows):
        return _from_records(rows, budget)
    if all(isinstance(row, list) for row in rows):
        return _by_position(rows, names, budget)
    if len(names) == 1:
        return {names[0]: rows}
    raise BadInput.of("body", "its rows are neither objects nor lists", cure=_EXPECTED)


def _from_records(rows: list[dict[str, Any]], budget: Budget) -> dict[str, Any]:
    budget.check_rows(len(rows))
    names = dict.fromkeys(name for row in rows for name in row)
    budget.check_cells(len(rows), len(names))
    return {name: [row.get(name) for row in rows] for name in names}


def _by_position(rows: list[list[Any]], names: Sequence[str], budget: Budget) -> dict[str, Any]:
    budget.check_rows(len(rows))
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise BadInput.of("body", f"has {len(row)} values, where {len(names)} columns are named", row=number)
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _csv_columns(body: bytes, budget: Budget) -> dict[str, Any]:
    try:
        table = read_csv(body, budget)
    except ValueError as error:
        raise BadInput.of("body", f"is not CSV: {error}") from error
    return {name: table.column(name) for name in table.column_names}


def _parquet_columns(body: bytes, budget: Budget) -> dict[str, Any]:
    try:
        table, names = unpacked(body, None, budget)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise BadInput.of("body", f"is not Parquet: {error}") from error
    return {name: table.column(name) for name in names}


_EXPECTED = f"Send one of {', '.join(FORMATS)}."
