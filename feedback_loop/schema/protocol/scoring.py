"""MLflow's scoring protocol in JSON, by MLflow's own rules (3.17): the way of everything that is not plain.

What is usual takes `decoder`'s fast way and gives the same; here the rules stand one by one, as
`mlflow.pyfunc.scoring_server`, `mlflow.utils.proto_json_utils` and `mlflow.models.utils` have them.
"""

from __future__ import annotations

import json
from typing import Any

from feedback_loop.schema.budget import Budget
from feedback_loop.schema.protocol.arrays import read_arrays, read_tensor
from feedback_loop.schema.protocol.enforcing import Signature
from feedback_loop.schema.protocol.frames import converted, read_records, read_split
from feedback_loop.schema.protocol.rows import Content
from feedback_loop.schema.protocol.wire import bad_request, invalid_input, refused_by_model
from feedback_loop.schema.values import ModelRefusesError

RECORDS, SPLIT, INSTANCES, INPUTS = "dataframe_records", "dataframe_split", "instances", "inputs"
FORMATS = (RECORDS, SPLIT, INSTANCES, INPUTS)
"""The top-level names, exactly one of which a JSON body has."""

CHAT = ("messages", "prompt", "input")
"""Top-level names that make a body one for a language model, whatever else is in it."""

MOST_ECHOED = 2000
"""So much of a body that is no JSON is shown to its sender."""

_EXPECTED = (
    "The input must be a JSON dictionary with exactly one of the input fields {'dataframe_records', "
    "'dataframe_split', 'instances', 'inputs'}"
)
CHANGED = (
    "IMPORTANT: The MLflow Model scoring protocol has changed in MLflow version 2.0. If you are seeing this "
    "error, you are likely using an outdated scoring request format. To resolve the error, either update your "
    "request format or adjust your MLflow Model's requirements file to specify an older version of MLflow (for"
    " example, change the 'mlflow' requirement specifier to 'mlflow==1.30.0'). If you are making a request "
    "using the MLflow client (e.g. via `mlflow.pyfunc.spark_udf()`), upgrade your MLflow client to a version "
    ">= 2.0 in order to use the new request format. For more information about the updated MLflow Model "
    "scoring protocol in MLflow 2.0, see https://mlflow.org/docs/latest/models.html#deploy-mlflow-models."
)


def read_json(body: bytes, signature: Signature, budget: Budget) -> Content:
    """The features in their types, and the caller's own columns, ids and params as they are, of a body.

    An optional feature that is not given is not there. Raises WireError, and TooLarge beyond the budget.
    """
    content = _decoded(body)
    try:
        rows = _read_rows(content, signature, budget)
    except ModelRefusesError:
        raise refused_by_model("a text column holds a list or an object") from None
    except RecursionError as error:
        raise invalid_input(f"{error}") from error
    return Content(rows.count, rows.columns, content.get("prediction_ids"), content.get("params"))


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid_input(_no_json(body, error)) from error
    if isinstance(content, dict):
        return content
    if isinstance(content, list):
        raise invalid_input(f"{_EXPECTED}. Received a list.")
    raise invalid_input(f"{_EXPECTED}. Received unexpected input type '{type(content)}.")


def _no_json(body: bytes, error: Exception) -> str:
    shown = body if len(body) <= MOST_ECHOED else body[:MOST_ECHOED] + b"..."
    cause = repr(error)
    if isinstance(error, UnicodeDecodeError):  # its own repr holds the whole body once more
        place = f"{error.start}, {error.end}, {error.reason!r}"
        cause = f"UnicodeDecodeError({error.encoding!r}, {shown!r}, {place})"
    return f"Ensure that input is a valid JSON formatted string. Error: '{cause}'\nInput: \n{shown!r}\n"


def _refuse_many(data: Any, budget: Budget) -> None:
    """Refuses lists of too many rows, and rows of too many names, before they are converted."""
    lists = data.values() if isinstance(data, dict) else [data]
    budget.check_rows(max((len(values) for values in lists if isinstance(values, list)), default=0))
    if isinstance(data, list):
        budget.check_cells(len(data), len({name for row in data if isinstance(row, dict) for name in row}))


def _read_rows(content: dict[str, Any], signature: Signature, budget: Budget) -> Content:
    if any(name in content for name in CHAT):
        raise signature.missing(signature.required, list(content))
    formats = [name for name in content if name in FORMATS]
    if len(formats) != 1:
        raise bad_request(f"{_EXPECTED}. Received dictionary with input fields: {formats}. {CHANGED}")
    data = content[formats[0]]
    if formats[0] in (RECORDS, SPLIT):
        frame = read_records(data, budget) if formats[0] == RECORDS else read_split(data, signature, budget)
        return converted(frame, signature)
    _refuse_many(data, budget)
    if signature.width is not None:
        return read_tensor(data, signature)
    return read_arrays(data, signature, by_row=formats[0] == INSTANCES)
