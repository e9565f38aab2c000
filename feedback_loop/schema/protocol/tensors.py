"""Tensors of the Open Inference Protocol: in JSON, or in bytes behind it (its binary tensor data extension)."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from feedback_loop.errors import RowError
from feedback_loop.schema.column_types import BYTES, FORMS
from feedback_loop.schema.contract import Column, ColumnType
from feedback_loop.schema.protocol.wire import WireError, bad_request
from feedback_loop.schema.values import REFUSALS, as_pandas

NUMBERS = {
    "BOOL": np.dtype(bool),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The protocol's datatypes of one size, as they lie in bytes."""

DATATYPES = (*NUMBERS, BYTES)

_LENGTH = struct.Struct("<I")

_MOST_DIMENSIONS = 8


class TensorSpec(msgspec.Struct):
    """A tensor as a request has it: `parameters.binary_data_size` bytes behind the JSON, or `data`."""

    name: str
    shape: list[Annotated[int, Meta(ge=0)]]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


def tensor_values(spec: TensorSpec, raw: bytes | None = None) -> list[Any]:
    """The tensor's values, flat, from its bytes, or from its JSON where there are none; raises WireError."""
    if spec.datatype not in DATATYPES:
        raise tensor_error(spec.name, f"has the unknown datatype {spec.datatype!r}")
    if len(spec.shape) > _MOST_DIMENSIONS:
        cause = f"has {len(spec.shape)} dimensions, where [rows] or [rows, columns] is expected"
        raise tensor_error(spec.name, cause)
    count = math.prod(spec.shape)
    if raw is None:
        values = _from_json(spec)
    elif spec.datatype == BYTES:
        values = _texts(spec.name, raw)
    else:
        dtype = NUMBERS[spec.datatype]
        if len(raw) != count * dtype.itemsize:
            raise tensor_error(spec.name, f"has {len(raw)} bytes, where its shape {spec.shape} needs another number")
        values = np.frombuffer(raw, dtype).tolist()
    if len(values) != count:
        raise tensor_error(spec.name, f"has {len(values)} values, which are not of the shape {spec.shape}")
    return values


def column_values(spec: TensorSpec, values: list[Any], column: Column) -> list[Any]:
    """A tensor's values as a column's: numbers that lose nothing but a float's digits; raises WireError."""
    if not _fits(spec.datatype, column.type):
        expected = FORMS[column.type].tensor
        raise tensor_error(spec.name, f"has the datatype {spec.datatype}, where {expected} is expected")
    if spec.datatype == BYTES and column.type is ColumnType.STRING:
        return values
    try:
        return as_pandas(values, column.type, required=False)
    except REFUSALS as error:
        raise tensor_error(spec.name, f"does not fit the type {column.type}: {error}") from error


def tensor_bytes(values: Sequence[Any], datatype: str) -> bytes:
    """The values as they lie in bytes; a missing text is an empty one."""
    if datatype != BYTES:
        missing = float("nan") if datatype.startswith("FP") else 0
        return np.array([missing if value is None else value for value in values], NUMBERS[datatype]).tobytes()
    texts = [b"" if value is None else str(value).encode() for value in values]
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))


def tensor_error(name: str, cause: str) -> WireError:
    """What is wrong with a tensor."""
    return bad_request(f"input {name!r} {cause}", RowError(-1, name, cause))


def _fits(datatype: str, kind: ColumnType) -> bool:
    if FORMS[kind].bound:
        return "INT" in datatype
    if kind.is_numeric:
        return datatype not in (BYTES, "BOOL")
    return datatype == FORMS[kind].tensor


def _from_json(spec: TensorSpec) -> list[Any]:
    if not isinstance(spec.data, list):
        raise tensor_error(spec.name, "has neither data nor a binary_data_size")
    try:
        values: list[Any] = msgspec.convert(_flat(spec.data, len(spec.shape)), _JSON[spec.datatype])
    except msgspec.ValidationError as error:
        raise tensor_error(spec.name, f"is not {spec.datatype}: {error}") from error
    return values


def _flat(values: list[Any], depth: int) -> list[Any]:
    """Values in lists of lists, at most `depth` of them deep, as one list."""
    for _ in range(depth - 1):
        if not any(isinstance(value, list) for value in values):
            break
        values = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return values


def _texts(name: str, raw: bytes) -> list[str]:
    texts, place = [], 0
    while place < len(raw):
        if place + _LENGTH.size > len(raw):
            raise tensor_error(name, "ends within a text's length")
        (length,) = _LENGTH.unpack_from(raw, place)
        place += _LENGTH.size + length
        if place > len(raw):
            raise tensor_error(name, "ends within a text")
        try:
            texts.append(raw[place - length : place].decode())
        except UnicodeDecodeError as error:
            raise tensor_error(name, f"holds text that is not UTF-8: {error.reason}") from error
    return texts


def _json_type(datatype: str) -> Any:
    if datatype == BYTES:
        return list[str | None]
    if datatype == "BOOL":
        return list[bool]
    if datatype.startswith("FP"):
        return list[float | None]
    if datatype == "UINT64":  # beyond what msgspec can be told
        return list[Annotated[int, Meta(ge=0)]]
    bits = NUMBERS[datatype].itemsize * 8
    least, most = (0, 2**bits) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return list[Annotated[int, Meta(ge=least, lt=most)]] if bits < 64 else list[_Int64]


_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_JSON = {datatype: _json_type(datatype) for datatype in DATATYPES}
