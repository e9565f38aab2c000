"""Bodies of requests and answers as other servers log them, read generously: KServe's, MLflow's, Open Inference's.

Our own server reads as MLflow does (`make_decoder`). What is captured beside another server was accepted there, by
rules that are not known here: rows without names are taken in the signature's order.

- KServe v1: `{"instances": …}` (or `inputs`), `{"predictions": …}`
  (kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol)
- Open Inference Protocol v2 (KServe, MLServer, Triton): `{"inputs": [{name, shape, datatype, data}]}`, and so
  `outputs` (docs.seldon.ai/seldon-core-2/user-guide/v2)
- MLflow: all formats of its scoring server.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, TypeVar

import msgspec
import pyarrow as pa

from feedback_loop.capture.external import OWN
from feedback_loop.capture.outputs import read_outputs
from feedback_loop.errors import BadInput
from feedback_loop.inference import input_rows
from feedback_loop.schema import PREDICTION_ID, Contract
from feedback_loop.schema.budget import USUAL, Budget
from feedback_loop.schema.files.csv import read_csv
from feedback_loop.schema.files.parquet import unpacked
from feedback_loop.schema.protocol import WireError
from feedback_loop.schema.protocol.tensors import TensorSpec, tensor_values

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
_MOST_TENSORS = 100  # of an answer
_EXPECTED = "Known are KServe's v1 and v2 (Open Inference) and MLflow's bodies."
_T = TypeVar("_T")


class _Split(msgspec.Struct):
    data: list[list[Any]]
    columns: list[str] | None = None


class _Request(msgspec.Struct):
    dataframe_split: _Split | None = None
    dataframe_records: list[dict[str, Any]] | None = None
    instances: list[Any] | None = None
    inputs: dict[str, Any] | list[Any] | None = None
    params: dict[str, Any] | None = None
    prediction_ids: list[str] | None = None


def read_request(body: bytes, contract: Contract, content_type: str = JSON, budget: Budget = USUAL) -> pa.Table:
    """The features, keys and ids of a request, in their types; raises BadInput.

    Whatever is neither CSV nor Parquet is read as JSON: what curl sends without a type is logged as a form.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == CSV:
        return input_rows(contract, _csv_table(body, budget), OWN, text=True)
    if kind == PARQUET:
        return input_rows(contract, _parquet_table(body, budget), OWN)
    return input_rows(contract, _columns(_decoded(body, budget), contract, budget), OWN)


def read_answer(body: bytes, contract: Contract, budget: Budget = USUAL) -> pa.Table:
    """The outputs of an answer (see `read_outputs`); raises BadInput."""
    content = _decoded(body, budget)
    if isinstance(content, dict) and "predictions" in content:
        predictions = content["predictions"]
        budget.check_rows(len(predictions) if isinstance(predictions, list) else 0)
        return read_outputs(contract, predictions)
    if isinstance(content, dict) and "outputs" in content:
        return read_outputs(contract, _outputs(contract, _tensors(content["outputs"], "outputs"), budget))
    raise BadInput.of("body", "has neither predictions nor outputs", cure=_EXPECTED)


def columns_of(rows: list[Any], names: Sequence[str], budget: Budget) -> dict[str, Any]:
    """Rows (objects, or lists in the order of `names`) as columns; raises BadInput."""
    budget.check_rows(len(rows))
    if all(isinstance(row, list) for row in rows):
        for number, row in enumerate(rows):
            if len(row) != len(names):
                raise BadInput.of("body", f"has {len(row)} values, where {len(names)} columns are named", row=number)
        return {name: [row[place] for row in rows] for place, name in enumerate(names)}
    if all(isinstance(row, dict) for row in rows):
        in_rows = dict.fromkeys(name for row in rows for name in row)
        budget.check_cells(len(rows), len(in_rows))
        return {name: [row.get(name) for row in rows] for name in in_rows}
    if len(names) == 1:
        return {names[0]: rows}
    raise BadInput.of("body", "its rows are neither objects nor lists", cure=_EXPECTED)


def _columns(content: Any, contract: Contract, budget: Budget) -> dict[str, Any]:
    names = [column.name for column in contract.features]
    inputs = content.get("inputs") if isinstance(content, dict) else None
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict) and "datatype" in inputs[0]:
        return _columns_of_tensors(contract, _tensors(inputs, "inputs"), budget)
    request = _converted(content, _Request, "body")
    formats = {
        "dataframe_split": request.dataframe_split,
        "dataframe_records": request.dataframe_records,
        "instances": request.instances,
        "inputs": request.inputs,
    }
    present = {name: rows for name, rows in formats.items() if rows is not None}
    if len(present) != 1:
        cause = f"has {' and '.join(present)}" if present else "has none of the input formats"
        raise BadInput.of("body", cause, cure=f"Send one of {', '.join(formats)}.")
    if request.params:
        raise BadInput.of("params", "are not taken: this model's signature has none")
    (rows,) = present.values()
    if isinstance(rows, dict):
        columns = {name: values if isinstance(values, list) else [values] for name, values in rows.items()}
        budget.check_rows(max(map(len, columns.values()), default=0))
    elif isinstance(rows, _Split):
        columns = columns_of(rows.data, rows.columns or names, budget)
    else:
        columns = columns_of(rows, names, budget)
    if request.prediction_ids is not None:
        columns[contract.own(PREDICTION_ID)] = request.prediction_ids
    return columns


def _columns_of_tensors(contract: Contract, tensors: Sequence[TensorSpec], budget: Budget) -> dict[str, Any]:
    """One tensor a column, or one with all features in their order."""
    features = [column.name for column in contract.features]
    names = {*features, *(column.name for column in contract.key)}
    columns = {tensor.name: _flat_rows(tensor, budget) for tensor in tensors if tensor.name in names}
    if columns or len(tensors) != 1:
        return columns
    return columns_of(_flat_rows(tensors[0], budget), features, budget)


def _outputs(contract: Contract, tensors: Sequence[TensorSpec], budget: Budget) -> dict[str, Any]:
    """Several tensors of an answer (`predict`, `predict_proba`) as output columns, each by its name or its shape."""
    if len(tensors) > _MOST_TENSORS:
        raise BadInput.of("outputs", f"has {len(tensors)} tensors, where {_MOST_TENSORS} are the most")
    names = {column.name for column in contract.outputs}
    columns: dict[str, Any] = {}
    for tensor in tensors:
        rows = _flat_rows(tensor, budget)
        if tensor.name in names:
            columns.setdefault(tensor.name, rows)
            continue
        outputs = read_outputs(contract, rows)
        for column in contract.outputs:
            values = outputs.column(column.stored)
            if values.null_count < len(values):
                columns.setdefault(column.name, values)
    return columns


def _tensors(content: Any, name: str) -> list[TensorSpec]:
    return _converted(content, list[TensorSpec], name)


def _flat_rows(spec: TensorSpec, budget: Budget) -> list[Any]:
    """A value per row, or a list of them where the tensor has more than one column."""
    rows, width = (spec.shape[0] if spec.shape else 0), prod(spec.shape[1:])
    budget.check_rows(rows)
    try:
        values = tensor_values(spec)
    except WireError as error:
        raise BadInput(error.problems, cure=_EXPECTED) from error
    if width == 1:
        return values
    return [values[row * width : (row + 1) * width] for row in range(rows)]


def _csv_table(body: bytes, budget: Budget) -> pa.Table:
    try:
        return read_csv(body, budget)
    except ValueError as error:
        raise BadInput.of("body", f"is not CSV: {error}") from error


def _parquet_table(body: bytes, budget: Budget) -> pa.Table:
    try:
        return unpacked(body, None, budget)[0]
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise BadInput.of("body", f"is not Parquet: {error}") from error


def _decoded(body: bytes, budget: Budget) -> Any:
    budget.check_json(body)
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput.of("body", f"is not JSON: {error}", cure=_EXPECTED) from error


def _converted(content: Any, kind: type[_T], name: str) -> _T:
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise BadInput.of(name, f"is not as expected: {error}", cure=_EXPECTED) from error
