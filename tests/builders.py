"""Things that tests need: contracts, rows, models, a loop on a small made-up task."""

from __future__ import annotations

import json
import shutil
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feedback_loop.clock import Clock, ManualClock
from feedback_loop.inference.adapter_coefficients import HEADS, Coefficients
from feedback_loop.inference.adapter_encoding import Encoding
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring.cbpe import expected
from feedback_loop.monitoring.evaluation import evaluate_cells
from feedback_loop.monitoring.profiles.fold import fold
from feedback_loop.monitoring.profiles.layout import Layout
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.ranking import query_metrics
from feedback_loop.monitoring.scores import ScoreBins
from feedback_loop.registry import ModelVersion, Origin, Registry
from feedback_loop.registry.client import Connection
from feedback_loop.schema import Column, ColumnType, Contract, Task, make_contract, prediction_id
from feedback_loop.store import Store, adapters
from feedback_loop.store.adapters import AdapterRevision, RevisionKind
from feedback_loop.store.evaluations import Evaluation
from feedback_loop.store.predictions import prediction_schema
from tests.once import once

C, T = Column, ColumnType


def binary_contract(model: str = "churn", *, probabilities: bool = True, **changes: Any) -> Contract:
    """A binary task with a number, a word, a composite key and a segment."""
    options: dict[str, Any] = {
        "features": (C("age", T.DOUBLE), C("plan", T.STRING)),
        "label": "churned",
        "label_type": T.BOOLEAN,
        "key": ("customer", "month"),
        "key_types": {"customer": T.LONG},
        "classes": (False, True),
        "segments": ("plan",),
        "has_probabilities": probabilities,
    }
    return make_contract(model=model, task=Task.BINARY, **(options | changes))


def multiclass_contract(classes: Sequence[str] = ("a", "b", "c"), settled: tuple[str, ...] = ()) -> Contract:
    return make_contract(
        model="kind",
        task=Task.MULTICLASS,
        features=(C("x", T.DOUBLE),),
        label="kind",
        label_type=T.STRING,
        classes=tuple(classes),
        has_probabilities=True,
        settled=settled,
    )


def regression_contract(model: str = "price", features: Sequence[Column] = (C("x", T.DOUBLE),)) -> Contract:
    return make_contract(
        model=model, task=Task.REGRESSION, features=tuple(features), label="paid", label_type=T.DOUBLE
    )


def flat_coefficients(contract: Contract, shift: float) -> Coefficients:
    """An adapter's coefficients that move each answer's logit (or number, in deviations) by so much."""
    outputs = len(contract.classes) if contract.task is Task.MULTICLASS else 1
    start = 0.0 if contract.task is Task.REGRESSION else 1.0
    return Coefficients(
        contract.task,
        contract.classes,
        contract.positive,
        Encoding((), np.empty(0), np.empty(0), ()),
        np.full((HEADS, outputs), start),
        np.full((1, HEADS * outputs), shift),
        np.array([0.0, *[1 / HEADS] * HEADS]),
    )


def add_revision(store: Store, number: int, coefficients: Coefficients, now: datetime, model: str = "churn") -> None:
    """The revision with that number of a model's adapter, as if it had been learned."""
    before = AdapterRevision(model, number - 1, 1, RevisionKind.LEARNED, now, "1", digest=coefficients.digest)
    adapters.add_revision(store, before, coefficients=coefficients.to_bytes())


def evaluate_rows(contract: Contract, rows: pa.Table, reference: Profile | None, **asked: Any) -> Evaluation:
    """Evaluates one version's joined rows of a window, all at once."""
    layout = (reference.layout if reference is not None else Layout.bare(contract)).with_segments_of(rows)
    return evaluate_cells(layout, fold(layout, rows), reference, more=query_metrics(contract, rows), **asked)


def expected_bins(scores: Any, answered: Any, probabilities: Any, effective: float, every: Any = None) -> ScoreBins:
    """What is expected of rows by their ascending scores; `every` are their weights."""
    every, none = np.ones(len(scores)) if every is None else every, np.zeros(len(scores))
    bins = ScoreBins(scores, scores, every, np.asarray(answered, float), none, none, len(scores), 1.0)
    return expected(bins, probabilities, len(scores), effective)


def prediction_rows(contract: Contract, moments: Sequence[datetime], **columns: Sequence[Any]) -> pa.Table:
    """Rows of the log at these moments; columns (by stored name) that are not given are null or a default."""
    count = len(moments)
    values: dict[str, Any] = {
        "prediction_id": [prediction_id(moment) for moment in moments],
        "predicted_at": moments,
        "model_version": ["1"] * count,
        "role": ["champion"] * count,
        "source": ["batch"] * count,
        "sample_weight": [1.0] * count,
    }
    values |= columns
    schema = prediction_schema(contract, [column for column in contract.log_columns if column.stored in columns])
    return pa.table({name: values.get(name, [None] * count) for name in schema.names}, schema=schema)


def outcome_frame(**columns: Sequence[Any]) -> dict[str, Sequence[Any]]:
    return dict(columns)


CONFIG = """\
[store]
url = {store}
[registry]
tracking_uri = {mlflow}
[models.churn]
task = "binary"
label = "churned"
key = ["customer", "month"]
key_types = {{ customer = "long" }}
segments = ["plan"]
maturity = "1d"
[models.churn.policy]
reference = 1000
[models.churn.retraining]
min_rows = 100
search = "own"
[models.churn.outcomes]
folder = "outcomes"
"""


def write_config(
    folder: Path, *, store: str = "sqlite:///store.db", mlflow: str = "sqlite:///mlflow.db", more: str = ""
) -> Path:
    path = folder / "feedback_loop.toml"
    path.write_text(CONFIG.format(store=json.dumps(store), mlflow=json.dumps(mlflow)) + more)
    return path


def customers(
    count: int, seed: int, *, harder: float = 0.0, month: str = "2026-03", first: int = 0
) -> dict[str, Any]:
    """Customers with features, key and outcome; `harder` turns so large a share of outcomes around."""
    random = np.random.default_rng(seed)
    age = random.uniform(18, 90, count)
    plan = random.choice(["basic", "plus", "pro"], count)
    chance = 1 / (1 + np.exp(-(age - 54) / 8 - (plan == "basic")))
    churned = random.random(count) < chance
    churned ^= random.random(count) < harder
    return {
        "customer": np.arange(first, first + count),
        "month": np.full(count, month),
        "age": age,
        "plan": plan,
        "churned": churned,
    }


def churn_pipeline() -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    columns = make_column_transformer((StandardScaler(), ["age"]), (OneHotEncoder(handle_unknown="ignore"), ["plan"]))
    return make_pipeline(columns, LogisticRegression())


def register_churn(
    registry: Registry,
    now: datetime,
    *,
    rows: int = 3000,
    reference: int = 2000,
    seed: int = 0,
    turned: bool = False,
    name: str = "churn",
) -> ModelVersion:
    """A version of the churn model with a reference; no alias is set. One that is `turned` learned the opposite."""
    import pandas as pd

    known = pd.DataFrame(customers(rows, seed))
    held = pd.DataFrame(customers(reference, seed + 1))
    if turned:
        known["churned"], held["churned"] = ~known["churned"], ~held["churned"]
    model = churn_pipeline().fit(known[["age", "plan"]], known["churned"])
    times = pd.to_datetime(
        [now - timedelta(days=10 - place % 5) for place in range(reference)], utc=True
    ).sort_values()
    rows_of_reference = held[["age", "plan", "churned"]].assign(
        prediction=model.predict(held[["age", "plan"]]),
        probability=model.predict_proba(held[["age", "plan"]])[:, 1],
        predicted_at=times.as_unit("us"),
    )
    options = {"now": now, "trained_until": now - timedelta(days=5), "metrics": {"holdout_log_loss": 0.5}}
    return register_model(registry, name, model, known[["age", "plan"]], rows_of_reference, **options)


def register_model(
    registry: Registry,
    name: str,
    model: Any,
    example: Any,
    reference: Any,
    *,
    now: datetime,
    trained_until: datetime,
    metrics: Mapping[str, float] | None = None,
) -> ModelVersion:
    """A first version of a model; `example` and `reference` are data frames."""
    table = pa.Table.from_pandas(reference, preserve_index=False)
    origin = Origin("tests", len(reference), trained_until, table, metrics or {}, {})
    return registry.register(name, model, origin, now, example=example.head(3))


def open_loop(config: Path, clock: Clock, **options: Any) -> FeedbackLoop:
    return FeedbackLoop.open(config, clock=clock, **options)


def churn_loop(folder: Path, clock: ManualClock, *, more: str = "") -> FeedbackLoop:
    """A loop whose champion is version 1 of the churn model."""
    now = clock()
    today = abs(now - datetime.now(UTC)) < timedelta(days=1)  # an hour ago is today too
    home = once("churn" if today else f"churn-{now:%Y%m%dT%H%M%S}", partial(_new_home, now))
    copy_home(home, folder)
    return open_loop(write_config(folder, more=more), clock)


def empty_mlflow() -> Path:
    """An MLflow database with its tables (which take it seconds to make), to be copied."""

    def make(folder: Path) -> None:
        made = Connection(f"sqlite:///{folder}/mlflow.db", "", folder, "feedback-loop")
        with chdir(folder):  # where MLflow puts what nobody gave a place to
            made.client.search_registered_models()

    return once("mlflow", make) / "mlflow.db"


def _new_home(now: datetime, home: Path) -> None:
    """A store, a registry, artifacts and the proven bundle, from the moment of the first promotion."""
    shutil.copy(empty_mlflow(), home)
    loop = open_loop(write_config(home), ManualClock(now))
    with chdir(home):
        loop.promote("churn", register_churn(loop.registry, now).version, reason="first")
        loop.context.fastest_scorer(loop.champion("churn"))
    loop.close()


def copy_home(home: Path, folder: Path) -> None:
    """Copies a folder with a store and a registry; what the registry says of its own places is true of the copy."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()  # by runs' ids, which every copy has: it would write into another's folder
    shutil.copytree(home, folder, dirs_exist_ok=True)
    places = {
        "experiments": ["artifact_location"],
        "runs": ["artifact_uri"],
        "logged_models": ["artifact_location"],
        "model_versions": ["source", "storage_location"],
    }
    with closing(sqlite3.connect(folder / "mlflow.db")) as registry, registry:
        for table, columns in places.items():
            for column in columns:
                registry.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?)",  # noqa: S608 (our own names)
                    (home.as_uri(), folder.as_uri()),
                )


def play_days(
    loop: FeedbackLoop, clock: ManualClock, days: int, *, harder: float = 0.0, per_day: int = 300, seed: int = 10
) -> None:
    """So many days of predictions, whose outcomes come the day after; nothing is evaluated."""
    for day in range(days):
        month = f"{clock():%Y-%m-%d}"
        rows = customers(per_day, seed + day, harder=harder, month=month)
        loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
        clock.set(clock() + timedelta(days=1))
        loop.record_outcomes("churn", {name: rows[name] for name in ("customer", "month", "churned")})


def told(evaluations: Sequence[Evaluation]) -> str:
    """Evaluations as the command prints them, but for when they were first stored."""
    return json.dumps([{**vars(each), "evaluation_id": None, "revision": None} for each in evaluations], default=repr)


@contextmanager
def new_database(server: str, template: str = "template1") -> Iterator[str]:
    """The URL of a database of that server, which is gone afterwards."""
    import psycopg

    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        yield server.replace("/postgres?", f"/{name}?")
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
