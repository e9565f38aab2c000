"""Sampled rows: how many predictions each stands for, and what follows from it for means and for distributions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from feedback_loop.monitoring.losses import Floats, Mask
from feedback_loop.schema import in_sample, sample_places

WEIGHT = "sample_weight"


def row_weights(rows: pa.Table) -> Floats | None:
    """How many predictions each row stands for; None where all stand for as many, or the rows do not say.

    Weights that are all equal cancel out of every mean and share: what is computed without them is the same.
    """
    if WEIGHT not in rows.column_names:
        return None
    weights = np.asarray(rows.column(WEIGHT).to_numpy(), dtype=np.float64)
    return weights if len(weights) and (weights != weights[0]).any() else None


def mean(values: Floats | Mask, weights: Floats | None) -> float:
    """The mean of what the rows stand for."""
    return float(values.mean() if weights is None else np.average(values, weights=weights))


def standard_error(values: Floats, weights: Floats | None) -> float | None:
    """The standard error of that mean, of at least two rows.

    With weights: of the ratio of two totals, by linearization (Särndal, Swensson and Wretman 1992, section 5.7, for
    sampling with replacement); for equal weights it is the usual one.
    """
    rows = len(values)
    if rows < 2:
        return None
    if weights is None:
        return float(values.std(ddof=1) / np.sqrt(rows))
    residuals = weights * (values - mean(values, weights))
    return float(np.sqrt((residuals**2).sum() * rows / (rows - 1)) / weights.sum())


def uniform(rows: pa.Table) -> pa.Table:
    """The rows, thinned where some stand for more predictions than others, so that each stands for as many.

    It is as if all had been logged at the lowest rate. Tests and monitors count rows and take each as one draw from
    the same distribution; weights would break their levels. Which rows stay is decided by their ids alone.
    """
    weights = row_weights(rows)
    if weights is None:
        return rows
    kept = in_sample(rows.column("prediction_id").to_pylist(), weights / weights.max(), salt=b"thinned")
    return rows.filter(pa.array(kept)).set_column(
        rows.column_names.index(WEIGHT), WEIGHT, pa.repeat(float(weights.max()), int(kept.sum()))
    )


def sampled(rows: pa.Table, most: int) -> pa.Table:
    """At most so many rows, each with a chance that grows with what it stands for; which is decided by their ids.

    Those with the greatest u^(1/weight) (Efraimidis and Spirakis 2006): a sample of a sample is one of the whole.
    """
    if rows.num_rows <= most:
        return rows
    named = rows.column("prediction_id").to_pylist() if "prediction_id" in rows.column_names else None
    chances = sample_places(named or [str(place) for place in range(rows.num_rows)], salt=b"report")
    weights = row_weights(rows)
    keys = np.log(np.maximum(chances, 2.0**-64)) / (1.0 if weights is None else weights)
    return rows.take(np.sort(np.argsort(-keys, kind="stable")[:most]))
