"""Reads what a model returns, of any type, as one answer per row and one value per row of each column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from feedback_loop.errors import ModelFault

if TYPE_CHECKING:
    from feedback_loop.schema import Contract


@dataclass(frozen=True)
class Marks:
    """What the log says of each row: whether it is explored, and how likely it is acted on (None: not known)."""

    explored: list[bool]
    propensity: list[float | None]


class Form(StrEnum):
    """The form in which callers get answers: as the model returns them, like MLflow."""

    ROWS = "rows"  # a list of one answer a row
    COLUMNS = "columns"  # an object that holds lists of one value a row
    SINGLE = "single"  # the answer to the only row by itself

    def shaped(self, answers: list[Any]) -> Any:
        """Answers, one a row, in this form."""
        if self is Form.ROWS:
            return answers
        if self is Form.SINGLE and len(answers) == 1:
            return answers[0]
        return {name: [answer[name] for answer in answers] for name in answers[0]}


@dataclass(frozen=True)
class Answer:
    """`rows` is what callers get, one a row; `columns` are the values by column, named where the model names them."""

    rows: list[Any]
    columns: Sequence[Any]
    names: tuple[str, ...] = ()
    form: Form = Form.ROWS

    def of_labels(self, contract: Contract) -> list[Any]:
        """The values of each label: the column of its name, else the first ones; raises ModelFault for too few."""
        labels = [column.name for column in contract.labels]
        if self.names and set(labels) <= set(self.names):
            return [self.columns[self.names.index(name)] for name in labels]
        if not self.rows:
            return [[]] * len(labels)
        if len(self.columns) < len(labels):
            raise ModelFault(
                f"The model answers {len(self.columns)} values for a row, and there are {len(labels)} labels.",
                cure=f"Mend models.{contract.model}.label in the configuration.",
            )
        return list(self.columns[: len(labels)])


def read_answer(returned: Any, rows: int) -> Answer:
    """What a model returned for so many rows: an array, a frame, a series, lists, objects; raises ModelFault."""
    answer = _read(returned, rows)
    _check_encodable(answer.rows)
    return answer


def _read(returned: Any, rows: int) -> Answer:
    if hasattr(returned, "iloc"):
        return _of_pandas(returned, rows)
    if isinstance(returned, Mapping):
        return _of_mapping({str(name): _plain(value) for name, value in returned.items()}, rows)
    if isinstance(returned, list | tuple):
        return _of_list([_plain(value) for value in returned], rows)
    if not hasattr(returned, "tolist"):
        return _of_one(returned, rows)
    array = np.asarray(returned)
    if array.ndim == 0:
        return _of_one(array.item(), rows)
    _check_count(len(array), rows)
    columns = [array] if array.ndim == 1 else list(array.reshape(len(array), -1).T) if len(array) else []
    return Answer(_plain(array.tolist()) if array.dtype.kind == "O" else array.tolist(), columns)


def _of_pandas(returned: Any, rows: int) -> Answer:
    """Records, as MLflow makes them of a frame, and of a series too."""
    _check_count(len(returned), rows)
    frame = returned.to_frame() if returned.ndim == 1 else returned
    names = tuple(str(name) for name in frame.columns)
    if len(set(names)) < len(names):
        raise ModelFault(f"The model answers a frame with a column that is there twice: {', '.join(names)}.")
    columns = [frame.iloc[:, place].tolist() for place in range(len(names))]
    records = [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict(orient="records")]
    return Answer(records, columns, names)


def _of_mapping(returned: dict[str, Any], rows: int) -> Answer:
    columns = list(returned.values())
    if columns and all(isinstance(values, list) and len(values) == rows for values in columns):
        records = [dict(zip(returned, values, strict=True)) for values in zip(*columns, strict=True)]
        return Answer(records, columns, tuple(returned), Form.COLUMNS)
    if rows == 1 and columns:
        return Answer([returned], [[value] for value in columns], tuple(returned), Form.SINGLE)
    lengths = {name: len(values) if isinstance(values, list) else "no list" for name, values in returned.items()}
    raise ModelFault(f"The model answers an object of lists whose lengths are {lengths}, where it was asked {rows}.")


def _of_list(returned: list[Any], rows: int) -> Answer:
    _check_count(len(returned), rows)
    if not returned:
        return Answer([], [])
    if all(isinstance(row, dict) for row in returned):
        names = tuple(name for name in returned[0] if all(name in row for row in returned))
        return Answer(returned, [[row[name] for row in returned] for name in names], names)
    if all(isinstance(row, list) for row in returned):
        return Answer(
            returned, [list(values) for values in zip(*returned, strict=False)]
        )  # the values that all rows have
    return Answer(returned, [returned])


def _of_one(returned: Any, rows: int) -> Answer:
    """A single value is an answer to a single row."""
    if isinstance(returned, bool | int | float | str) and rows == 1:
        return Answer([returned], [[returned]], form=Form.SINGLE)
    raise ModelFault(f"The model answers {_an(type(returned).__name__)}, which is no answer for each of {rows} rows.")


def _check_count(answers: int, rows: int) -> None:
    if answers != rows:
        raise ModelFault(f"The model answers {answers} rows where it was asked {rows}.")


def _plain(value: Any) -> Any:
    """NumPy's and pandas' values as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return value


def _check_encodable(rows: list[Any]) -> None:
    if not rows or isinstance(rows[0], float | bool):
        return
    try:
        msgspec.json.encode(rows)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ModelFault(f"The model answers what JSON can't hold: {error}.") from error


def _an(name: str) -> str:
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
