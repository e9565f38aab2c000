"""Open Inference Protocol v2 (KServe, Triton) over HTTP: metadata, requests into rows, answers into tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from feedback_loop.errors import RowError
from feedback_loop.schema.budget import first_repeated
from feedback_loop.schema.column_types import BYTES, FORMS
from feedback_loop.schema.contract import Contract
from feedback_loop.schema.ids import PREDICTION_ID
from feedback_loop.schema.protocol.decoder import Decoder, Header
from feedback_loop.schema.protocol.enforcing import check_params
from feedback_loop.schema.protocol.rows import Content, Rows
from feedback_loop.schema.protocol.tensors import TensorSpec, column_values, tensor_bytes, tensor_error, tensor_values
from feedback_loop.schema.protocol.wire import bad_request, encodable

LENGTH_HEADER = "inference-header-content-length"
"""How many bytes of a body are JSON; what follows are tensors."""

EXTENSIONS = ("binary_tensor_data",)

RESERVED = ("binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers")
"""Parameters of a request that are the protocol's or Triton's, and no model's."""

BinaryHeaders = list[tuple[str, str]]


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[TensorSpec]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[_Output] | None = None


@dataclass(frozen=True)
class Infer:
    """A request for inference: its rows, and how it wants its answer. `outputs` are names and whether in bytes."""

    rows: Rows
    id: str | None
    outputs: tuple[tuple[str, bool], ...]


def decode_infer(decoder: Decoder, body: bytes, header: Header) -> Infer:
    """The request; raises WireError, and TooLarge for more than the budget allows.

    A tensor a column (of `[n]` or `[n, 1]`), by its name; or one tensor `[n, columns]` of any other name, whose
    columns are the features in the signature's order. Key columns and `prediction_id` may be tensors, or headers.
    """
    decoder.budget.check_json(body)
    request, raw = _parts(body, header(LENGTH_HEADER))
    if request.id is not None and encodable(request.id) != request.id:
        raise bad_request("id: holds half a surrogate pair, which is no text", RowError(-1, "id", "is no text"))
    tensors = [(spec, tensor_values(spec, own)) for spec, own in _with_bytes(request.inputs, raw)]
    decoder.budget.check_rows(max((spec.shape[0] for spec, _ in tensors if spec.shape), default=0))
    content = _rows(decoder, tensors)
    ids = decoder.from_headers(content.count, content.columns, content.ids, header)
    params = {name: value for name, value in request.parameters.items() if name not in RESERVED}
    checked = check_params(params, decoder.signature.params) if decoder.signature.params else {}
    rows = Rows(content.count, content.columns, ids, checked)
    return Infer(rows, request.id, _outputs(decoder.contract, request))


def encode_infer(
    infer: Infer,
    contract: Contract,
    outputs: Mapping[str, Sequence[Any]],
    ids: Sequence[str],
    versions: Sequence[str],
    beside: Mapping[str, Sequence[object]] | None = None,
) -> tuple[bytes, BinaryHeaders]:
    """The answer's body and headers: the outputs that were wanted, and always the ids and the version that answered.

    `outputs` are the contract's, by name; `versions` are one, or one a row where a canary answered some. `beside`
    has more values of each row, by name: whether it is explored, the ends of its interval.
    """
    columns = {column.name: FORMS[column.type].tensor for column in contract.outputs} | {PREDICTION_ID: BYTES}
    values = {**outputs, PREDICTION_ID: ids}
    tensors, raws = [], []
    for name, is_binary in infer.outputs:
        tensor: dict[str, Any] = {"name": name, "datatype": columns[name], "shape": [len(ids)]}
        if is_binary:
            raws.append(tensor_bytes(values[name], columns[name]))
            tensor["parameters"] = {"binary_data_size": len(raws[-1])}
        else:
            tensor["data"] = values[name]
        tensors.append(tensor)
    answer: dict[str, Any] = {"model_name": contract.model}
    parameters = {"prediction_ids": ",".join(ids)}
    if len(versions) == 1:
        answer["model_version"] = versions[0]
    else:
        parameters["model_versions"] = ",".join(versions)
    parameters |= {name: msgspec.json.encode(values)[1:-1].decode() for name, values in (beside or {}).items()}
    if infer.id is not None:
        answer["id"] = infer.id
    text = msgspec.json.encode({**answer, "parameters": parameters, "outputs": tensors})
    if not raws:
        return text, [("content-type", "application/json")]
    headers = [("content-type", "application/octet-stream"), (LENGTH_HEADER, str(len(text)))]
    return b"".join([text, *raws]), headers


def model_metadata(contract: Contract, versions: Sequence[str]) -> dict[str, Any]:
    """What a model takes and answers."""
    inputs, outputs = (
        [{"name": column.name, "datatype": FORMS[column.type].tensor, "shape": [-1]} for column in columns]
        for columns in (contract.features, contract.outputs)
    )
    return {
        "name": contract.model,
        "versions": list(versions),
        "platform": "mlflow",
        "inputs": inputs,
        "outputs": [*outputs, {"name": PREDICTION_ID, "datatype": BYTES, "shape": [-1]}],
    }


def server_metadata(version: str) -> dict[str, Any]:
    """What this server is."""
    return {"name": "feedback-loop", "version": version, "extensions": list(EXTENSIONS)}


def encode_oip_error(message: str) -> bytes:
    """An error's body, as the protocol has it."""
    return msgspec.json.encode({"error": encodable(message)})


def _parts(body: bytes, length: str | None) -> tuple[_Request, bytes]:
    """The request's JSON, and the bytes behind it."""
    if length is None:
        size = len(body)
    elif length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= len(body):
        size = int(length)
    else:
        raise bad_request(f"{LENGTH_HEADER} is {length!r}, and the body has {len(body)} bytes")
    text = body[:size]
    try:
        return _decoder.decode(text), body[size:]
    except msgspec.ValidationError as error:
        raise bad_request(f"failed to parse the request: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _generously(text), body[size:]


def _generously(text: bytes) -> _Request:
    """Clients of Triton write NaN, which is no JSON."""
    try:
        return msgspec.convert(json.loads(text), _Request)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"failed to parse the request JSON: {encodable(str(error))}") from error


def _with_bytes(specs: Sequence[TensorSpec], raw: bytes) -> list[tuple[TensorSpec, bytes | None]]:
    """Each tensor with its bytes, if it has any; raises WireError where the sizes do not add up."""
    tensors: list[tuple[TensorSpec, bytes | None]] = []
    place = 0
    for spec in specs:
        size = spec.parameters.get("binary_data_size")
        if size is None:
            tensors.append((spec, None))
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(raw) - place:
            raise tensor_error(
                spec.name, f"has a binary_data_size of {size!r}, where {len(raw) - place} bytes are left"
            )
        tensors.append((spec, raw[place : place + size]))
        place += size
    if place != len(raw):
        raise bad_request(f"{len(raw) - place} bytes behind the JSON belong to no input")
    return tensors


def _rows(decoder: Decoder, tensors: Sequence[tuple[TensorSpec, list[Any]]]) -> Content:
    contract = decoder.contract
    columns = {column.name: column for column in (*contract.features, *contract.extra_key)}
    lists: dict[Any, Sequence[Any]] = {}
    for spec, values in tensors:
        if spec.name in lists:
            raise tensor_error(spec.name, "is there twice")
        if spec.name in columns:
            _refuse_wide(spec)
            lists[spec.name] = column_values(spec, values, columns[spec.name])
        elif spec.name == contract.own(PREDICTION_ID) and spec.datatype == BYTES:
            _refuse_wide(spec)
            lists[spec.name] = [value or None for value in values]
        elif len(spec.shape) == 2 and spec.shape[1] == len(contract.features) and not set(lists) & set(columns):
            for place, column in enumerate(contract.features):
                lists[column.name] = column_values(spec, values[place :: spec.shape[1]], column)
        else:
            raise bad_request(f"unexpected inference input {spec.name!r} for model {contract.model!r}")
    missing = [column.name for column in contract.features if column.required and column.name not in lists]
    if missing:
        cause = f"expected the inputs {missing} for model {contract.model!r}, which are not there"
        raise bad_request(cause, *(RowError(-1, name, "is missing") for name in missing))
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise bad_request(f"the inputs have rows of different number: {lengths}")
    count = next(iter(lengths.values()), 0)
    if count == 0:
        raise bad_request("the inputs have no rows")
    return decoder.finish(Content(count, lists))


def _refuse_wide(spec: TensorSpec) -> None:
    if len(spec.shape) != 1 and (len(spec.shape) != 2 or spec.shape[1] != 1):
        raise tensor_error(spec.name, f"has the shape {spec.shape}, where [rows] or [rows, 1] is expected")


def _outputs(contract: Contract, request: _Request) -> tuple[tuple[str, bool], ...]:
    names = (*(column.name for column in contract.outputs), PREDICTION_ID)
    is_binary = request.parameters.get("binary_data_output") is True
    if request.outputs is None:
        return tuple((name, is_binary) for name in names)
    wanted = []
    if first_repeated(output.name for output in request.outputs) is not None:
        raise bad_request("an output is asked for twice")
    for output in request.outputs:
        if output.name not in names:
            raise bad_request(f"unexpected inference output {output.name!r} for model {contract.model!r}")
        if output.parameters.get("classification"):
            raise bad_request(f"output {output.name!r} is asked for as a classification, which is not offered")
        wanted.append((output.name, output.parameters.get("binary_data", is_binary) is True))
    return tuple(wanted)


_decoder = msgspec.json.Decoder(_Request)
