"""An adapter's birth: what it is begun from, and which models can have none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feedback_loop.adaptation.adapter import Adapter, Basis
from feedback_loop.adaptation.tasks import WHOLE_LOOK
from feedback_loop.inference.adapter_encoding import Category, Encoding, Floats
from feedback_loop.monitoring.arrays import floats, frequencies
from feedback_loop.monitoring.losses import class_places, class_probabilities
from feedback_loop.schema import Column, ColumnType, Contract, Task

Places = npt.NDArray[np.intp]

LEAST_ROWS = 20
"""A category's value has a column where the reference has so many rows of it."""

ALIKE = 1e-9
"""Probabilities that differ by no more are alike."""

MOST_COLUMNS = 256
"""Of an encoding: numbers first, as the signature has them, then the most frequent values."""


def why_refused(contract: Contract) -> str:
    """Why a model with this contract can have no adapter; empty where it can."""
    if contract.more_labels:
        return "it has several labels"
    if contract.query:
        return f"its rows are ranked within {contract.query!r}: what counts is their order, not each answer"
    if contract.task.is_classification and not contract.probabilities:
        return "it gives no probabilities"
    return ""


def decides_by_chance(contract: Contract, reference: pa.Table) -> bool:
    """Whether each row of the log was given its likeliest class, as an adapter gives it; one of two alike will do.

    Models with a threshold of their own do not: what they decide would change with the adapter.
    """
    if not contract.task.is_classification or contract.outputs[0].stored not in reference.column_names:
        return True
    chances = class_probabilities(contract, reference)
    decided = class_places(contract.classes, reference.column(contract.outputs[0].stored))
    of_decided = np.where(decided >= 0, chances[np.arange(len(chances)), decided], np.nan)
    return not (of_decided < chances.max(axis=1) - ALIKE).any()


def begin(contract: Contract, reference: pa.Table, window: timedelta) -> Adapter:
    """A new adapter of a model: `contract` is that of the log, `reference` its labelled rows by stored names.

    Cohorts of the reference are those of `window`, where its rows have times.
    """
    outcomes = outcomes_of(contract, reference.column(contract.label.stored))
    centre, scale = 0.0, 1.0
    if contract.task is Task.REGRESSION and len(outcomes):
        centre, scale = float(np.nanmean(outcomes)), float(np.nanstd(outcomes)) or 1.0
    basis = Basis(contract.task, contract.classes, contract.positive, encoding_of(contract, reference), centre, scale)
    return Adapter.begin(basis, _rates(basis, outcomes, reference, window))


def outcomes_of(contract: Contract, labels: pa.ChunkedArray) -> Floats:
    """Outcomes as a `Look` has them; NaN for one that is missing or none of the classes."""
    if contract.task is Task.REGRESSION:
        return floats(labels)
    places = class_places(contract.classes, labels).astype(np.float64)
    places[places < 0] = np.nan
    if contract.task is Task.BINARY and contract.positive == contract.classes[0]:
        return 1.0 - places
    return places


def encoding_of(contract: Contract, reference: pa.Table) -> Encoding:
    """Numbers and frequent texts of the features whose values the log holds; not what is hashed, not moments."""
    features = [
        column for column in contract.features if not column.hashed and column.stored in reference.column_names
    ]
    numbers = [column for column in features if column.type.is_numeric or column.type is ColumnType.BOOLEAN]
    scales = {column.name: _scale(reference.column(column.stored)) for column in numbers}
    scales = {name: scale for name, scale in scales.items() if scale[1] > 0}
    names = tuple(scales)[:MOST_COLUMNS]
    return Encoding(
        names,
        np.array([scales[name][0] for name in names]),
        np.array([scales[name][1] for name in names]),
        _categories(
            [column for column in features if column.type is ColumnType.STRING], reference, MOST_COLUMNS - len(names)
        ),
    )


def _scale(values: pa.ChunkedArray) -> tuple[float, float]:
    """Mean and standard deviation of the finite values; the latter 0 where there is nothing to tell them apart."""
    numbers = floats(values)
    finite = numbers[np.isfinite(numbers)]
    return (float(finite.mean()), float(finite.std())) if len(finite) else (0.0, 0.0)


def _categories(columns: Sequence[Column], reference: pa.Table, most: int) -> tuple[Category, ...]:
    counts = [
        (count, place, value)
        for place, column in enumerate(columns)
        for value, count in frequencies(reference.column(column.stored)).items()
        if count >= LEAST_ROWS
    ]
    chosen = sorted(counts, key=lambda counted: (-counted[0], *counted[1:]))[:most]
    categories = (
        Category(column.name, tuple(value for _, of, value in chosen if of == place))
        for place, column in enumerate(columns)
    )
    return tuple(category for category in categories if category.values)


def _rates(basis: Basis, outcomes: Floats, reference: pa.Table, window: timedelta) -> Floats:
    """The outcome rates of the reference's cohorts, (cohorts, outputs)."""
    known = ~np.isnan(outcomes)
    if "predicted_at" not in reference.column_names or not known.any():
        return np.empty((0, basis.rules.outputs))
    microseconds = np.asarray(reference.column("predicted_at").cast(pa.timestamp("us", "UTC")).cast(pa.int64()))
    numbers = microseconds[known] // (window // timedelta(microseconds=1))
    cohorts = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
    return np.stack([basis.rules.rates(outcomes[known][rows]) for rows in _whole(cohorts)])


def _whole(cohorts: Sequence[Places]) -> list[Places]:
    """The cohorts, of which those of few rows are taken together with the next ones."""
    whole, few = list[Places](), list[Places]()
    for rows in cohorts:
        few.append(rows)
        if sum(map(len, few)) >= WHOLE_LOOK:
            whole.append(np.concatenate(few))
            few = []
    return whole or [np.concatenate(few)]
