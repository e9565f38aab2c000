"""Losses row by row: metrics are their means, and monitors take them in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.monitoring.arrays import Floats, Mask, floats, mapped
from feedback_loop.schema import Contract, Label, Task

MOST_LOSS = 1e140
"""The square of a loss up to this can be summed over any number of rows."""

ROUNDED = 1e-3
"""The tolerance of probabilities, of which some models give few digits."""

CLIP = float(np.finfo(np.float64).eps)
"""Probabilities are kept this far from 0 and 1, as scikit-learn does, so that one sure mistake is not infinite."""


def with_raw_answers(contract: Contract, rows: pa.Table) -> pa.Table:
    """Rows of the log with the answers of the model itself, where an adapter has changed what was served."""
    for output, raw in zip(contract.outputs, contract.raw_outputs, strict=False):
        if raw.stored in rows.column_names and rows.column(raw.stored).null_count < rows.num_rows:
            answers = pc.coalesce(rows.column(raw.stored), rows.column(output.stored))
            rows = rows.set_column(rows.column_names.index(output.stored), output.stored, answers)
    return rows


def row_losses(contract: Contract, rows: pa.Table) -> dict[str, Floats]:
    """Losses of labelled rows (columns by stored name), higher is worse, each an array as long as the table.

    Classification: `error` (0/1) and, where probabilities are known, `brier` (for binary (p - y)^2, for multiclass
    the sum over classes halved, so that it stays in [0, 1]) and `log_loss`. Regression: `absolute_error` and
    `squared_error`. Of several labels, the mean over them. An outcome that is none of the known classes had no
    probability at all. Values outside [0, 1] count as the nearest probability; the losses of NaN are NaN.
    """
    if contract.more_labels:
        of_targets = [row_losses(target, rows) for target in contract.targets]
        return {name: np.mean([losses[name] for losses in of_targets], axis=0) for name in of_targets[0]}
    label, prediction = rows.column(contract.label.stored), rows.column(contract.outputs[0].stored)
    if contract.task is Task.REGRESSION:
        with np.errstate(over="ignore", invalid="ignore"):
            residual = floats(label) - floats(prediction)
            return {"absolute_error": _bounded(np.abs(residual)), "squared_error": _bounded(residual**2)}
    losses = {"error": (_differ(label, prediction)).astype(float)}
    if not contract.probabilities:
        return losses
    probabilities = np.clip(class_probabilities(contract, rows), 0.0, 1.0)
    places = class_places(contract.classes, label)
    is_known = places >= 0
    chosen = np.where(is_known, probabilities[np.arange(len(places)), places], 0.0)
    hit = np.zeros_like(probabilities)
    hit[np.flatnonzero(is_known), places[is_known]] = 1.0
    brier = (((probabilities - hit) ** 2).sum(axis=1) + ~is_known) / 2
    losses["brier"] = np.minimum(brier, 1.0)
    losses["log_loss"] = -np.log(np.clip(chosen, CLIP, 1.0))
    return losses


def _bounded(losses: Floats) -> Floats:
    """Losses that would overflow, or their sums, count as `MOST_LOSS`, so that monitors can go on."""
    return np.where(losses > MOST_LOSS, MOST_LOSS, losses)


def class_places(classes: Sequence[Label], values: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """The place of each value among the classes; -1 where it is none of them, or is missing."""
    index = {label: place for place, label in enumerate(classes)}
    return mapped(values, lambda value: index.get(value, -1))


def _differ(one: pa.ChunkedArray, other: pa.ChunkedArray) -> Mask:
    places: dict[Any, int] = {}
    first, second = (mapped(values, lambda value: places.setdefault(value, len(places))) for values in (one, other))
    return np.asarray(first != second)


def class_probabilities(contract: Contract, rows: pa.Table) -> Floats:
    """Probabilities of shape (rows, classes), in the order of `contract.classes`."""
    columns = [floats(rows.column(column.stored)) for column in contract.probabilities]
    if contract.task is not Task.BINARY:
        return np.column_stack(columns)
    positive = columns[0]
    pair = [1.0 - positive, positive]
    return np.column_stack(pair if contract.classes[1] == contract.positive else pair[::-1])


def invalid_probabilities(contract: Contract, rows: pa.Table) -> Mask:
    """Which rows have invalid probabilities: below 0, above 1, or (of several classes) not adding up to 1."""
    columns = [floats(rows.column(probability.stored)) for probability in contract.probabilities]
    chances = np.column_stack(columns) if columns else np.zeros((rows.num_rows, 1))
    wrong: Mask = np.asarray(((chances < -ROUNDED) | (chances > 1 + ROUNDED)).any(axis=1), dtype=np.bool_)
    if columns and contract.task is Task.MULTICLASS:
        wrong |= np.abs(chances.sum(axis=1) - 1) > ROUNDED
    return wrong


def primary_loss(contract: Contract) -> str:
    """The loss that candidates are compared by: the most telling proper one that the outputs allow."""
    if contract.task is Task.REGRESSION:
        return "squared_error"
    return "log_loss" if contract.probabilities else "error"


def is_positive(contract: Contract, values: pa.ChunkedArray) -> Mask:
    """Which of these labels are the positive class of a binary task."""
    positive: Label | None = contract.positive
    return np.asarray(class_places((positive,), values) == 0) if positive is not None else np.zeros(len(values), bool)
