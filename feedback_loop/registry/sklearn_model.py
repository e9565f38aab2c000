"""scikit-learn models in MLflow's format: saved without code where that is possible, loaded as they are."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

NEEDED = ("scikit-learn", "skops", "numpy", "pandas", "scipy")
"""What a scikit-learn model needs to be loaded: stated, since MLflow's own inference of it takes 8 s."""


def save_sklearn(
    client: MlflowClient,
    experiment_id: str,
    run_id: str,
    estimator: Any,
    *,
    folder: Path,
    name: str,
    signature: ModelSignature,
    answers_with: str,
    example: pd.DataFrame | None,
    requirements: Sequence[str],
) -> tuple[str, str]:
    """Logs a fitted estimator as a model of that run; returns MLflow's model id and where its files are.

    This is what `mlflow.sklearn.log_model` does, by way of the client: no active run and no global URI is needed.
    """
    import mlflow.sklearn
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    allowed = re.sub("[/:.%\"']", "_", name)  # what a registered model may be called, a logged one may not always
    logged = client.create_logged_model(experiment_id, name=allowed, source_run_id=run_id)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    described = Model(
        artifact_path=logged.artifact_location,
        model_uuid=logged.model_id,
        run_id=run_id,
        model_id=logged.model_id,
    )
    path = folder / "model"
    mlflow.sklearn.save_model(
        estimator,
        str(path),
        mlflow_model=described,
        signature=signature,
        input_example=example,
        pyfunc_predict_fn=answers_with,
        pip_requirements=list(requirements) or [f"{package}=={version(package)}" for package in NEEDED],
        **_serialization(estimator),
    )
    client.log_model_artifacts(logged.model_id, str(path))
    client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id), str(logged.artifact_location)


def load_sklearn(path: Path) -> Any:
    """The estimator that lies in a folder in MLflow's format."""
    import mlflow.sklearn

    return mlflow.sklearn.load_model(str(path))


def _serialization(estimator: Any) -> dict[str, Any]:
    """skops, which holds no code, where it can write this estimator and read it again; cloudpickle else.

    The types that skops asks about are trusted: they come from an object that is in this process already.
    """
    import skops.io as skops

    try:
        data = skops.dumps(estimator)
        types = skops.get_untrusted_types(data=data)
        skops.loads(data, trusted=types)
    except Exception:  # noqa: BLE001 (skops raises whatever a foreign class raises while it is taken apart)
        return {"serialization_format": "cloudpickle"}
    return {"serialization_format": "skops", "skops_trusted_types": types}


def foreign_types(file: Path) -> list[str]:
    """What a skops file asks to be trusted that is neither an estimator nor a loss of scikit-learn's."""
    import skops.io as skops

    return [name for name in skops.get_untrusted_types(file=file) if not _is_harmless(name)]


def _is_harmless(name: str) -> bool:
    """Functions are not, since one that a package holds by chance may run what it is given; nor are trees.

    scikit-learn reads a tree's nodes without looking at bounds: wrong ones would read other memory.
    """
    if name == "numpy.dtype":
        return True
    module, _, kind = name.rpartition(".")
    if module.split(".")[0] != "sklearn":
        return False
    from sklearn.base import BaseEstimator

    found = getattr(sys.modules.get(module) or import_module(module), kind, None)
    return isinstance(found, type) and (issubclass(found, BaseEstimator) or module.startswith("sklearn._loss"))
