"""Labelled rows of the reference compared with current ones: their losses, and the change of the mean loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.monitoring import Floats, row_losses, spread, window_numbers
from feedback_loop.monitoring.arrays import floats
from feedback_loop.monitoring.losses import class_places, class_probabilities
from feedback_loop.monitoring.profiles.layout import with_classes
from feedback_loop.schema import Column, ColumnType, Contract, Task

FOLDS = 4

LEAST_WINDOWS = 2 * FOLDS
"""With so many windows on each side, standard errors and folds are by windows."""

MOST_ROWS = 6_000
"""The most rows of each side."""

TIME = "predicted_at"

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Effect:
    """A difference of mean losses, with its standard error."""

    value: float
    error: float

    @property
    def is_sure(self) -> bool:
        """Whether it is above zero by three standard errors."""
        return self.value > 3 * self.error


@dataclass(frozen=True)
class Comparison:
    """Labelled rows of the reference and then current ones, as one table (stored names)."""

    contract: Contract
    rows: pa.Table
    before: int  # so many are the reference's
    length: timedelta
    seed: int
    scale: float = 1.0  # of absolute errors

    @cached_property
    def is_now(self) -> Mask:
        """Which rows are current ones."""
        return np.arange(self.rows.num_rows) >= self.before

    @property
    def features(self) -> tuple[Column, ...]:
        """The features that are compared: times are left out, since they always change."""
        return tuple(column for column in self.contract.features if column.type is not ColumnType.DATETIME)

    @cached_property
    def numbers(self) -> Ints:
        """The number of the window that each row is in."""
        return window_numbers(self.rows.column(TIME), self.length)

    @cached_property
    def windows(self) -> Ints | None:
        """The window of each row; None where there are too few of them to be units."""
        counts = [len(np.unique(self.numbers[side])) for side in (self.is_now, ~self.is_now)]
        return self.numbers if min(counts) >= LEAST_WINDOWS else None

    @cached_property
    def losses(self) -> Floats:
        """Brier's where there are probabilities, else the error; of numbers the absolute error in [0, 1]."""
        return self.losses_of(self.rows)

    def losses_of(self, rows: pa.Table) -> Floats:
        """The losses of any rows, in [0, 1]."""
        return np.asarray(np.minimum(row_losses(self.contract, rows)[loss_name(self.contract)] / self.scale, 1.0))

    def residuals_of(self, rows: pa.Table) -> Floats:
        """The signed residuals of outcomes; of several classes the losses."""
        contract, label = self.contract, rows.column(self.contract.label.stored)
        if contract.task is Task.REGRESSION:
            return np.clip((floats(label) - floats(rows.column(contract.outputs[0].stored))) / self.scale, -1, 1)
        if contract.task is Task.BINARY and contract.probabilities:
            is_positive = class_places(contract.classes, label) == 1
            return np.asarray(is_positive - class_probabilities(contract, rows)[:, 1])
        return self.losses_of(rows)

    @property
    def reference(self) -> pa.Table:
        """The reference's rows."""
        return self.rows.slice(0, self.before)

    @property
    def current(self) -> pa.Table:
        """The current rows."""
        return self.rows.slice(self.before)

    def with_reference(self, rows: pa.Table) -> Comparison:
        """Other rows of the reference, beside the same current ones."""
        return replace(self, rows=pa.concat_tables([rows, self.current]))


def compare(
    contract: Contract, reference: pa.Table, current: pa.Table, *, length: timedelta, seed: int
) -> Comparison:
    """Both tables as one, of the columns that a diagnosis looks at.

    Absolute errors are measured by the reference's 99% quantile. Classes that the model does not name are those of
    the outcomes.
    """
    names = [column.stored for column in (*contract.features, *contract.outputs, contract.label)]
    before, now = (table.select([TIME, *names]) for table in (reference, current))
    scale = 1.0
    if contract.task is Task.REGRESSION:
        scale = float(np.quantile(row_losses(contract, before)[loss_name(contract)], 0.99)) or 1.0
    rows = pa.concat_tables([before.cast(now.schema), now])
    return Comparison(with_classes(contract, rows), rows, before.num_rows, length, seed, scale)


def comparable_rows(reference: pa.Table, current: pa.Table) -> tuple[pa.Table, pa.Table]:
    """At most 6,000 rows of each side; current rows that are part of the reference are left out."""
    if "prediction_id" in reference.column_names and current.num_rows:
        identifiers, current_ids = (rows.column("prediction_id").cast(pa.string()) for rows in (reference, current))
        current = current.filter(pc.invert(pc.is_in(current_ids, identifiers.combine_chunks())))
    return spread(reference, MOST_ROWS), current.slice(0, MOST_ROWS)


def loss_name(contract: Contract) -> str:
    """The loss that changes are measured in."""
    if contract.task is Task.REGRESSION:
        return "absolute_error"
    return "brier" if contract.probabilities else "error"


def mean_effect(values: Floats, windows: Ints | None = None) -> Effect:
    """A mean with its standard error, clustered by windows where they are given."""
    mean = float(values.mean())
    return Effect(mean, standard_error(values - mean, windows))


def mean_change(compared: Comparison) -> Effect:
    """The change of the mean loss."""
    change, influence = influence_of_change(compared)
    return Effect(change, standard_error(influence, compared.windows))


def influence_of_change(compared: Comparison) -> tuple[float, Floats]:
    """The change of the mean loss, and each row's influence on it."""
    now, losses = compared.is_now, compared.losses
    share, before, after = now.mean(), losses[~now].mean(), losses[now].mean()
    return float(after - before), np.where(now, (losses - after) / share, (before - losses) / (1 - share))


def standard_error(influence: Floats, windows: Ints | None) -> float:
    """The standard error of a mean by its influences (cluster-robust: Cameron and Miller 2015, eq. 11)."""
    sums = influence if windows is None else np.bincount(np.unique(windows, return_inverse=True)[1], influence)
    return float(np.sqrt((sums**2).sum() * len(sums) / max(len(sums) - 1, 1))) / max(len(influence), 1)
