"""Validation: the metrics of labelled predictions, all of them and segment by segment."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.monitoring.losses import Floats, Mask, class_probabilities, is_positive, row_losses
from feedback_loop.schema import Contract, Task
from feedback_loop.store.evaluations import ALL_ROWS, MetricValue

MOST_SEGMENTS = 20
"""Of a column's values, so many of the most frequent are segments."""

_MEANS = {"brier": "brier", "log_loss": "log_loss", "absolute_error": "mae"}


def validation_metrics(contract: Contract, labelled: pa.Table) -> tuple[MetricValue, ...]:
    """The metrics of a table of labelled rows; none at all for no rows.

    Means (accuracy, brier, log_loss, mae) come with their standard error, for everything and for each segment.
    The others (roc_auc, precision, recall, f1, f1_macro, rmse, r2, bias, outcome_rate, prediction_rate) are
    scikit-learn's, for everything. One that is undefined (one class only) is left out, never made up.
    """
    if not labelled.num_rows:
        return ()
    losses = row_losses(contract, labelled)
    values = list(_means(losses, np.ones(labelled.num_rows, dtype=bool), ALL_ROWS))
    for name, mask in segment_masks(contract, labelled):
        values.extend(_means(losses, mask, name))
    others = _regression(contract, labelled) if contract.task is Task.REGRESSION else _classes(contract, labelled)
    values.extend(MetricValue(name, float(value), labelled.num_rows) for name, value in others.items())
    return tuple(values)


def segment_masks(contract: Contract, rows: pa.Table) -> Iterator[tuple[str, Mask]]:
    """Each segment (`origin=JFK`) that has rows, with which rows are its."""
    for name in contract.segments:
        values = rows.column(contract.column(name).stored)
        counted = sorted(pc.value_counts(values).to_pylist(), key=lambda each: (-each["counts"], str(each["values"])))
        plain = np.array(values.to_pylist(), dtype=object)
        for each in counted[:MOST_SEGMENTS]:
            if each["values"] is not None:
                yield f"{name}={each['values']}", plain == each["values"]


def _means(losses: dict[str, Floats], mask: Mask, segment: str) -> Iterator[MetricValue]:
    rows = int(mask.sum())
    for name, loss in losses.items():
        chosen = loss[mask]
        error = float(chosen.std(ddof=1) / np.sqrt(rows)) if rows > 1 else None
        if name == "error":
            yield MetricValue("accuracy", float(1.0 - chosen.mean()), rows, error, segment)
        elif name in _MEANS:
            yield MetricValue(_MEANS[name], float(chosen.mean()), rows, error, segment)


def _classes(contract: Contract, rows: pa.Table) -> dict[str, float]:
    from sklearn import metrics

    if contract.task is Task.MULTICLASS:
        words = [_words(rows.column(column.stored)) for column in (contract.label, contract.outputs[0])]
        return {"f1_macro": metrics.f1_score(*words, average="macro", zero_division=0)}
    truth = is_positive(contract, rows.column(contract.label.stored))
    answer = is_positive(contract, rows.column(contract.outputs[0].stored))
    values = {"outcome_rate": truth.mean(), "prediction_rate": answer.mean()}
    if answer.any():
        values["precision"] = metrics.precision_score(truth, answer)
    if truth.any():
        values["recall"] = metrics.recall_score(truth, answer)
        values["f1"] = metrics.f1_score(truth, answer)
    if contract.probabilities and 0 < truth.sum() < len(truth):
        place = contract.classes.index(contract.positive) if contract.positive is not None else 1
        values["roc_auc"] = metrics.roc_auc_score(truth, class_probabilities(contract, rows)[:, place])
    return values


def _regression(contract: Contract, rows: pa.Table) -> dict[str, float]:
    from sklearn import metrics

    truth = rows.column(contract.label.stored).to_numpy()
    answer = rows.column(contract.outputs[0].stored).to_numpy()
    values = {"rmse": metrics.root_mean_squared_error(truth, answer), "bias": float((answer - truth).mean())}
    if len(truth) > 1 and truth.std() > 0:
        values["r2"] = metrics.r2_score(truth, answer)
    return values


def _words(values: pa.ChunkedArray) -> list[str]:
    return [str(value) for value in values.to_pylist()]
