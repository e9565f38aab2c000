"""Bodies of requests and answers as serving systems log them: KServe's and MLflow's, Open Inference.

- KServe v1: `{"instances": …}` (or `inputs`), `{"predictions": …}`
  (kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol)
- Open Inference Protocol v2 (KServe, MLServer, Triton): `{"inputs": [{name, shape, datatype, data}]}`, and so
  `outputs` (docs.seldon.ai/seldon-core-2/user-guide/v2)
- MLflow: all formats of its scoring server.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import msgspec
import pyarrow as pa

from feedback_loop.capture.external import OWN
from feedback_loop.capture.outputs import read_outputs
from feedback_loop.errors import BadInput
from feedback_loop.inference import input_rows
from feedback_loop.schema import Contract
from feedback_loop.schema.budget import USUAL, Budget
from feedback_loop.schema.protocol import WireError, columns_of, decode_request
from feedback_loop.schema.protocol.tensors import TensorSpec, tensor_values

JSON = "application/json"

_MOST_TENSORS = 100  # of an answer


def read_request(body: bytes, contract: Contract, content_type: str = JSON, budget: Budget = USUAL) -> pa.Table:
    """The features, keys and ids of a request, in their types; raises BadInput."""
    columns, is_text = _request_columns(body, contract, content_type, budget)
    return input_rows(contract, columns, OWN, text=is_text)


def read_answer(body: bytes, contract: Contract, budget: Budget = USUAL) -> pa.Table:
    """The outputs of an answer (see `read_outputs`); raises BadInput."""
    content = _decoded(body, budget)
    if isinstance(content, dict) and "predictions" in content:
        predictions = content["predictions"]
        budget.check_rows(len(predictions) if isinstance(predictions, list) else 0)
        return read_outputs(contract, predictions)
    if isinstance(content, dict) and "outputs" in content:
        return read_outputs(contract, _named(contract, _tensors(content["outputs"]), budget))
    raise BadInput.of("body", "has neither predictions nor outputs", cure=_EXPECTED)


def _request_columns(
    body: bytes, contract: Contract, content_type: str, budget: Budget
) -> tuple[dict[str, Any], bool]:
    if content_type.partition(";")[0].strip().lower() in ("text/csv", "application/vnd.apache.parquet"):
        decoded = decode_request(body, content_type, contract, budget)
        return decoded.columns, decoded.is_text
    # Whatever the type is called: what curl sends without one is logged as a form (KServe's own example shows that).
    content = _decoded(body, budget)
    tensors = content.get("inputs") if isinstance(content, dict) else None
    if isinstance(tensors, list) and tensors and isinstance(tensors[0], dict) and "datatype" in tensors[0]:
        return _columns_of_tensors(contract, _tensors(tensors), budget), False
    return decode_request(body, JSON, contract, budget).columns, False


def _columns_of_tensors(contract: Contract, tensors: Sequence[TensorSpec], budget: Budget) -> dict[str, Any]:
    """One tensor a column, or one with all features in their order."""
    features = [column.name for column in contract.features]
    known = {*features, *(column.name for column in contract.key)}
    named = {tensor.name: _flat_rows(tensor, budget) for tensor in tensors if tensor.name in known}
    if named or len(tensors) != 1:
        return named
    return columns_of(_flat_rows(tensors[0], budget), features, budget)


def _named(contract: Contract, tensors: Sequence[TensorSpec], budget: Budget) -> dict[str, Any]:
    """Several tensors of an answer (`predict`, `predict_proba`) as output columns, each by its name or its shape."""
    names = {column.name for column in contract.outputs}
    columns: dict[str, Any] = {}
    if len(tensors) > _MOST_TENSORS:
        raise BadInput.of("outputs", f"has {len(tensors)} tensors, where {_MOST_TENSORS} are the most")
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


def _tensors(given: Any) -> list[TensorSpec]:
    return [_converted(each, TensorSpec, "tensor") for each in _converted(given, list[Any], "tensors")]


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


def _decoded(body: bytes, budget: Budget) -> Any:
    budget.check_json(body)
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput.of("body", f"is not JSON: {error}", cure=_EXPECTED) from error


def _converted(given: Any, kind: Any, name: str) -> Any:
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise BadInput.of(name, str(error), cure=_EXPECTED) from error


_EXPECTED = "Known are KServe's v1 and v2 (Open Inference) and MLflow's bodies."
