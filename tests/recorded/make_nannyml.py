"""Records what NannyML 0.13.1 estimates on parts of the datasets that its wheel carries (Apache License 2.0).

    python -m venv /tmp/peer && /tmp/peer/bin/pip install nannyml==0.13.1 "pandas<3" "statsmodels<0.15"
    NML_DISABLE_USAGE_LOGGING=1 /tmp/peer/bin/python tests/recorded/make_nannyml.py

Writes `nannyml.npz`, the rows (probabilities in hundredths, classes and words by their place), and `nannyml.json`:
the values of each chunk, and whether NannyML has calibrated. It sorts rows by score with NumPy's quickest sort, which
leaves those of the same score in an order that differs between processors; here it is made to be the stable one.
"""

import json
import warnings
from functools import partial
from pathlib import Path

import nannyml
import numpy as np
import pandas as pd

warnings.simplefilter("ignore")
HERE = Path(__file__).parent
METRICS = ["roc_auc", "average_precision", "f1", "precision", "recall", "accuracy"]
CARDS = ["highstreet_card", "prepaid_card", "upmarket_card"]
FEATURES = ["car_age", "km_driven", "price_new", "accident_count", "door_count"]
WORDS = ["fuel", "transmission"]
rows: dict[str, np.ndarray] = {}
values: dict[str, dict] = {}


def estimates(result, names):
    frame = result.filter(period="analysis").to_df()
    return {name: frame[(name, "value")].tolist() for name in names}


def record_binary(reference, analysis):
    for part, frame in (("reference", reference), ("analysis", analysis)):
        rows[f"binary_{part}_score"] = (frame.y_pred_proba * 100).round().to_numpy(np.uint8)
        rows[f"binary_{part}_answer"] = frame.y_pred.to_numpy(np.uint8)
    rows["binary_reference_truth"] = reference.repaid.to_numpy(np.uint8)
    estimator = nannyml.CBPE(
        y_pred_proba="y_pred_proba",
        y_pred="y_pred",
        y_true="repaid",
        problem_type="classification_binary",
        metrics=METRICS,
        chunk_size=1000,
    )
    estimator.fit(reference)
    values["binary"] = {"calibrated": bool(estimator.needs_calibration)}
    values["binary"] |= estimates(estimator.estimate(analysis), METRICS)


def record_multiclass(reference, analysis):
    columns = {card: f"y_pred_proba_{card}" for card in CARDS}
    for part, frame in (("reference", reference), ("analysis", analysis)):
        for card, column in columns.items():
            rows[f"multiclass_{part}_{card}"] = (frame[column] * 100).round().to_numpy(np.uint8)
        rows[f"multiclass_{part}_answer"] = frame.y_pred.map(CARDS.index).to_numpy(np.uint8)
    rows["multiclass_reference_truth"] = reference.y_true.map(CARDS.index).to_numpy(np.uint8)
    estimator = nannyml.CBPE(
        y_pred_proba=columns,
        y_pred="y_pred",
        y_true="y_true",
        problem_type="classification_multiclass",
        metrics=METRICS,
        chunk_size=1000,
    )
    estimator.fit(reference)
    calibrated = [type(estimator._calibrators[card]).__name__ == "IsotonicCalibrator" for card in CARDS]
    values["multiclass"] = {"calibrated": calibrated, **estimates(estimator.estimate(analysis), METRICS)}


def record_regression(reference, analysis):
    for part, frame in (("reference", reference), ("analysis", analysis)):
        for column in [*FEATURES, "y_pred", "y_true"]:
            rows[f"regression_{part}_{column}"] = frame[column].to_numpy(np.float32)
        for column in WORDS:
            rows[f"regression_{part}_{column}"] = frame[column].to_numpy("U12")
    estimator = nannyml.DLE(
        feature_column_names=[*FEATURES, *WORDS],
        y_pred="y_pred",
        y_true="y_true",
        timestamp_column_name="timestamp",
        metrics=["mae", "rmse"],
        chunk_size=1000,
    )
    estimator.fit(reference)
    values["regression"] = estimates(estimator.estimate(analysis), ["mae", "rmse"])


def halves(frame):
    """Rows of before and of after the change that is in the middle of each analysis set."""
    return pd.concat([frame.iloc[:2000], frame.iloc[-2000:]]).reset_index(drop=True)


def record():
    argsort = np.argsort
    np.argsort = partial(argsort, kind="stable")
    try:
        reference, analysis, _ = nannyml.load_synthetic_car_loan_dataset()
        record_binary(reference.iloc[:4000], halves(analysis))
        reference, analysis, _ = nannyml.load_synthetic_multiclass_classification_dataset()
        record_multiclass(reference.iloc[:4000], halves(analysis))
        reference, analysis, truth = nannyml.load_synthetic_car_price_dataset()
        record_regression(reference.iloc[:5000], halves(analysis.merge(truth, on="id")))
    finally:
        np.argsort = argsort
    np.savez_compressed(HERE / "nannyml.npz", **rows)
    (HERE / "nannyml.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    record()
