"""What a trainer is given: the rows to learn from, as files, or as an object for a function."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from feedback_loop.clock import Window
from feedback_loop.retraining.dataset import KNOWN, OUTCOME, TIME, WEIGHT, TrainingRows
from feedback_loop.schema import PREDICTION_ID

ROWS, PARAMS, INPUTS = "rows.parquet", "params.json", "dataset.pickle"


@dataclass(frozen=True)
class Dataset:
    """The rows that a trainer's function learns from; none of those on which its model is then compared.

    `features` are as the champion takes them: a frame, or an array. `outcome`, `predicted_at` (datetime64[us], UTC),
    `groups` and `weights` have one value a row: rows of one group share one outcome and belong on one side of every
    split; a weight says for how many rows each stands (None: all for as many). All were predicted in `window`, and
    are as they were known `as_of`.
    """

    features: Any
    outcome: npt.NDArray[Any]
    weights: npt.NDArray[np.float64] | None
    groups: npt.NDArray[np.int64]
    predicted_at: npt.NDArray[np.datetime64]
    window: Window
    as_of: datetime


def write_rows(rows: TrainingRows, folder: Path, window: Window, as_of: datetime, params: dict[str, Any]) -> None:
    """Writes the rows as Parquet and what there is to know of them as JSON, for a command or an MLflow project."""
    contract = rows.champion.contract
    time = contract.own(TIME)
    table = rows.table.drop_columns([contract.own(PREDICTION_ID), KNOWN, OUTCOME, WEIGHT])
    weights = rows.weights
    table = table.append_column(OUTCOME, pa.array(rows.outcomes))
    table = table.append_column(WEIGHT, pa.array(np.ones(len(rows)) if weights is None else weights))
    pq.write_table(table, folder / ROWS)
    described = {
        "model": contract.model,
        "task": str(contract.task),
        "features": {column.name: str(column.type) for column in contract.features},
        "label": contract.label.name,
        "classes": list(contract.classes),
        "positive": contract.positive,
        "predicted_at": time,
        "group": OUTCOME,
        "weight": WEIGHT,
        "window": [window.start.isoformat(), window.end.isoformat()],
        "as_of": as_of.isoformat(),
        **params,
    }
    (folder / PARAMS).write_text(json.dumps(described, indent=2, default=str))


def write_dataset(rows: TrainingRows, folder: Path, window: Window, as_of: datetime) -> None:
    """Writes what a function is given; only a process of ours reads it."""
    inputs = rows.inputs()
    dataset = Dataset(
        features=inputs.astype(dict(rows.kinds)) if rows.kinds else inputs,
        outcome=rows.labels(rows.champion.loaded.estimator),
        weights=rows.weights,
        groups=rows.outcomes,
        predicted_at=rows.times,
        window=window,
        as_of=as_of,
    )
    (folder / INPUTS).write_bytes(pickle.dumps(dataset))


def read_dataset(path: Path) -> Dataset:
    """What `write_dataset` has written."""
    dataset: Dataset = pickle.loads(path.read_bytes())  # noqa: S301 (the process that started this one has written it)
    return dataset
