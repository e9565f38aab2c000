"""Sampling weights: how many predictions a row stands for, and samples of rows in proportion to them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.monitoring.arrays import Floats, floats
from feedback_loop.schema import PREDICTION_ID, in_sample, sample_places

WEIGHT = "sample_weight"
"""The column of rows of the log that says how many predictions a row stands for."""


def weights_of(rows: pa.Table) -> Floats:
    """How many predictions each row stands for; 1 where the rows do not say."""
    return floats(rows.column(WEIGHT)) if WEIGHT in rows.column_names else np.ones(rows.num_rows)


def row_weights(rows: pa.Table) -> Floats | None:
    """The weights; None where all are equal.

    Weights that are all equal cancel out of every mean and share: what is computed without them is the same.
    """
    weights = weights_of(rows)
    return weights if len(weights) and (weights != weights[0]).any() else None


def uniform(rows: pa.Table, most: float | Floats = 0.0) -> pa.Table:
    """The rows, thinned where their weights differ, so that each stands for as many predictions (`most`, if more).

    It is as if all had been logged at the lowest rate. Tests and monitors count rows and take each as one draw from
    the same distribution; weights would break their levels. Which rows stay is decided by their ids alone.
    """
    weights = weights_of(rows)
    if isinstance(most, float):
        most = np.full(len(weights), max(most, weights.max(initial=0.0)))
    if (weights == most).all():
        return rows
    stays = in_sample(rows.column(PREDICTION_ID).to_pylist(), weights / most, salt=b"thinned")
    return rows.filter(pa.array(stays)).set_column(
        rows.column_names.index(WEIGHT), WEIGHT, pa.array(most[stays], pa.float64())
    )


def draw(rows: pa.Table, most: int) -> pa.Table:
    """A sample of at most `most` rows in random order, drawn in proportion to their weights.

    By exponential times whose rates are the weights (Efraimidis and Spirakis 2006); the random numbers follow from
    the ids (without ids: from the places) of the rows. A sample of a sample is one of the whole.
    """
    if PREDICTION_ID in rows.column_names:
        ids = pc.cast(rows.column(PREDICTION_ID), pa.string()).to_pylist()
    else:
        ids = [str(place) for place in range(rows.num_rows)]
    times = -np.log1p(-sample_places(ids, b"closer")) / weights_of(rows)
    return rows.take(pa.array(np.argsort(times, kind="stable")[:most]))


def spread(rows: pa.Table, most: int) -> pa.Table:
    """At most so many of the rows, evenly over all of them."""
    if rows.num_rows <= most:
        return rows
    return rows.take(np.linspace(0, rows.num_rows - 1, most).round().astype(np.int64))
