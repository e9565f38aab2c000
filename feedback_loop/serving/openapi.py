"""The description of the HTTP interface (OpenAPI 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feedback_loop.schema import ENDS, Column, ColumnType, Contract
from feedback_loop.schema.protocol.tensors import DATATYPES

_VALUES: dict[ColumnType, dict[str, Any]] = {
    ColumnType.BOOLEAN: {"type": "boolean"},
    ColumnType.INTEGER: {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    ColumnType.LONG: {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    ColumnType.FLOAT: {"type": ["number", "null"]},
    ColumnType.DOUBLE: {"type": ["number", "null"]},
    ColumnType.STRING: {"type": ["string", "null"]},
    ColumnType.DATETIME: {"type": ["string", "null"], "format": "date-time"},
}

_KEY: dict[str, Any] = {"security": [{"key": []}]}


def describe(contracts: Sequence[Contract], version: str) -> dict[str, Any]:
    """The description of a server for these models (the first is the default one)."""
    paths: dict[str, Any] = {
        "/ping": {"get": _plain("Whether the process is there.")},
        "/health": {"get": _plain("Whether the process is there.")},
        "/version": {"get": _plain("The version of MLflow whose protocol this is.")},
        "/ready": {"get": _answers("Whether every model is loaded and what is answered can be made durable.", 503)},
        "/metrics": {"get": {**_plain("Prometheus' metrics.", "text/plain"), **_KEY}},
        "/v2": {"get": _answers("Open Inference Protocol: what this server is.")},
        "/v2/health/live": {"get": _answers("Open Inference Protocol: whether the process is there.")},
        "/v2/health/ready": {"get": _answers("Open Inference Protocol: whether it can answer.", 503)},
    }
    if contracts:
        paths["/invocations"] = {"post": _scoring(contracts[0])}
    for contract in contracts:
        name = contract.model
        paths[f"/models/{name}/invocations"] = {"post": _scoring(contract)}
        paths[f"/endpoints/{name}/invocations"] = {"post": _scoring(contract)}
        paths[f"/models/{name}/outcomes"] = {"post": _reports(contract, "outcomes", "what really happened")}
        paths[f"/models/{name}/actions"] = {"post": _reports(contract.of_actions, "actions", "what callers did")}
        paths[f"/v2/models/{name}"] = {"get": {**_answers("What the model takes and answers.", 404), **_KEY}}
        paths[f"/v2/models/{name}/ready"] = {"get": {**_answers("Whether it can answer.", 404), **_KEY}}
        paths[f"/v2/models/{name}/infer"] = {"post": _infer(contract)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "feedback-loop", "version": version},
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": _object({"error_code": _TEXT, "message": _TEXT}, ["error_code", "message"]),
                "InferenceError": _object({"error": _TEXT}, ["error"]),
            },
        },
    }


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_FLAGS = {"type": "array", "items": {"type": "boolean"}}


def _object(properties: dict[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _plain(summary: str, media_type: str = "application/json") -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": "Text.", "content": {media_type: {}}}}}


def _answers(summary: str, *others: int) -> dict[str, Any]:
    content = {"content": {"application/json": {"schema": {"type": "object"}}}}
    responses = {str(status): {"description": "JSON.", **content} for status in (200, *others)}
    return {"summary": summary, "responses": responses}


def _refusals(schema: str) -> dict[str, Any]:
    reference = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    meanings = {
        400: "The body does not fit.",
        401: "A key is needed.",
        403: "The key is for something else.",
        404: "There is no such model.",
        413: "Too many bytes or rows.",
        429: "Too many requests at a time.",
        503: "Nothing can be logged.",
    }
    responses: dict[str, Any] = {
        str(status): {"description": meaning, "content": reference} for status, meaning in meanings.items()
    }
    return responses | {
        "415": {"description": "The content type is not taken.", "content": {"text/plain": {}, **reference}}
    }


def _record(contract: Contract) -> dict[str, Any]:
    columns: Sequence[Column] = (*contract.features, *contract.extra_key)
    properties = {column.name: _VALUES[column.type] for column in columns}
    required = [column.name for column in contract.features if column.required]
    return _object(properties | {"prediction_id": _TEXT}, required)


def _scoring(contract: Contract) -> dict[str, Any]:
    record = _record(contract)
    rows = {"type": "array", "items": record, "minItems": 1}
    names = [column.name for column in contract.features]
    split = _object({"columns": {"const": names}, "data": _row_lists(contract)}, ["columns", "data"])
    lists = {name: {"type": "array", "items": schema, "minItems": 1} for name, schema in record["properties"].items()}
    formats = {
        "dataframe_records": rows,
        "dataframe_split": split,
        "instances": rows,
        "inputs": {"anyOf": [rows, _object(lists, record["required"])]},
    }
    beside = {"params": {"type": "object"}, "prediction_ids": _TEXTS}
    answer = _object(
        {
            "predictions": {"type": "array"},
            "prediction_ids": _TEXTS,
            "model_version": _TEXT,
            "explore": _FLAGS,
            **{end: {"type": "array", "items": {"type": ["number", "null"]}} for end in ENDS},
        },
        ["predictions", "prediction_ids"],
    )
    return {
        "summary": f"Scores rows with {contract.model} (MLflow's scoring protocol).",
        **_KEY,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [_object({name: schema, **beside}, [name]) for name, schema in formats.items()]
                    }
                },
                "text/csv": {"schema": _TEXT},
                "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": {
            "200": {"description": "Predictions.", "content": {"application/json": {"schema": answer}}},
            **_refusals("Error"),
        },
    }


def _row_lists(contract: Contract) -> dict[str, Any]:
    values = [_VALUES[column.type] for column in contract.features]
    row = {"type": "array", "prefixItems": values, "minItems": len(values), "maxItems": len(values)}
    return {"type": "array", "items": row, "minItems": 1}


def _reports(contract: Contract, name: str, what: str) -> dict[str, Any]:
    properties = {column.name: _VALUES[column.type] for column in contract.key}
    row = _object(
        properties | {label.name: _VALUES[label.type] for label in contract.reported} | {"prediction_id": _TEXT}
    )
    body = _object({name: {"type": "array", "items": row}}, [name])
    return {
        "summary": f"Takes in {what}, for {contract.model}.",
        **_KEY,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            **_answers("")["responses"],
            "202": {"description": "Durable on this host; the store is away and gets them when it is back."},
            "409": _refusals("Error")["400"],
            **_refusals("Error"),
        },
    }


def _infer(contract: Contract) -> dict[str, Any]:
    tensor = _object(
        {
            "name": {"enum": [column.name for column in (*contract.features, *contract.extra_key)]},
            "datatype": {"enum": [*DATATYPES]},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
        ["name", "datatype", "shape"],
    )
    output = _object({"name": {"enum": [*(column.name for column in contract.outputs), "prediction_id"]}}, ["name"])
    body = _object(
        {
            "id": _TEXT,
            "inputs": {"type": "array", "items": tensor},
            "outputs": {"type": "array", "items": output},
            "parameters": {"type": "object"},
        },
        ["inputs"],
    )
    answer = {"application/json": {"schema": {"type": "object"}}, "application/octet-stream": {}}
    return {
        "summary": f"Scores tensors with {contract.model} (Open Inference Protocol v2).",
        **_KEY,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "Tensors.", "content": answer}, **_refusals("InferenceError")},
    }
