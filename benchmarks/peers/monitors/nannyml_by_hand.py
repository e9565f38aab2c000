"""NannyML: univariate drift, realised and estimated performance, by the day."""

import warnings

import nannyml
import pandas as pd
from data import ANSWER, LABEL, NUMBERS, WORDS, measure


def work(reference: pd.DataFrame, current: pd.DataFrame) -> None:
    """Its three calculators with their defaults."""
    task = {
        "y_pred_proba": "probability",
        "y_pred": ANSWER,
        "y_true": LABEL,
        "timestamp_column_name": "predicted_at",
        "problem_type": "classification_binary",
        "chunk_period": "D",
    }
    drift = nannyml.UnivariateDriftCalculator(
        column_names=[*NUMBERS, *WORDS], timestamp_column_name="predicted_at", chunk_period="D"
    )
    drift.fit(reference).calculate(current).to_df()
    metrics = ["roc_auc", "accuracy", "f1"]
    nannyml.PerformanceCalculator(metrics=metrics, **task).fit(reference).calculate(current).to_df()
    nannyml.CBPE(metrics=metrics, **task).fit(reference).estimate(current).to_df()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    measure(work)
