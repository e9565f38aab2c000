"""Who is measured: how each is started, and how its answers read."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MLFLOW, FASTAPI, BENTOML, ECHO = "mlflow models serve", "FastAPI", "BentoML", "bare echo"
DURABILITIES = ("off", "buffered", "committed")


def ours(durability: str) -> str:
    """The name of the product's server under a durability."""
    return f"feedback-loop serve, {durability}"


@dataclass(frozen=True)
class Place:
    """Where a server is started: which model, on which port, by how many workers."""

    model: str
    port: int
    workers: int
    models: Path
    home: Path
    peers: Path


@dataclass(frozen=True)
class Subject:
    """A server. `shape` says how its answers read (see load.lua)."""

    name: str
    command: Callable[[Place], list[str]]
    environment: Callable[[Place], Mapping[str, str]] = field(default=lambda place: {})  # noqa: ARG005
    shape: str = "predictions"
    path: str = "/invocations"


def answer_of(shape: str, body: bytes) -> tuple[list[Any] | None, list[list[float]] | None]:
    """The predictions of an answer, and the probabilities where it has any."""
    content = json.loads(body)
    if shape == "rows":
        return [row["prediction"] for row in content], [row["probabilities"] for row in content]
    return content.get("predictions"), content.get("probabilities")


def subjects() -> list[Subject]:
    """All, in such an order that those that are compared stand beside each other."""
    return [
        Subject(ECHO, _echo, shape="echo"),
        *(Subject(ours(each), _ours, _durable(each)) for each in DURABILITIES),
        Subject(MLFLOW, _mlflow, _registry),
        Subject(FASTAPI, _fastapi, _dumped),
        Subject(BENTOML, _bentoml, _dumped, shape="rows"),
    ]


CONFIG = """
[registry]
tracking_uri = "sqlite:///{models}/mlflow.db"

[store]
url = "sqlite:///log/feedback_loop.db"

[capture]
folder = "log/spool"

[models.{model}]
task = "binary"
label = "y"
"""


def write_home(place: Place) -> None:
    """The product's configuration for one model, and an empty folder for its store and spool."""
    (place.home / "log").mkdir(parents=True)
    (place.home / "feedback_loop.toml").write_text(CONFIG.format(models=place.models, model=place.model))


def _ours(place: Place) -> list[str]:
    command = [sys.executable, "-m", "feedback_loop", "serve", place.model]
    config = str(place.home / "feedback_loop.toml")
    workers = ["--workers", str(place.workers)] if place.workers > 1 else []
    return [*command, "--config", config, "--port", str(place.port), *workers]


def _durable(durability: str) -> Callable[[Place], Mapping[str, str]]:
    return lambda place: {f"FEEDBACK_LOOP_MODELS__{place.model.upper()}__LOG__DURABILITY": durability}


def _mlflow(place: Place) -> list[str]:
    program, model = str(Path(sys.executable).parent / "mlflow"), f"models:/{place.model}@champion"
    options = ["--env-manager", "local", "--port", str(place.port), "--workers", str(place.workers)]
    return [program, "models", "serve", "--model-uri", model, *options]


def _registry(place: Place) -> Mapping[str, str]:
    """MLflow starts `uvicorn` by its name: the environment's own must be found first."""
    address = f"sqlite:///{place.models}/mlflow.db"
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"MLFLOW_TRACKING_URI": address, "MLFLOW_REGISTRY_URI": address, "PATH": programs}


def _fastapi(place: Place) -> list[str]:
    program = [str(place.peers / "uvicorn"), "benchmarks.peers.fastapi_server:app", "--no-access-log"]
    return [*program, "--log-level", "warning", "--port", str(place.port), "--workers", str(place.workers)]


def _bentoml(place: Place) -> list[str]:
    service = "benchmarks.peers.bentoml_service:Prediction"
    return [str(place.peers / "bentoml"), "serve", service, "--host", "127.0.0.1", "--port", str(place.port)]


def _dumped(place: Place) -> Mapping[str, str]:
    return {"MODEL": str(place.models / f"{place.model}.joblib"), "WORKERS": str(place.workers)}


def _echo(place: Place) -> list[str]:
    return [sys.executable, "-m", "benchmarks.peers.echo", str(place.port), str(place.workers)]
