"""An adapter at work on one version: its answers, as the model gives them, with the adapted ones in their place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from feedback_loop.errors import Refused
from feedback_loop.inference.adapter_coefficients import Coefficients
from feedback_loop.inference.adapter_encoding import Floats
from feedback_loop.inference.engines import Scored
from feedback_loop.schema import ColumnType, Contract, Task
from feedback_loop.schema.protocol import Rows

WAYS = ("predict", "predict_proba", "predict_log_proba")
"""What answers may be: classes or numbers, probabilities, their logarithms."""

FEW_CLASSES = 8
"""With so many classes a single row is quicker by plain numbers than by NumPy's calls."""


@dataclass(frozen=True)
class Adapting:
    """A revision of an adapter on the answers of one version. Thread-safe.

    `answers_with` says what the version's answers are: one of `WAYS`. A class that is answered is the likeliest one.
    `has_intervals`: whether the numbers of a regression are given out with their intervals, once there are some.
    """

    revision: int
    coefficients: Coefficients
    contract: Contract
    answers_with: str
    has_intervals: bool = False

    def __post_init__(self) -> None:
        cause = self.coefficients.why_unfit(self.contract)
        if not cause and self.answers_with not in WAYS:
            cause = f"the version answers with {self.answers_with}"
        if cause:
            raise Refused(f"Revision {self.revision} of the adapter of {self.contract.model!r} can't be on: {cause}.")

    def adapted(self, scored: Scored, rows: Rows | pa.Table) -> Scored:
        """What callers get and what is logged, made of what the model said of these rows."""
        if isinstance(rows, Rows) and rows.count == 1 and len(self.contract.classes) <= FEW_CLASSES:
            return self._one(scored, rows)
        answers = self.coefficients.apply(self._raw(scored), self._features(rows))
        if self.contract.task is Task.REGRESSION:
            shown = _all_placed(scored.answers, answers, self.contract.label.name)
            return self._scored(scored, shown, [answers])
        chances = self._by_class(answers)
        classes = self._likeliest(chances, scored.columns[0])
        if self.answers_with == "predict":
            shown = _all_placed(scored.answers, classes)
        else:
            shown = _all_placed(
                scored.answers, (chances if self.answers_with == "predict_proba" else np.log(chances)).T
            )
        return self._scored(scored, shown, [classes, *(answers.T if answers.ndim > 1 else [answers])])

    def _one(self, scored: Scored, rows: Rows) -> Scored:
        """The same for a single row of few numbers, without NumPy where it would take longer."""
        contract, features, (before,) = self.contract, self._features_of_one(rows.columns), scored.answers
        raw = [_number(column) for column in scored.columns]
        if contract.task is Task.REGRESSION:
            answer = self.coefficients.apply_one(raw[0], features)
            return self._scored(scored, [_placed(before, [answer], contract.label.name)], [np.array([answer])])
        if contract.task is Task.BINARY:
            answer = self.coefficients.apply_one(raw[1], features)
            chances = [1.0 - answer, answer] if contract.classes[1] == contract.positive else [answer, 1.0 - answer]
            columns = [np.array([answer])]
        else:
            chances = self.coefficients.apply_to_classes(raw[1:], features)
            columns = list(np.array([chances]).T)
        own = contract.classes[chances.index(max(chances))]
        if math.isnan(chances[0]):  # the model gave no probabilities
            (own,) = scored.columns[0].tolist()
        if self.answers_with != "predict":
            shown = _placed(before, chances if self.answers_with == "predict_proba" else np.log(chances).tolist())
        else:
            shown = _placed(before, [own])
        return self._scored(scored, [shown], [np.array([own], self._classes.dtype), *columns])

    def _scored(self, scored: Scored, answers: list[Any], columns: list[Any]) -> Scored:
        interval = self.coefficients.interval if self.has_intervals else None
        return Scored(
            scored.contract, answers, columns, scored.form, scored.columns, self.revision, interval=interval
        )

    def _raw(self, scored: Scored) -> Floats:
        """The model's own answers as `Coefficients.apply` takes them."""
        columns = scored.columns[:1] if self.contract.task is Task.REGRESSION else scored.columns[1:]
        raw = [_floats(column) for column in columns]
        return np.column_stack(raw) if self.contract.task is Task.MULTICLASS else raw[0]

    def _features(self, rows: Rows | pa.Table) -> Mapping[str, Any]:
        """The columns that it takes, in the precision that the log has them in."""
        if isinstance(rows, Rows):
            columns = {name: rows.columns[name] for name in self.coefficients.encoding.names if name in rows.columns}
            return columns | {name: np.array(columns[name], np.float32) for name in self._single if name in columns}
        names = rows.column_names
        return {name: rows.column(name) for name in self.coefficients.encoding.names if name in names}

    def _features_of_one(self, columns: Mapping[str, Sequence[Any]]) -> Mapping[str, Any]:
        """The same of a single row."""
        single = {name: columns[name][0] for name in self._single if name in columns}
        return {
            **columns,
            **{name: [value if value is None else np.float32(value)] for name, value in single.items()},
        }

    def _by_class(self, answers: Floats) -> Floats:
        """Probabilities of all classes, (classes, rows)."""
        if answers.ndim > 1:
            return answers.T
        other = 1.0 - answers
        return np.stack([answers, other] if self.contract.classes[0] == self.contract.positive else [other, answers])

    def _likeliest(self, chances: Floats, raw: Any) -> np.ndarray[Any, Any]:
        """The class of each row; what the model said where it gave no probabilities."""
        places, largest = np.zeros(chances.shape[1], np.intp), chances[0]
        for place, chance in enumerate(chances[1:], 1):  # argmax over the first axis takes ten times as long
            np.copyto(places, place, where=chance > largest)
            largest = np.maximum(largest, chance)
        classes: np.ndarray[Any, Any] = self._classes[places]
        unknown = np.isnan(chances[0])
        return np.where(unknown, np.asarray(raw), classes) if unknown.any() else classes

    @cached_property
    def _classes(self) -> np.ndarray[Any, Any]:
        return np.array(self.contract.classes, None if self.contract.label.type is not ColumnType.STRING else object)

    @cached_property
    def _single(self) -> frozenset[str]:
        return frozenset(column.name for column in self.contract.features if column.type is ColumnType.FLOAT)


def _floats(values: Any) -> Floats:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        values = values.to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float64)


def _number(column: Any) -> Any:
    """The only value of a column; NaN for a missing one."""
    (value,) = column.tolist()
    return math.nan if value is None else value


def _all_placed(answers: Sequence[Any], values: np.ndarray[Any, Any], name: str = "") -> list[Any]:
    """`_placed` for each of the rows, of which values have shape (rows,) or (rows, classes)."""
    plain: list[Any] = values.tolist()
    kinds = set(map(type, answers))
    if values.ndim > 1:
        if kinds == {list} and set(map(len, answers)) == {values.shape[1]}:
            return plain  # as it is in nearly all models
        return [_placed(before, own) for before, own in zip(answers, plain, strict=True)]
    if kinds <= {bool, int, str} or (kinds == {float} and values.dtype == np.float64):
        return plain
    return [_placed(before, [own], name) for before, own in zip(answers, plain, strict=True)]


def _placed(answer: Any, values: list[Any], name: str = "") -> Any:
    """An answer in the form that the model gives it, with these values; of two chances it may give the last alone."""
    if isinstance(answer, dict):
        names = [name] if name in answer else list(answer)
        last = values[-len(names) :]
        return answer | {key: _as(answer[key], value) for key, value in zip(names, last, strict=False)}
    if isinstance(answer, list):
        last = values[-len(answer) :]
        return [*(_as(before, value) for before, value in zip(answer, last, strict=False)), *answer[len(last) :]]
    return _as(answer, values[-1])


def _as(answer: Any, value: Any) -> Any:
    """A class in the type that the model gives it: numbers may be whole ones with a fraction."""
    return float(value) if isinstance(answer, float) else value
