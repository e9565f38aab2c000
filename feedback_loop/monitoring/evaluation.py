"""One evaluation: validation, coverage and drift of one version's predictions in one window."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.clock import Window
from feedback_loop.monitoring.drift import drift_values, with_swings
from feedback_loop.monitoring.profiles import Profile, is_profiled, profile_like, reference_profile
from feedback_loop.monitoring.validation import coverage_metric, validation_metrics
from feedback_loop.monitoring.weights import uniform
from feedback_loop.schema import Column, Contract
from feedback_loop.store.evaluations import Evaluation

TIME = "predicted_at"
"""The column of rows of the log that says when they were predicted."""


def profiled_columns(contract: Contract) -> tuple[Column, ...]:
    """The columns whose distributions are watched: features and outputs."""
    return tuple(column for column in (*contract.outputs, *contract.features) if is_profiled(column))


def profile_of_reference(contract: Contract, rows: pa.Table, length: timedelta) -> Profile:
    """The profile of a version's reference rows, the measure of all its windows (which are so long)."""
    profile = reference_profile(rows, profiled_columns(contract))
    if TIME not in rows.column_names:
        return profile
    numbers = window_numbers(rows.column(TIME), length)
    return with_swings(profile, [profile_like(profile, rows.filter(numbers == each)) for each in np.unique(numbers)])


def window_numbers(times: pa.ChunkedArray, length: timedelta) -> npt.NDArray[np.int64]:
    """The number (counted from 1970) of the window that each moment is in."""
    microseconds = times.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    return np.asarray(microseconds // int(length.total_seconds() * 1e6), dtype=np.int64)


def evaluate_rows(
    contract: Contract,
    rows: pa.Table,
    reference: Profile | None,
    *,
    version: str,
    window: Window,
    as_of: datetime,
    matured: bool,
) -> tuple[Evaluation, Profile | None]:
    """Evaluates one version's joined rows of a window; the second result is their profile.

    Without a reference there is no drift, and no profile. Counts are of rows that were logged, metrics of the
    predictions that they stand for. Nothing here depends on anything but its arguments:
    the same rows give the same numbers, whenever they are asked for.
    """
    labelled = labelled_only(contract, rows)
    profile = profile_like(reference, uniform(rows)) if reference is not None and rows.num_rows else None
    evaluation = Evaluation(
        model=contract.model,
        version=version,
        window=window,
        as_of=as_of,
        matured=matured,
        predictions=rows.num_rows,
        labelled=labelled.num_rows,
        metrics=(*validation_metrics(contract, labelled), *coverage_metric(rows, labelled)),
        drift=drift_values(reference, profile) if reference is not None and profile is not None else (),
    )
    return evaluation, profile


def labelled_only(contract: Contract, rows: pa.Table) -> pa.Table:
    """The rows whose outcome is known (and whose prediction is: a model may have answered with nothing)."""
    known = pc.and_(
        pc.is_valid(rows.column(contract.label.stored)), pc.is_valid(rows.column(contract.outputs[0].stored))
    )
    for column in contract.probabilities:
        known = pc.and_(known, pc.is_valid(rows.column(column.stored)))
    return rows.filter(known)
