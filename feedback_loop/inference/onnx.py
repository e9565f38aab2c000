"""The ONNX engine, which needs neither scikit-learn nor pandas nor MLflow, and the tensors that it is fed with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from feedback_loop.errors import ModelRefused, RowError
from feedback_loop.inference.engines import Scored
from feedback_loop.schema import ColumnType, Contract
from feedback_loop.schema.protocol import Rows

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MISSING_WORD = "\ufdd0"
"""What stands for a missing word, since ONNX's strings know no null: a code that Unicode keeps free of characters.

(Not NUL, which no caller's word may hold either: ONNX Runtime takes it for the end, and so for an empty word.)
"""

NUMBERS, WORDS = "numbers", "words"
"""The names of the two inputs."""


@dataclass(frozen=True)
class Layout:
    """Which columns of the contract make up the inputs `numbers` (float64) and `words`, in which order."""

    numbers: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    lowered: tuple[str, ...] = ()  # of the words: texts that are taken in lower case

    def feed(self, features: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
        """The inputs for these rows; a missing number is NaN, a missing word `MISSING_WORD`."""
        feed: dict[str, np.ndarray[Any, Any]] = {}
        if self.numbers:
            numbers = np.empty((features.num_rows, len(self.numbers)))
            for place, name in enumerate(self.numbers):
                numbers[:, place] = _numbers(features.column(name))
            feed[NUMBERS] = numbers
        if self.words:
            words = np.empty((features.num_rows, len(self.words)), dtype=object)
            for place, name in enumerate(self.words):
                values = _words(features.column(name))
                words[:, place] = [value.lower() for value in values] if name in self.lowered else values
            feed[WORDS] = words
        return feed

    def feed_rows(self, rows: Rows, single: Sequence[int]) -> dict[str, np.ndarray[Any, Any]]:
        """The same for decoded rows; `single` are the places of numbers that are of single precision."""
        feed: dict[str, np.ndarray[Any, Any]] = {}
        if self.numbers:
            numbers = np.array([rows.columns[name] for name in self.numbers], dtype=np.float64)  # NaN for None
            feed[NUMBERS] = numbers = np.ascontiguousarray(numbers.T)
            if single:
                with np.errstate(over="ignore"):  # becomes infinite, as in Arrow
                    numbers[:, single] = numbers[:, single].astype(np.float32)
        if self.words:
            words = np.empty((rows.count, len(self.words)), dtype=object)
            for place, name in enumerate(self.words):
                values = [value if isinstance(value, str) else MISSING_WORD for value in rows.columns[name]]
                words[:, place] = [value.lower() for value in values] if name in self.lowered else values
            feed[WORDS] = words
        return feed


LABEL, SCORES, REFUSED = "label", "scores", "refused"
"""Outputs of a converted model: the class, what it follows from (or the number predicted), rows it can't take."""


@dataclass(frozen=True)
class Refusals:
    """What the model itself refuses, found by asking it: columns that may not be missing, numbers too large."""

    missing: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()  # columns whose every category must be known (the graph itself tells which are)
    largest: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class OnnxForm:
    """How a converted model is asked: its inputs, what it refuses, whether its class is that of the highest score.

    `nested`: callers of a regression get each number in a list of its own, since the model was fitted on a frame.
    """

    layout: Layout
    has_scores: bool
    label_follows: bool = False
    refusals: Refusals = Refusals()
    nested: bool = False


class OnnxEngine:
    """A converted model. Thread-safe: an ONNX Runtime session may be run from several threads."""

    def __init__(
        self, session: InferenceSession, contract: Contract, form: OnnxForm, *, answers_with: str = "predict"
    ) -> None:
        self._session = session
        self._contract = contract
        self._form = form
        self.answers_with = answers_with
        self._answers_scores = answers_with == "predict_proba" and bool(contract.probabilities)
        self._is_classifier = contract.task.is_classification
        self._wanted = _wanted(session, form, is_classifier=self._is_classifier)
        self._classes = np.array(contract.classes, dtype=_class_kind(contract))
        self._limits = _limits(form)
        self._words = [place for place, name in enumerate(form.layout.words) if name in form.refusals.missing]
        single = {column.name for column in contract.features if column.type is ColumnType.FLOAT}
        self._single = [place for place, name in enumerate(form.layout.numbers) if name in single]

    def score(self, features: pa.Table, params: Mapping[str, Any] | None = None) -> Scored:
        """One row of outputs and one answer per row of features."""
        del params  # what is converted is scikit-learn's, which has no use for them
        return self._score(self._form.layout.feed(features))

    def score_rows(self, rows: Rows) -> Scored:
        """The same for rows as they were decoded."""
        return self._score(self._form.layout.feed_rows(rows, self._single))

    def _score(self, feed: dict[str, np.ndarray[Any, Any]]) -> Scored:
        self._refuse(feed)
        named = dict(zip(self._wanted, self._run(feed), strict=True))
        if REFUSED in named and named[REFUSED].any():
            raise _refused(named[REFUSED].any(axis=1), "holds a category that the model does not know")
        scores = named.get(SCORES)
        if not self._is_classifier:
            assert scores is not None  # a regression has no other output
            return self._regressed(scores)
        prediction = self._predicted(named.get(LABEL), scores)
        columns: list[Any] = [prediction]
        answers = prediction
        if self._contract.probabilities and scores is not None:
            columns += self._probabilities(scores)
            answers = scores if self._answers_scores else prediction
        return Scored(self._contract, answers.tolist(), columns)

    def _run(self, feed: dict[str, np.ndarray[Any, Any]]) -> list[Any]:
        try:
            answered: list[Any] = self._session.run(self._wanted, feed)
        except Exception as error:  # ONNX Runtime's errors share no base
            said = " ".join(str(error).split())
            raise ModelRefused.of("", f"the model refused these rows: {type(error).__name__}: {said}") from error
        return answered

    def _regressed(self, values: np.ndarray[Any, Any]) -> Scored:
        """One number per row; of several outputs the first is logged."""
        columns = values.reshape(len(values), -1)
        answers = columns[:, 0] if columns.shape[1] == 1 and not self._form.nested else columns
        return Scored(self._contract, answers.tolist(), [columns[:, 0].astype(np.float64)])

    def _predicted(
        self, label: np.ndarray[Any, Any] | None, scores: np.ndarray[Any, Any] | None
    ) -> np.ndarray[Any, Any]:
        if label is None:
            assert scores is not None  # one of the two is always asked for
            likeliest: np.ndarray[Any, Any] = self._classes[scores.argmax(axis=1)]
            return likeliest
        label = label.reshape(len(label), -1)
        if label.shape[1] > 1:
            return label
        return label[:, 0].astype(bool) if self._classes.dtype == bool else label[:, 0]

    def _probabilities(self, scores: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        scores = scores.astype(np.float64, copy=False)
        if len(self._contract.probabilities) == 1 and self._contract.positive is not None:
            return [scores[:, self._contract.classes.index(self._contract.positive)]]
        return list(scores.T)

    def _refuse(self, feed: dict[str, np.ndarray[Any, Any]]) -> None:
        """Looks at all numbers at once; only where one of them is missing or too large, at each column."""
        layout, missing = self._form.layout, self._form.refusals.missing
        if self._limits is not None and not (np.abs(feed[NUMBERS]) <= self._limits).all():
            numbers = feed[NUMBERS]
            for place, name in enumerate(layout.numbers):
                if name in missing:
                    _refuse_missing(np.isnan(numbers[:, place]), name)
            beyond = np.abs(numbers) > self._limits
            if beyond.any():
                name = layout.numbers[beyond.any(axis=0).argmax()]
                raise _refused(beyond.any(axis=1), "is larger than the model takes", name)
        for place in self._words:
            _refuse_missing(feed[WORDS][:, place] == MISSING_WORD, layout.words[place])


def _refuse_missing(rows: np.ndarray[Any, Any], name: str) -> None:
    if rows.any():
        raise _refused(rows, "is missing, and the model takes no missing value", name)


def _limits(form: OnnxForm) -> np.ndarray[Any, Any] | None:
    """The largest number that each column may hold; None where all may hold any, or none."""
    refusals, numbers = form.refusals, form.layout.numbers
    if not numbers or not (refusals.largest or set(refusals.missing) & set(numbers)):
        return None
    return np.array([refusals.largest.get(name, np.inf) for name in numbers])


def _wanted(session: InferenceSession, form: OnnxForm, *, is_classifier: bool) -> list[str]:
    there = [output.name for output in session.get_outputs()]
    wanted = [SCORES] if form.has_scores else []
    if is_classifier and not (form.label_follows and form.has_scores):
        wanted.insert(0, LABEL)
    return [*wanted, *([REFUSED] if REFUSED in there else [])]


def _class_kind(contract: Contract) -> Any:
    kinds = {ColumnType.BOOLEAN: bool, ColumnType.LONG: np.int64, ColumnType.INTEGER: np.int64}
    return kinds.get(contract.label.type, object)


def _refused(rows: np.ndarray[Any, Any], cause: str, name: str = "") -> ModelRefused:
    return ModelRefused([RowError(int(row), name, cause) for row in np.flatnonzero(rows)])


def _numbers(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    if pa.types.is_boolean(column.type) and column.null_count:
        column = column.cast(pa.int8())  # booleans with nulls would come as objects, numbers come with NaN
    values: np.ndarray[Any, Any] = column.to_numpy()
    return values


def _words(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = column.to_numpy()
    if column.null_count:
        values = np.where(column.is_null().to_numpy(), MISSING_WORD, values)
    return values
