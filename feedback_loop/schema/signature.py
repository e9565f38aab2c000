"""MLflow's signature, read from its JSON: nothing here imports MLflow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from feedback_loop.errors import ContractError
from feedback_loop.schema.contract import Column, ColumnType

_TENSOR_TYPES = {
    "bool": ColumnType.BOOLEAN,
    "int8": ColumnType.INTEGER,
    "int16": ColumnType.INTEGER,
    "int32": ColumnType.INTEGER,
    "uint8": ColumnType.INTEGER,
    "uint16": ColumnType.INTEGER,
    "uint32": ColumnType.LONG,
    "uint64": ColumnType.LONG,
    "int64": ColumnType.LONG,
    "float16": ColumnType.FLOAT,
    "float32": ColumnType.FLOAT,
    "float64": ColumnType.DOUBLE,
    "str": ColumnType.STRING,
    "object": ColumnType.STRING,
}


def feature_columns(model: str, signature: dict[str, Any] | None, names: Sequence[str] = ()) -> tuple[Column, ...]:
    """The features that a signature (`ModelSignature.to_dict()`) names.

    A two-dimensional tensor input of known width becomes `feature_0 … feature_n`, or what `names` has for them; of an
    object (a `PythonModel` with type hints: `list[SomePydanticModel]`) each property is one. Raises ContractError for
    a model without a signature, for more or fewer names than a tensor has columns, and for inputs that are no columns
    (images, lists, objects within objects).
    """
    inputs = json.loads(signature["inputs"]) if signature and signature.get("inputs") else None
    if not inputs:
        raise ContractError(
            f"The model {model!r} has no signature.",
            cure="Log it with signature=mlflow.models.infer_signature(X, y).",
            model=model,
        )
    if len(inputs) == 1 and inputs[0]["type"] == "tensor" and "name" not in inputs[0]:
        return _from_tensor(model, inputs[0]["tensor-spec"], names)
    if len(inputs) == 1 and inputs[0]["type"] == "object" and "name" not in inputs[0]:
        return tuple(_from_column(model, {"name": name, **spec}) for name, spec in inputs[0]["properties"].items())
    return tuple(_from_column(model, spec) for spec in inputs)


def numbered_names(signature: dict[str, Any] | None) -> dict[str, int]:
    """The names of inputs that are numbers (columns that nobody named), by what they are called here."""
    inputs = json.loads(signature["inputs"]) if signature and signature.get("inputs") else []
    return {str(spec["name"]): spec["name"] for spec in inputs if isinstance(spec.get("name"), int)}


def output_type(signature: dict[str, Any] | None) -> ColumnType | None:
    """The type of a signature's first output, where it has one that can be a column."""
    outputs = json.loads(signature["outputs"]) if signature and signature.get("outputs") else None
    if not outputs:
        return None
    spec = outputs[0]
    if spec["type"] == "tensor":
        return _TENSOR_TYPES.get(spec["tensor-spec"]["dtype"])
    return ColumnType(spec["type"]) if spec["type"] in set(ColumnType) else None


def output_names(signature: dict[str, Any] | None) -> tuple[str | int, ...]:
    """What a signature's outputs are called (a tensor's: their numbers); empty where that is unknown."""
    outputs = json.loads(signature["outputs"]) if signature and signature.get("outputs") else []
    if outputs and outputs[0]["type"] == "tensor":
        shape = outputs[0]["tensor-spec"]["shape"]
        return tuple(range(shape[1])) if len(shape) == 2 else ()
    return tuple(spec.get("name", place) for place, spec in enumerate(outputs))


def _from_tensor(model: str, spec: dict[str, Any], names: Sequence[str]) -> tuple[Column, ...]:
    shape, kind = spec["shape"], _TENSOR_TYPES.get(spec["dtype"])
    if len(shape) != 2 or shape[1] < 1 or kind is None:
        raise ContractError(
            f"The model {model!r} takes a tensor of {spec['dtype']} and shape {tuple(shape)}, which is no table.",
            cure="Only column inputs and tensors of shape (-1, n) can be logged column by column.",
            model=model,
        )
    if names and len({*names}) != shape[1]:
        raise ContractError(
            f"The model {model!r} takes {shape[1]} columns, and models.{model}.features has {len({*names})} names.",
            cure="Name each of them once, in the tensor's order.",
            model=model,
        )
    return tuple(Column(name, kind) for name in names or [f"feature_{place}" for place in range(shape[1])])


def _from_column(model: str, spec: dict[str, Any]) -> Column:
    if "name" not in spec:
        raise ContractError(
            f"The inputs of {model!r} have no names: a column of the log needs one.",
            cure="Log it with a signature of a frame whose columns are named.",
            model=model,
        )
    if spec["type"] not in set(ColumnType):
        name = spec["name"]
        raise ContractError(
            f"The input {name!r} of {model!r} has the type {spec['type']!r}, which can't be a column.",
            cure=f"Columns are {', '.join(ColumnType)}.",
            model=model,
            field=name,
        )
    return Column(str(spec["name"]), ColumnType(spec["type"]), required=bool(spec.get("required", True)))
