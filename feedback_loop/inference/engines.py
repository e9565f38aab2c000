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
from feedback_loop.inference.answers import Answer, Form, Marks, read_answer
from feedback_loop.inference.inputs import AS_A_FRAME, Inputs
from feedback_loop.schema import ENDS, Column, ColumnType, Contract, Task, array_of, arrow_type
from feedback_loop.schema.protocol import Rows

_MOST_LETTERS = 1000
_QUOTED = re.compile(r"(?<!\w)'.*?'(?!\w)|\".*?\"", re.DOTALL)


@dataclass(frozen=True)
class Scored:
    """A model's outputs for some rows: `answers` for the caller (who gets them in a `form`), `columns` for the log.

    `columns` has a NumPy or Arrow array of one value per row for each of the contract's outputs.
    Where a `revision` of an adapter made them, `raw` are the model's own outputs. `marks` are there where some keys
    are explored. `interval` is what is to be added to a regression's answers for both ends of their interval.
    """

    contract: Contract
    answers: list[Any]
    columns: Sequence[Any]
    form: Form = Form.ROWS
    raw: Sequence[Any] = ()
    revision: int | None = None
    marks: Marks | None = None
    interval: tuple[float, float] | None = None

    @cached_property
    def beside(self) -> dict[str, list[Any]]:
        """What callers get beside the answers, a value a row: `explore`, and the ends of intervals."""
        beside: dict[str, list[Any]] = {}
        if self.marks is not None:
            beside["explore"] = self.marks.explored
        if self.interval is not None:
            answers = np.asarray(self.columns[0], dtype=np.float64)
            beside |= {end: (answers + added).tolist() for end, added in zip(ENDS, self.interval, strict=True)}
        return beside

    @cached_property
    def outputs(self) -> pa.Table:
        """The columns in their types, by stored name; raises ModelFault for values of another type."""
        arrays = [_output(column, values) for column, values in zip(self.contract.outputs, self.columns, strict=True)]
        return pa.table(arrays, names=[column.stored for column in self.contract.outputs])

    def values(self) -> dict[str, list[Any]]:
        """The columns, and the raw ones of an adapter, as plain values by stored name."""
        columns, values = self.contract.outputs, self.columns
        if self.revision is not None:
            columns, values = (*columns, *self.contract.raw_outputs), (*values, *self.raw)
        return {column.stored: array.tolist() for column, array in zip(columns, values, strict=True)}


class Engine(Protocol):
    """Scores features (columns by the model's names, in the contract's types). Thread-safe; raises BadInput."""

    @property
    def answers_with(self) -> str:
        """What answers to callers are, by the name of scikit-learn's method: `predict`, `predict_proba`, …."""
        ...

    def score(self, features: pa.Table, params: Mapping[str, Any] | None = None) -> Scored:
        """One row of outputs and one answer per row of features; `params` are for models whose signature has some."""
        ...


@runtime_checkable
class RowsEngine(Protocol):
    """An engine that scores rows without a table: to make one for a single row costs more than the answer."""

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
        self.answers_with = answers_with
        self.inputs = inputs

    def score(self, features: pa.Table, params: Mapping[str, Any] | None = None) -> Scored:
        """Calls `predict` and `predict_proba`: not every classifier's classes follow from its probabilities."""
        del params  # neither scikit-learn nor MLflow's wrapper of it uses them
        contract, rows = self._contract, features.num_rows
        inputs = self.inputs.of(features, contract)
        answer = read_answer(_call_model(self.estimator.predict, inputs), rows)
        columns = answer.of_labels(contract)
        method, probabilities = self.answers_with, None
        if contract.probabilities:
            probabilities = self._probabilities(inputs, columns, rows)
            columns += _probability_columns(contract, probabilities)
        if method == "predict_proba" and probabilities is not None:
            answer = replace(answer, rows=probabilities.tolist(), form=Form.ROWS)
        elif method != "predict":  # a regression logs the number that callers get, if it is one
            answer = read_answer(_call_model(getattr(self.estimator, method), inputs), rows)
            if contract.task is Task.REGRESSION and len(answer.columns) == len(columns):
                columns = answer.of_labels(contract)
        return _checked(Scored(contract, answer.rows, columns, answer.form))

    def chances(self, features: pa.Table) -> np.ndarray[Any, Any]:
        """The probabilities of all classes (of several labels: of each label)."""
        inputs, rows = self.inputs.of(features, self._contract), features.num_rows
        columns = read_answer(_call_model(self.estimator.predict, inputs), rows).of_labels(self._contract)
        return self._probabilities(inputs, columns, rows)

    def _probabilities(self, inputs: Any, columns: Sequence[Any], rows: int) -> np.ndarray[Any, Any]:
        """A column for each class, or (of several labels) for each label; raises ModelFault for another matrix."""
        returned = _call_model(self.estimator.predict_proba, inputs)
        width = len(self._contract.classes)
        if (
            isinstance(returned, list) and self._contract.more_labels
        ):  # each label's, of the classes it was trained on
            pairs = zip((np.asarray(matrix) for matrix in returned), columns, strict=True)
            second = [pair[:, 1] if pair.shape[1] > 1 else np.asarray(label, float) for pair, label in pairs]
            returned, width = np.column_stack(second), len(columns)
        elif self._contract.more_labels:
            width = len(columns)
        matrix = np.asarray(returned)
        if matrix.shape != (rows, width) or matrix.dtype.kind not in "fiub":
            shape = f"{matrix.dtype} of shape {matrix.shape}"
            raise ModelFault(f"The model's predict_proba answers {shape} for {rows} rows and {width} classes.")
        return matrix


class PyfuncEngine:
    """Anything that MLflow can load, through its `predict`.

    Its answer is the prediction; where the contract has probabilities, it is these, and the prediction is the
    likeliest class. MLflow accepts no missing integers, but a frame without an optional column: rows that lack an
    optional integer are scored apart from the others, without that column.
    """

    def __init__(self, predict: Callable[..., Any], contract: Contract, inputs: Inputs = AS_A_FRAME) -> None:
        self._predict = predict
        self._contract = contract
        self.answers_with = "predict_proba" if contract.probabilities else "predict"
        self.inputs = inputs
        integers = (ColumnType.INTEGER, ColumnType.LONG)
        self._integers = [
            column.name for column in contract.features if not column.required and column.type in integers
        ]

    def score(self, features: pa.Table, params: Mapping[str, Any] | None = None) -> Scored:
        """One value per row and label."""
        with_nulls = [name for name in self._integers if features.column(name).null_count]
        if not with_nulls:
            return self._score(features, params)
        groups: dict[tuple[bool, ...], list[int]] = {}
        nulls = [features.column(name).is_null().to_pylist() for name in with_nulls]
        for place, row in enumerate(zip(*nulls, strict=True)):
            groups.setdefault(row, []).append(place)
        parts = [self._score(features.take(places), params) for places in groups.values()]
        return _joined(parts, np.argsort(np.concatenate([np.array(places) for places in groups.values()])))

    def chances(self, features: pa.Table) -> np.ndarray[Any, Any]:
        """The probabilities of all classes."""
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
        """The model's answer to rows that all have an optional integer, or all lack it."""
        predict = partial(self._predict, params=dict(params)) if params else self._predict
        without = [name for name in self._integers if features.column(name).null_count]
        return read_answer(_call_model(predict, self.inputs.of(features, self._contract, without)), features.num_rows)


def _joined(parts: Sequence[Scored], order: np.ndarray[Any, Any]) -> Scored:
    """The outputs of all parts, in the given order of rows."""
    answers = [answer for part in parts for answer in part.answers]
    columns = [pa.concat_arrays(arrays).take(order) for arrays in zip(*(part.columns for part in parts), strict=True)]
    largest = max(parts, key=lambda part: len(part.answers))
    form = largest.form if largest.form is not Form.SINGLE or len(parts) == 1 else Form.ROWS
    return Scored(largest.contract, [answers[place] for place in order], columns, form)


def _class_chances(contract: Contract, answer: Answer) -> np.ndarray[Any, Any]:
    """The probabilities of all classes, from an answer that has them all or (of two) that of the last class."""
    try:
        columns = [np.asarray(column, dtype=np.float64) for column in answer.columns]
    except (ValueError, TypeError) as error:
        raise ModelFault("The model answers what are no numbers where probabilities are meant.") from error
    if len(columns) == 1 and len(contract.classes) == 2:
        columns = [1.0 - columns[0], columns[0]]
    if len(columns) != len(contract.classes):
        raise ModelFault(f"The model answers {len(columns)} probabilities for {len(contract.classes)} classes.")
    return np.column_stack(columns)


def _call_model(predict: Callable[[Any], Any], inputs: Any) -> Any:
    try:
        return predict(inputs)
    except Exception as error:  # a user's model may raise anything
        message = without_data(str(error), {str(name) for name in getattr(inputs, "columns", ())})
        raise ModelRefused.of("", f"the model refused these rows: {type(error).__name__}: {message}") from error


def without_data(text: str, names: set[str]) -> str:
    """An error's text without the rows that MLflow prints and without quoted text, except names of columns."""
    text = re.sub(r"of data '.*' with schema", "of data '...' with schema", text, flags=re.DOTALL)
    text = _QUOTED.sub(lambda quoted: quoted[0] if quoted[0][1:-1] in names else "'...'", text)
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]} …"


def _probability_columns(contract: Contract, probabilities: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    if contract.task is Task.BINARY and contract.positive is not None and not contract.more_labels:
        return [probabilities[:, contract.classes.index(contract.positive)]]
    return list(probabilities.T)


def _checked(scored: Scored) -> Scored:
    """The outputs with their columns in the contract's types; raises ModelFault for values that do not fit."""
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
