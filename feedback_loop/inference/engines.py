"""Engines: features in, outputs and answers out. Each wraps one kind of loaded model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from feedback_loop.errors import ModelRefused
from feedback_loop.schema import Column, Contract, Task, array_of, arrow_type
from feedback_loop.schema.protocol import Rows

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Scored:
    """What a model said of some rows: `answers` for the caller, `columns` for the log.

    There is a column for each of the contract's outputs, of as many values as there are rows: a NumPy or Arrow array.
    """

    contract: Contract
    answers: list[Any]
    columns: Sequence[Any]

    @cached_property
    def outputs(self) -> pa.Table:
        """The columns in their types, by stored name; raises BadInput where the model said what does not fit them."""
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
        self, estimator: Any, contract: Contract, *, answers_with: str = "predict", as_array: bool = False
    ) -> None:
        self.estimator = estimator
        self._contract = contract
        self._answers_with = answers_with
        self._as_array = as_array

    def score(self, features: pa.Table, params: Mapping[str, Any] | None = None) -> Scored:
        """Asks for classes and for probabilities: one can't be had from the other for every classifier."""
        del params  # neither scikit-learn nor MLflow's wrapper of it has a use for them
        frame = feature_frame(features, self._contract)
        inputs = frame.to_numpy() if self._as_array else frame
        prediction = _asked(self.estimator.predict, inputs)
        columns = _of_labels(self._contract, [prediction] if prediction.ndim == 1 else list(prediction.T))
        probabilities = None
        if self._contract.probabilities:
            probabilities = _asked(self.estimator.predict_proba, inputs)
            if isinstance(probabilities, list):  # of several labels, each with the classes that it was trained on
                given = zip(probabilities, columns, strict=True)
                sure = [each[:, 1] if each.shape[1] > 1 else answer.astype(float) for each, answer in given]
                probabilities = np.column_stack(sure)
            columns += _probability_columns(self._contract, probabilities)
        answers = prediction if self._answers_with != "predict_proba" or probabilities is None else probabilities
        return _checked(Scored(self._contract, answers.tolist(), columns))


class PyfuncEngine:
    """Anything that MLflow can load, through its `predict`; what it answers is the prediction."""

    def __init__(self, predict: Callable[..., Any], contract: Contract) -> None:
        self._predict = predict
        self._contract = contract

    def score(self, features: pa.Table, params: Mapping[str, Any] | None = None) -> Scored:
        """One value per row and label; of more columns than there are labels the first are logged."""
        predict = partial(self._predict, params=dict(params)) if params else self._predict
        answered = _asked(predict, feature_frame(features, self._contract))
        if hasattr(answered, "iloc"):
            plain = answered.to_dict(orient="records") if answered.ndim > 1 else answered.tolist()
            columns = [answered[name].tolist() for name in answered.columns] if answered.ndim > 1 else [plain]
        else:
            plain = answered.tolist() if hasattr(answered, "tolist") else list(answered)
            columns = list(zip(*(row if isinstance(row, list) else [row] for row in plain), strict=True))
        return _checked(Scored(self._contract, plain, _of_labels(self._contract, columns, empty=not len(plain))))


def feature_frame(features: pa.Table, contract: Contract) -> pd.DataFrame:
    """Features as the pandas frame that a model was trained on: missing numbers NaN, times without a zone."""
    columns = []
    for column in contract.features:
        values = features.column(column.name)
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.timestamp("us"))
        columns.append(values)
    return pa.table(columns, names=[column.name for column in contract.features]).to_pandas()


def _asked(predict: Callable[[Any], Any], inputs: Any) -> Any:
    try:
        return predict(inputs)
    except Exception as error:
        raise ModelRefused.of("", f"the model refused these rows: {type(error).__name__}: {error}") from error


def _of_labels(contract: Contract, columns: Sequence[Any], *, empty: bool = False) -> list[Any]:
    """As many columns as there are labels; raises ModelRefused where the model answers with fewer."""
    wanted = len(contract.labels)
    if empty:
        return [[]] * wanted
    if len(columns) < wanted:
        cause = f"the model answers {len(columns)} values for a row, and there are {wanted} labels"
        raise ModelRefused.of("", cause, cure=f"Mend models.{contract.model}.label in the configuration.")
    return list(columns[:wanted])


def _probability_columns(contract: Contract, probabilities: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    if contract.task is Task.BINARY and contract.positive is not None and not contract.more_labels:
        return [probabilities[:, contract.classes.index(contract.positive)]]
    return list(probabilities.T)


def _checked(scored: Scored) -> Scored:
    """The same, its columns in their types: whatever a model says, what is wrong with it is its own error."""
    return replace(scored, columns=[column.combine_chunks() for column in scored.outputs.columns])


def _output(column: Column, values: Any) -> pa.Array:
    kind = arrow_type(column.type)
    made_of = values.dtype.kind if hasattr(values, "dtype") else ""
    if made_of and made_of in "fiub":
        plain = pa.array(values)
        return plain if plain.type == kind else plain.cast(kind)
    if made_of == "O" and pa.types.is_string(kind):
        try:
            return pa.array(values, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            pass  # what is wrong with which row is told below
    return array_of(column.name, list(values), column.type)
