"""The two models that every server answers for, in a real MLflow registry, and requests with scikit-learn's answers.

Run as a program (`python -m benchmarks.peers.models FOLDER`): who measures need not import what trains.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("logistic_regression", "random_forest")
NUMERIC, CATEGORICAL = 15, 5
SIZES = (1, 100)
"""Rows per request."""

TRAINING_ROWS = 5_000
EXAMPLE_ROWS = 100
"""Kept with the model, as MLflow recommends; the product proves its ONNX form on them."""

CHECKED = {1: 200, 100: 6}
"""Requests that a server answers rightly before it is measured, by rows per request."""

LOADED = {1: 512, 100: 48}
"""Distinct requests of a load, by rows per request."""

WORDS = ("north", "south", "east", "west", "centre", "coast", "island", "valley")


@dataclass(frozen=True)
class Request:
    """A body, and what scikit-learn says of its rows."""

    body: str
    predictions: list[int]
    probabilities: list[list[float]]


@dataclass(frozen=True)
class Requests:
    """To check with: any rows. To load with, by size: distinct bodies which all have the same predictions.

    So the load generator can hold every single answer against what is right, although it can't tell which of the
    requests an answer belongs to.
    """

    check: list[Request]
    load: dict[int, list[Request]]


def read_requests(folder: Path, name: str) -> Requests:
    """The requests of a model."""
    content = json.loads((folder / f"{name}.json").read_text())
    return Requests(
        check=[Request(**each) for each in content["check"]],
        load={int(size): [Request(**each) for each in requests] for size, requests in content["load"].items()},
    )


def main(folder: Path) -> None:
    """Trains both, registers them as champions in `mlflow.db`, and writes `<name>.joblib` and `<name>.json`."""
    import joblib
    import mlflow
    import numpy as np
    from mlflow.models import infer_signature

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = mlflow.create_experiment("benchmark", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment(experiment_id=experiment)
    numbers = np.random.default_rng(0)
    frame, labels = _rows(numbers, TRAINING_ROWS)
    for name in NAMES:
        pipeline = _pipeline(name).fit(frame, labels)
        joblib.dump(pipeline, folder / f"{name}.joblib")
        requests = _requests(pipeline, numbers)
        (folder / f"{name}.json").write_text(json.dumps(requests, default=vars))
        _log(pipeline, name, infer_signature(frame, pipeline.predict(frame)), frame.head(EXAMPLE_ROWS))
        mlflow.MlflowClient().set_registered_model_alias(name, "champion", "1")


def _pipeline(name: str) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), [f"x{number}" for number in range(NUMERIC)]),
            ("words", OneHotEncoder(handle_unknown="ignore"), [f"c{number}" for number in range(CATEGORICAL)]),
        ]
    )
    forest = RandomForestClassifier(n_estimators=100, random_state=0)
    estimator = forest if name == "random_forest" else LogisticRegression(max_iter=1000)
    return Pipeline([("columns", columns), ("estimator", estimator)])


def _log(pipeline: Any, name: str, signature: Any, example: Any) -> None:
    """As MLflow's documents show it, in the format without pickle; requirements stated, as guessing takes 8 s."""
    from importlib.metadata import version

    import mlflow.sklearn
    import skops.io as skops

    mlflow.sklearn.log_model(
        pipeline,
        name=name,
        registered_model_name=name,
        signature=signature,
        input_example=example,
        serialization_format="skops",
        skops_trusted_types=skops.get_untrusted_types(data=skops.dumps(pipeline)),
        pip_requirements=[f"{package}=={version(package)}" for package in ("scikit-learn", "skops", "pandas")],
    )


def _rows(numbers: Any, count: int) -> tuple[Any, Any]:
    """Features and labels: a bend and a word matter, so that a forest has something to find."""
    import numpy as np
    import pandas as pd

    values = numbers.normal(size=(count, NUMERIC)).round(6)
    words = numbers.choice(WORDS, (count, CATEGORICAL))
    frame = pd.DataFrame(values, columns=[f"x{number}" for number in range(NUMERIC)])
    for number in range(CATEGORICAL):
        frame[f"c{number}"] = words[:, number]
    score = values[:, 0] - values[:, 1] + np.abs(values[:, 2]) - 0.8 + (words[:, 0] == "north") * 1.5
    return frame, (score + numbers.normal(size=count) > 0).astype("int64")


def _requests(pipeline: Any, numbers: Any) -> dict[str, Any]:
    check = []
    for size, count in CHECKED.items():
        for _ in range(count):
            frame, _ = _rows(numbers, size)
            check.append(_request(pipeline, frame))
    return {"check": check, "load": {size: _same_answers(pipeline, numbers, size) for size in SIZES}}


def _same_answers(pipeline: Any, numbers: Any, size: int) -> list[Request]:
    """Bodies of other rows each, whose classes stand in the same order."""
    frame, _ = _rows(numbers, 4 * size * LOADED[size])
    classes = pipeline.predict(frame)
    pattern = numbers.integers(0, 2, size)
    waiting = {each: iter(frame.index[classes == each]) for each in (0, 1)}
    requests = []
    for _ in range(LOADED[size]):
        places = [next(waiting[int(each)]) for each in pattern]
        requests.append(_request(pipeline, frame.loc[places]))
    return requests


def _request(pipeline: Any, frame: Any) -> Request:
    return Request(
        body=json.dumps({"dataframe_records": frame.to_dict(orient="records")}),
        predictions=pipeline.predict(frame).tolist(),
        probabilities=pipeline.predict_proba(frame).tolist(),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
