"""What a model answered, whatever it is, as one answer and one value of each column per row; else its own fault."""

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


class Form(StrEnum):
    """How callers get the answers to their rows: MLflow gives them what the model returned."""

    ROWS = "rows"  # a list of one answer a row
    COLUMNS = "columns"  # an object that holds lists of one value a row
    SINGLE = "single"  # what was answered to the only row, as it is

    def told(self, answers: list[Any]) -> Any:
        """One answer a row in this form."""
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
        """The column of each label: the one of its name, else of the first ones; raises ModelFault for too few."""
        wanted = [column.name for column in contract.labels]
        if self.names and set(wanted) <= set(self.names):
            return [self.columns[self.names.index(name)] for name in wanted]
        if not self.rows:
            return [[]] * len(wanted)
        if len(self.columns) < len(wanted):
            raise ModelFault(
                f"The model answers {len(self.columns)} values for a row, and there are {len(wanted)} labels.",
                cure=f"Mend models.{contract.model}.label in the configuration.",
            )
        return list(self.columns[: len(wanted)])


def read_answer(given: Any, rows: int) -> Answer:
    """What a model returned for so many rows: an array, a frame, a series, lists, objects; raises ModelFault."""
    answer = _read(given, rows)
    _encodable(answer.rows)
    return answer


def _read(given: Any, rows: int) -> Answer:
    if hasattr(given, "iloc"):
        return _of_pandas(given, rows)
    if isinstance(given, Mapping):
        return _of_mapping({str(name): _plain(value) for name, value in given.items()}, rows)
    if isinstance(given, list | tuple):
        return _of_list([_plain(each) for each in given], rows)
    if not hasattr(given, "tolist"):
        return _of_one(given, rows)
    array = np.asarray(given)
    if array.ndim == 0:
        return _of_one(array.item(), rows)
    _counted(len(array), rows)
    columns = [array] if array.ndim == 1 else list(array.reshape(len(array), -1).T) if len(array) else []
    return Answer(_plain(array.tolist()) if array.dtype.kind == "O" else array.tolist(), columns)


def _of_pandas(given: Any, rows: int) -> Answer:
    """Records, as MLflow makes them of a frame, and of a series too."""
    _counted(len(given), rows)
    frame = given.to_frame() if given.ndim == 1 else given
    names = tuple(str(name) for name in frame.columns)
    if len(set(names)) < len(names):
        raise ModelFault(f"The model answers a frame with a column that is there twice: {', '.join(names)}.")
    columns = [frame.iloc[:, place].tolist() for place in range(len(names))]
    records = [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict(orient="records")]
    return Answer(records, columns, names)


def _of_mapping(given: dict[str, Any], rows: int) -> Answer:
    columns = list(given.values())
    if columns and all(isinstance(each, list) and len(each) == rows for each in columns):
        records = [dict(zip(given, values, strict=True)) for values in zip(*columns, strict=True)]
        return Answer(records, columns, tuple(given), Form.COLUMNS)
    if rows == 1 and columns:
        return Answer([given], [[each] for each in columns], tuple(given), Form.SINGLE)
    lengths = {name: len(each) if isinstance(each, list) else "no list" for name, each in given.items()}
    raise ModelFault(f"The model answers an object of lists whose lengths are {lengths}, where it was asked {rows}.")


def _of_list(given: list[Any], rows: int) -> Answer:
    _counted(len(given), rows)
    if not given:
        return Answer([], [])
    if all(isinstance(each, dict) for each in given):
        names = tuple(name for name in given[0] if all(name in each for each in given))
        return Answer(given, [[each[name] for each in given] for name in names], names)
    if all(isinstance(each, list) for each in given):
        return Answer(given, [list(values) for values in zip(*given, strict=False)])  # those that all have
    return Answer(given, [given])


def _of_one(given: Any, rows: int) -> Answer:
    """A single value is an answer to a single row."""
    if isinstance(given, bool | int | float | str) and rows == 1:
        return Answer([given], [[given]], form=Form.SINGLE)
    raise ModelFault(f"The model answers {_an(type(given).__name__)}, which is no answer for each of {rows} rows.")


def _counted(answers: int, rows: int) -> None:
    if answers != rows:
        raise ModelFault(f"The model answers {answers} rows where it was asked {rows}.")


def _plain(value: Any) -> Any:
    """NumPy's and pandas' values as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    return value


def _encodable(rows: list[Any]) -> None:
    if not rows or isinstance(rows[0], float | bool):
        return
    try:
        msgspec.json.encode(rows)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ModelFault(f"The model answers what JSON can't hold: {error}.") from error


def _an(name: str) -> str:
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
