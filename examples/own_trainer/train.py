"""Trains a model of who takes an offer, and makes up twenty days on which people have changed."""

from datetime import UTC, datetime, timedelta

import mlflow
import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

FEATURES = ["visits", "basket", "days_since"]
DAYS = 20


def people(count: int, first: int, random: np.random.Generator, *, patience: float) -> pd.DataFrame:
    """So many people with what is known of them, and whether they bought; patient ones do so later."""
    frame = pd.DataFrame(
        {
            "offer": np.arange(first, first + count),
            "visits": random.poisson(4, count),
            "basket": random.gamma(2, 30, count).round(2),
            "days_since": random.integers(0, 90, count),
        }
    )
    chance = 1 / (1 + np.exp(3 - frame["visits"] / 3 - frame["basket"] / 60 + frame["days_since"] / patience))
    return frame.assign(bought=random.random(count) < chance)


random = np.random.default_rng(2026)
past, held_out = (people(count, 0, random, patience=40) for count in (8000, 3000))
began = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS + 2)

mlflow.set_tracking_uri("sqlite:///mlflow.db")
model = HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(past[FEATURES], past["bought"])
signature = mlflow.models.infer_signature(past[FEATURES], model.predict(past[FEATURES]))
mlflow.sklearn.log_model(
    model, name="offers", signature=signature, registered_model_name="offers", serialization_format="cloudpickle"
)

days = [
    people(300, 10_000 + 1000 * day, random, patience=10).assign(
        predicted_at=[began + timedelta(days=day, minutes=4 * place) for place in range(300)]
    )
    for day in range(DAYS)
]
played = pd.concat(days, ignore_index=True)
played["probability"] = model.predict_proba(played[FEATURES])[:, 1]
played["prediction"] = played["probability"] >= 0.5

held_out.drop(columns="offer").to_parquet("held-out.parquet", index=False)
played.drop(columns="bought").to_parquet("predicted.parquet", index=False)
played[["offer", "bought"]].to_csv("happened.csv", index=False)
