"""What somebody else's server answered, as the output columns of a contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from feedback_loop.errors import BadInput, RowError
from feedback_loop.schema import Contract, Task, as_table, coerce, unknown_classes


def read_outputs(contract: Contract, given: Any, *, text: bool = False) -> pa.Table:
    """The outputs, by their stored names and in their types; what was not given is null. Raises BadInput.

    `given` is a frame (or rows, or columns) that names `prediction`, `probability` or `probability_<class>`; or plain
    values: one per row, or one per row and class. Of plain values for a binary task, fractional numbers are the
    positive class's probability and everything else is a class: whoever may answer with either names the column.
    """
    columns = _columns(contract, given)
    wanted = [replace(column, required=False) for column in contract.outputs]
    outputs = coerce(as_table(columns), wanted, text=text)
    _refuse_impossible(contract, outputs)
    return outputs.rename_columns([column.stored for column in contract.outputs])


def _columns(contract: Contract, given: Any) -> dict[str, Any]:
    if _is_frame(given):
        table = as_table(given)
        named = [column.name for column in contract.outputs if column.name in table.column_names]
        if named:
            return {name: table.column(name) for name in named}
        if table.num_columns != 1:
            expected = ", ".join(column.name for column in contract.outputs)
            raise BadInput.of("predictions", f"has none of the columns {expected}, but {table.column_names}")
        return _unnamed(contract, table.column(0).to_pylist())
    return _unnamed(contract, plain_values(given))


def _is_frame(given: Any) -> bool:
    if isinstance(given, Mapping | pa.Table | pa.RecordBatch) or hasattr(given, "columns"):
        return True
    return isinstance(given, Sequence) and len(given) > 0 and isinstance(given[0], Mapping)


def plain_values(given: Any) -> list[Any]:
    """A list of plain Python values from an array, a series or a sequence, of any library."""
    if hasattr(given, "to_pylist"):  # Arrow
        given = given.to_pylist()
    elif hasattr(given, "tolist"):  # NumPy, pandas
        given = given.tolist()
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise BadInput.of("predictions", f"is {type(given).__name__}, where a value per row is expected")
    return [value.tolist() if hasattr(value, "tolist") else value for value in given]


def _unnamed(contract: Contract, values: list[Any]) -> dict[str, Any]:
    """Plain values under the names of the outputs that they are."""
    lists = [isinstance(value, list | tuple) for value in values]
    if not any(lists):
        return {_single(contract, values): values}
    if not all(lists):
        raise BadInput.of("predictions", "has rows of one value and rows of several")
    names = [column.name for column in contract.probabilities]
    width = len(values[0])
    for row, value in enumerate(values):
        if len(value) != width or width not in (1, len(contract.classes) if names else 1):
            expected = f"{len(contract.classes)} probabilities" if names else "one value"
            raise BadInput.of("predictions", f"has {len(value)} values, where {expected} is expected", row=row)
    if width == 1:
        return _unnamed(contract, [value[0] for value in values])
    if contract.task is Task.BINARY:
        place = contract.classes.index(contract.positive) if contract.positive is not None else -1
        return {names[0]: [value[place] for value in values]}
    return {name: [value[place] for value in values] for place, name in enumerate(names)}


def _single(contract: Contract, values: list[Any]) -> str:
    is_probability = contract.task is Task.BINARY and any(isinstance(value, float) for value in values)
    return (contract.probabilities if contract.probabilities and is_probability else contract.outputs)[0].name


def _refuse_impossible(contract: Contract, outputs: pa.Table) -> None:
    """A class that the model does not know, or a probability that is none, is another model's answer."""
    answer = contract.outputs[0].name
    problems = unknown_classes(contract.classes, answer, outputs.column(answer))
    for column in contract.probabilities:
        for row, value in enumerate(outputs.column(column.name).to_pylist()):
            if value is not None and not 0 <= value <= 1:
                problems.append(RowError(row, column.name, f"{value!r} is no probability"))
    columns = [outputs.column(column.name) for column in contract.outputs]
    problems += [
        RowError(row, answer, "is missing, and there is no probability either")
        for row in range(outputs.num_rows)
        if not any(column[row].is_valid for column in columns)
    ]
    if problems:
        raise BadInput(problems, cure="Nothing was taken.")
