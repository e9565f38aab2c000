"""Trains a model of who takes an offer and registers it in MLflow as `offers`; it knows nothing of the loop."""

import mlflow
import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

FEATURES = ["visits", "basket", "days_since"]


def people(count: int, first: int, random: np.random.Generator) -> pd.DataFrame:
    """So many people with what is known of them, and whether they bought."""
    frame = pd.DataFrame(
        {
            "offer": np.arange(first, first + count),
            "visits": random.poisson(4, count),
            "basket": random.gamma(2, 30, count).round(2),
            "days_since": random.integers(0, 90, count),
        }
    )
    chance = 1 / (1 + np.exp(3 - frame["visits"] / 3 - frame["basket"] / 60 + frame["days_since"] / 40))
    return frame.assign(bought=random.random(count) < chance)


random = np.random.default_rng(2026)
past, held_out, march = (people(count, 0, random) for count in (8000, 3000, 2000))

mlflow.set_tracking_uri("sqlite:///mlflow.db")
model = HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(past[FEATURES], past["bought"])
signature = mlflow.models.infer_signature(past[FEATURES], model.predict(past[FEATURES]))
mlflow.sklearn.log_model(
    model, name="offers", signature=signature, registered_model_name="offers", serialization_format="cloudpickle"
)

held_out.drop(columns="offer").to_parquet("held-out.parquet", index=False)
march.drop(columns="bought").to_parquet("march.parquet", index=False)
march.loc[march["offer"] % 10 != 0, ["offer", "bought"]].to_csv("happened.csv", index=False)
