"""What you have already: a scikit-learn pipeline in an MLflow registry, trained on flights of early January 2013.

Writes beside it what comes next in a model's life: rows to predict, and later what really happened.
"""

import mlflow
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from feedback_loop.demo.flights import CATEGORIES, FEATURES, KEY, LABEL, load_flights

mlflow.set_tracking_uri("sqlite:///mlflow.db")

flights = load_flights()
known = flights.dropna(subset=[LABEL])
learned = known[known["date"] < "2013-01-25"]
held_out = known[(known["date"] >= "2013-01-25") & (known["date"] < "2013-02-01")]
coming = flights[(flights["date"] >= "2013-02-01") & (flights["date"] < "2013-02-08")]

encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
columns = make_column_transformer((encoder, list(CATEGORIES)), remainder="passthrough")
model = make_pipeline(columns, HistGradientBoostingClassifier(random_state=0))
model.fit(learned[list(FEATURES)], learned[LABEL].to_numpy(dtype=bool))

mlflow.sklearn.log_model(
    model,
    name="model",
    input_example=learned[list(FEATURES)].head(3),
    registered_model_name="flights",
    serialization_format="cloudpickle",
)

held_out[[*FEATURES, LABEL]].to_parquet("held-out.parquet", index=False)
coming[list(dict.fromkeys((*KEY, *FEATURES)))].to_parquet("february.parquet", index=False)
coming.dropna(subset=[LABEL])[[*KEY, LABEL]].to_csv("happened.csv", index=False)
print(f"{len(learned):,} flights learned from, {len(held_out):,} held out, {len(coming):,} to come")
