"""Validation: the metrics of labelled predictions, all of them and segment by segment."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.monitoring.losses import Floats, Mask, class_probabilities, is_positive, row_losses
from feedback_loop.monitoring.weights import WEIGHT, mean, row_weights, standard_error
from feedback_loop.schema import Contract, Task
from feedback_loop.store.evaluations import ALL_ROWS, COVERAGE, MetricValue

MOST_SEGMENTS = 20
"""Of a column's values, so many of the most frequent are segments."""

_MEANS = {"brier": "brier", "log_loss": "log_loss", "absolute_error": "mae"}


def validation_metrics(contract: Contract, labelled: pa.Table) -> tuple[MetricValue, ...]:
    """The metrics of a table of labelled rows; none at all for no rows.

    Means (accuracy, brier, log_loss, mae) come with their standard error, for everything and for each segment.
    The others (roc_auc, precision, recall, f1, f1_macro, rmse, r2, bias, outcome_rate, prediction_rate) are
    scikit-learn's, for everything. One that is undefined (one class only) is left out, never made up. Each row counts
    for the predictions that it stands for; `rows` counts the rows themselves.
    """
    if not labelled.num_rows:
        return ()
    losses, weights = row_losses(contract, labelled), row_weights(labelled)
    values = list(_means(losses, weights, np.ones(labelled.num_rows, dtype=bool), ALL_ROWS))
    for name, mask in segment_masks(contract, labelled):
        values.extend(_means(losses, weights, mask, name))
    measure = _regression if contract.task is Task.REGRESSION else _classes
    others = measure(contract, labelled, weights)
    values.extend(MetricValue(name, float(value), labelled.num_rows) for name, value in others.items())
    return tuple(values)


def coverage_metric(rows: pa.Table, labelled: pa.Table) -> tuple[MetricValue, ...]:
    """The share of predictions with an outcome, where it is another than that of rows: where weights differ."""
    weights = row_weights(rows)
    if weights is None:
        return ()
    known = np.asarray(labelled.column(WEIGHT).to_numpy(), dtype=np.float64)
    return (MetricValue(COVERAGE, float(known.sum() / weights.sum()), rows.num_rows),)


def segment_masks(contract: Contract, rows: pa.Table) -> Iterator[tuple[str, Mask]]:
    """Each segment (`origin=JFK`) that has rows, with which rows are its."""
    for name in contract.segments:
        values = rows.column(contract.column(name).stored)
        counted = sorted(pc.value_counts(values).to_pylist(), key=lambda each: (-each["counts"], str(each["values"])))
        plain = np.array(values.to_pylist(), dtype=object)
        for each in counted[:MOST_SEGMENTS]:
            if each["values"] is not None:
                yield f"{name}={each['values']}", plain == each["values"]


def _means(losses: dict[str, Floats], weights: Floats | None, mask: Mask, segment: str) -> Iterator[MetricValue]:
    rows = int(mask.sum())
    own = weights[mask] if weights is not None else None
    for name, loss in losses.items():
        chosen = loss[mask]
        error = standard_error(chosen, own)
        if name == "error":
            yield MetricValue("accuracy", 1.0 - mean(chosen, own), rows, error, segment)
        elif name in _MEANS:
            yield MetricValue(_MEANS[name], mean(chosen, own), rows, error, segment)


def _classes(contract: Contract, rows: pa.Table, weights: Floats | None) -> dict[str, float]:
    from sklearn import metrics

    if contract.task is Task.MULTICLASS:
        words = [_words(rows.column(column.stored)) for column in (contract.label, contract.outputs[0])]
        return {"f1_macro": metrics.f1_score(*words, average="macro", zero_division=0, sample_weight=weights)}
    truth = is_positive(contract, rows.column(contract.label.stored))
    answer = is_positive(contract, rows.column(contract.outputs[0].stored))
    values = {"outcome_rate": mean(truth, weights), "prediction_rate": mean(answer, weights)}
    if answer.any():
        values["precision"] = metrics.precision_score(truth, answer, sample_weight=weights)
    if truth.any():
        values["recall"] = metrics.recall_score(truth, answer, sample_weight=weights)
        values["f1"] = metrics.f1_score(truth, answer, sample_weight=weights)
    if contract.probabilities and 0 < truth.sum() < len(truth):
        place = contract.classes.index(contract.positive) if contract.positive is not None else 1
        chance = class_probabilities(contract, rows)[:, place]
        values["roc_auc"] = metrics.roc_auc_score(truth, chance, sample_weight=weights)
    return values


def _regression(contract: Contract, rows: pa.Table, weights: Floats | None) -> dict[str, float]:
    from sklearn import metrics

    truth = rows.column(contract.label.stored).to_numpy()
    answer = rows.column(contract.outputs[0].stored).to_numpy()
    rmse = metrics.root_mean_squared_error(truth, answer, sample_weight=weights)
    values = {"rmse": rmse, "bias": mean(answer - truth, weights)}
    if len(truth) > 1 and truth.std() > 0:
        values["r2"] = metrics.r2_score(truth, answer, sample_weight=weights)
    return values


def _words(values: pa.ChunkedArray) -> list[str]:
    return [str(value) for value in values.to_pylist()]
