"""Losses row by row: what every metric that is a mean is the mean of, and what the monitors are fed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feedback_loop.schema import Contract, Label, Task

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

CLIP = 1e-15
"""Probabilities are kept this far from 0 and 1, as scikit-learn does, so that one sure mistake is not infinite."""


def row_losses(contract: Contract, rows: pa.Table) -> dict[str, Floats]:
    """Losses of labelled rows (columns by stored name), higher is worse, each an array as long as the table.

    Classification: `error` (0/1) and, where probabilities are known, `brier` (for binary (p - y)^2, for multiclass
    the sum over classes halved, so that it stays in [0, 1]) and `log_loss`. Regression: `absolute_error` and
    `squared_error`. An outcome that is none of the known classes is an error with the least probability.
    """
    label, prediction = rows.column(contract.label.stored), rows.column(contract.outputs[0].stored)
    if contract.task is Task.REGRESSION:
        residual = _floats(label) - _floats(prediction)
        return {"absolute_error": np.abs(residual), "squared_error": residual**2}
    truth = np.array(label.to_pylist(), dtype=object)
    losses = {"error": (truth != np.array(prediction.to_pylist(), dtype=object)).astype(float)}
    if not contract.probabilities:
        return losses
    probabilities = class_probabilities(contract, rows)
    index = {known: place for place, known in enumerate(contract.classes)}
    places = np.array([index.get(value, -1) for value in truth], dtype=np.int64)
    known = places >= 0
    chosen = np.where(known, probabilities[np.arange(len(truth)), places], 0.0)
    hit = np.zeros_like(probabilities)
    hit[np.flatnonzero(known), places[known]] = 1.0
    losses["brier"] = ((probabilities - hit) ** 2).sum(axis=1) / 2
    losses["log_loss"] = -np.log(np.clip(chosen, CLIP, 1.0))
    return losses


def class_probabilities(contract: Contract, rows: pa.Table) -> Floats:
    """Probabilities of shape (rows, classes), in the order of `contract.classes`."""
    columns = [_floats(rows.column(column.stored)) for column in contract.probabilities]
    if contract.task is not Task.BINARY:
        return np.column_stack(columns)
    positive = columns[0]
    pair = [1.0 - positive, positive]
    return np.column_stack(pair if contract.classes[1] == contract.positive else pair[::-1])


def primary_loss(contract: Contract) -> str:
    """The loss that candidates are compared by: the most telling proper one that the outputs allow."""
    if contract.task is Task.REGRESSION:
        return "squared_error"
    return "log_loss" if contract.probabilities else "error"


def is_positive(contract: Contract, values: pa.ChunkedArray) -> Mask:
    """Which of these labels are the positive class of a binary task."""
    positive: Label | None = contract.positive
    return np.array([value == positive for value in values.to_pylist()], dtype=bool)


def _floats(values: pa.ChunkedArray) -> Floats:
    return np.asarray(values.cast(pa.float64()).to_numpy(), dtype=np.float64)
