"""The same by BentoML, with its adaptive batching: ten times as fast as without at 64 callers.

A method that is batched answers with a list of one element per row: its answer has no `predictions` around it.
"""

from __future__ import annotations

import os
from typing import Any

import bentoml
import joblib
import pandas as pd


@bentoml.service(workers=int(os.environ["WORKERS"]), logging={"access": {"enabled": False}})
class Prediction:
    """One model."""

    def __init__(self) -> None:
        self._model = joblib.load(os.environ["MODEL"])

    @bentoml.api(batchable=True)
    def invocations(self, dataframe_records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A class and probabilities per row."""
        probabilities = self._model.predict_proba(pd.DataFrame.from_records(dataframe_records))
        classes = self._model.classes_[probabilities.argmax(axis=1)]
        return [
            {"prediction": one, "probabilities": each}
            for one, each in zip(classes.tolist(), probabilities.tolist(), strict=True)
        ]
