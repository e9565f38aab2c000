"""Engines: features in, outputs and answers out. Each wraps one kind of loaded model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from feedback_loop.errors import BadInput, ModelFault, ModelRefused
from feedback_loop.inference.answers import Answer, Form, read_answer
from feedback_loop.inference.inputs import AS_A_FRAME, Inputs
from feedback_loop.schema import Column, ColumnType, Contract, Task, array_of, arrow_type
from feedback_loop.schema.protocol import Rows

_MOST_LETTERS = 1000
_QUOTED = re.compile(r"(?<!\w)'.*?'(?!\w)|\".*?\"", re.DOTALL)


@dataclass(frozen=True)
class Scored:
    """What a model said of some rows: `answers` for the caller (who gets them in a `form`), `columns` for the log.

    There is a column for each of the contract's outputs, of as many values as there are rows: a NumPy or Arrow array.
    """

    contract: Contract
    answers: list[Any]
    columns: Sequence[Any]
    form: Form = Form.ROWS

    @cached_property
    def outputs(self) -> pa.Table:
        """The columns in their types, by stored name; raises ModelFault where the model said what does not fit."""
        arrays = [_output(column, values) for column, values in zip(self.contract.outputs, self.columns, strict=True)]
        return pa.table(arrays, names=[column.stored for column in self.contract.outputs])

    def values(self) -> dict[str, list[Any]]:
        """The same as plain values."""
        named = zip(self.contract.outputs, self.columns, strict=True)
        return {column.stored: values.tolist() for column, values in named}


class Engine(Protocol):
    """Scores features (columns by the model's names, in the contract's types). Thread-safe; raises BadInput."""

    def score(self, features: pa.Table, params: Mapping[str, Any] | None = None) -> Scored:
        """One row of outputs and one answer per row of features; `params` are for models whose signature has some."""
        ...


@runtime_checkable
class RowsEngine(Protocol):
    """An engine that has no need of a table: to make one for a single row costs more than the answer."""

    def score_rows(self, rows: Rows) -> Scored:
        """As `Engine.score`."""
        ...


class SklearnEngine:
    """scikit-learn's own object, without MLflow's pyfunc around it."""

    def __init__(
        self, estimator: Any, contract: Contract, *, answers_with: str = "predict", inputs: Inputs = AS_A_FRAME
    ) -> None:
        self.estimator = estimator
        self._contract = contract
        self._answers_with = answers_with
        self.inputs = inputs

    def score(self, features: pa.Table, params: Mapping[str, Any] | None = None) -> Scored:
        """Asks for classes and for probabilities: one can't be had from the other for every classifier."""
        del params  # neither scikit-learn nor MLflow's wrapper of it has a use for them
        contract, rows = self._contract, features.num_rows
        inputs = self.inputs.of(features, contract)
        answer = read_answer(_asked(self.estimator.predict, inputs), rows)
        columns = answer.of_labels(contract)
        way, probabilities = self._answers_with, None
        if contract.probabilities:
            probabilities = self._probabilities(inputs, columns, rows)
            columns += _probability_columns(contract, probabilities)
        if way == "predict_proba" and probabilities is not None:
            answer = replace(answer, rows=probabilities.tolist(), form=Form.ROWS)
        elif way != "predict":  # of what callers get, a regression logs the number, if it is one
            answer = read_answer(_asked(getattr(self.estimator, way), inputs), rows)
            if contract.task is Task.REGRESSION and len(answer.columns) == len(columns):
                columns = answer.of_labels(contract)
        return _checked(Scored(contract, answer.rows, columns, answer.form))

    def chances(self, features: pa.Table) -> np.ndarray[Any, Any]:
        """The probabilities that it gives, of all classes (of several labels: of each label)."""
        inputs, rows = self.inputs.of(features, self._contract), features.num_rows
        columns = read_answer(_asked(self.estimator.predict, inputs), rows).of_labels(self._contract)
        return self._probabilities(inputs, columns, rows)

    def _probabilities(self, inputs: Any, columns: Sequence[Any], rows: int) -> np.ndarray[Any, Any]:
        """A column for each class, or (of several labels) for each label; raises ModelFault for another matrix."""
        answered = _asked(self.estimator.predict_proba, inputs)
        wanted = len(self._contract.classes)
        if (
            isinstance(answered, list) and self._contract.more_labels
        ):  # each label's, of the classes it was trained on
            pairs = zip((np.asarray(matrix) for matrix in answered), columns, strict=True)
            second = [pair[:, 1] if pair.shape[1] > 1 else np.asarray(label, float) for pair, label in pairs]
            answered, wanted = np.column_stack(second), len(columns)
        elif self._contract.more_labels:
            wanted = len(columns)
        matrix = np.asarray(answered)
        if matrix.shape != (rows, wanted) or matrix.dtype.kind not in "fiub":
            shape = f"{matrix.dtype} of shape {matrix.shape}"
            raise ModelFault(f"The model's predict_proba answers {shape} for {rows} rows and {wanted} classes.")
        return matrix


class PyfuncEngine:
    """Anything that MLflow can load, through its `predict`.

    What it answers is the prediction; or, where the contract has probabilities, those, and the likeliest class is it.
    MLflow takes no integer that is missing, but it does without an optional column: rows that lack one are asked
    without it, and apart from those that have it.
    """

    def __init__(self, predict: Callable[..., Any], contract: Contract, inputs: Inputs = AS_A_FRAME) -> None:
        self._predict = predict
        self._contract = contract
        self.inputs = inputs
        integers = (ColumnType.INTEGER, ColumnType.LONG)
        self._integers = [
            column.name for column in contract.features if not column.required and column.type in integers
        ]

    def score(self, features: pa.Table, params: Mapping[str, Any] | None = None) -> Scored:
        """One value per row and label."""
        lacking = [name for name in self._integers if features.column(name).null_count]
        if not lacking:
            return self._score(features, params)
        groups: dict[tuple[bool, ...], list[int]] = {}
        nulls = [features.column(name).is_null().to_pylist() for name in lacking]
        for place, row in enumerate(zip(*nulls, strict=True)):
            groups.setdefault(row, []).append(place)
        parts = [self._score(features.take(places), params) for places in groups.values()]
        return _joined(parts, np.argsort(np.concatenate([np.array(places) for places in groups.values()])))

    def chances(self, features: pa.Table) -> np.ndarray[Any, Any]:
        """The probabilities that it gives of a row, of all classes."""
        return _class_chances(self._contract, self._answer(features, None))

    def _score(self, features: pa.Table, params: Mapping[str, Any] | None) -> Scored:
        contract, answer = self._contract, self._answer(features, params)
        if not contract.probabilities:
            return _checked(Scored(contract, answer.rows, answer.of_labels(contract), answer.form))
        chances = _class_chances(contract, answer)
        likeliest = [contract.classes[place] for place in chances.argmax(axis=1)]
        return _checked(
            Scored(contract, answer.rows, [likeliest, *_probability_columns(contract, chances)], answer.form)
        )

    def _answer(self, features: pa.Table, params: Mapping[str, Any] | None) -> Answer:
        """Of rows that all have an optional integer, or all lack it."""
        predict = partial(self._predict, params=dict(params)) if params else self._predict
        without = [name for name in self._integers if features.column(name).null_count]
        return read_answer(_asked(predict, self.inputs.of(features, self._contract, without)), features.num_rows)


def _joined(parts: Sequence[Scored], order: np.ndarray[Any, Any]) -> Scored:
    """The answers of all parts, in the order of their rows."""
    answers = [answer for part in parts for answer in part.answers]
    columns = [pa.concat_arrays(arrays).take(order) for arrays in zip(*(part.columns for part in parts), strict=True)]
    largest = max(parts, key=lambda part: len(part.answers))
    form = largest.form if largest.form is not Form.SINGLE or len(parts) == 1 else Form.ROWS
    return Scored(largest.contract, [answers[place] for place in order], columns, form)


def _class_chances(contract: Contract, answer: Answer) -> np.ndarray[Any, Any]:
    """A column for each class, of an answer that has them all or (of two classes) that of the last one only."""
    try:
        columns = [np.asarray(column, dtype=np.float64) for column in answer.columns]
    except (ValueError, TypeError) as error:
        raise ModelFault("The model answers what are no numbers where probabilities are meant.") from error
    if len(columns) == 1 and len(contract.classes) == 2:
        columns = [1.0 - columns[0], columns[0]]
    if len(columns) != len(contract.classes):
        raise ModelFault(f"The model answers {len(columns)} probabilities for {len(contract.classes)} classes.")
    return np.column_stack(columns)


def _asked(predict: Callable[[Any], Any], inputs: Any) -> Any:
    try:
        return predict(inputs)
    except Exception as error:
        message = without_data(str(error), {str(name) for name in getattr(inputs, "columns", ())})
        raise ModelRefused.of("", f"the model refused these rows: {type(error).__name__}: {message}") from error


def without_data(text: str, names: set[str]) -> str:
    """An error's words without the rows that MLflow prints, and without what is quoted, but for columns' names."""
    text = re.sub(r"of data '.*' with schema", "of data '...' with schema", text, flags=re.DOTALL)
    text = _QUOTED.sub(lambda quoted: quoted[0] if quoted[0][1:-1] in names else "'...'", text)
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]} …"


def _probability_columns(contract: Contract, probabilities: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    if contract.task is Task.BINARY and contract.positive is not None and not contract.more_labels:
        return [probabilities[:, contract.classes.index(contract.positive)]]
    return list(probabilities.T)


def _checked(scored: Scored) -> Scored:
    """The same, its columns in their types: whatever a model says, what is wrong with it is its own error."""
    return replace(scored, columns=[column.combine_chunks() for column in scored.outputs.columns])


def _output(column: Column, values: Any) -> pa.Array:
    try:
        return _typed(column, values)
    except (BadInput, pa.ArrowInvalid) as error:
        wrong = error.total if isinstance(error, BadInput) else "some"
        cause = f"The model answers {wrong} values for {column.name!r} that are no {column.type}"
        raise ModelFault(f"{cause}.", cure="Mend the model, or its task in the configuration.") from error


def _typed(column: Column, values: Any) -> pa.Array:
    kind = arrow_type(column.type)
    numpy_kind = values.dtype.kind if hasattr(values, "dtype") else ""
    if numpy_kind and numpy_kind in "fiub":
        plain = pa.array(values)
        return plain if plain.type == kind else plain.cast(kind)
    if numpy_kind == "O" and pa.types.is_string(kind):
        try:
            return pa.array(values, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            pass  # the error of array_of names the row
    return array_of(column.name, list(values), column.type)
