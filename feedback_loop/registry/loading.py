"""A model in MLflow's format, from a local folder into memory; code only from where it is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from feedback_loop.errors import Refused
from feedback_loop.registry.boosting import flavor_of, load_boosting
from feedback_loop.registry.sklearn_model import load_sklearn
from feedback_loop.registry.untrusted import Parts, load_untrusted
from feedback_loop.registry.versions import LoadedModel, ModelVersion

if TYPE_CHECKING:
    import pyarrow as pa

NO_PICKLES = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
"""MLflow's variable by which a host refuses all that may hold code."""


def load_folder(path: Path, version: ModelVersion, *, trusted: bool) -> LoadedModel:
    """The model that lies in a folder; raises Refused for one that lacks a module or holds untrusted code."""
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    described = Model.load(str(path))
    try:
        parts = _load_any(path, described) if trusted else load_untrusted(path, described, version)
    except ModuleNotFoundError as error:
        needed = ", ".join(_requirements(path)) or error.name
        raise Refused(
            f"{version} can't be loaded here: there is no module {error.name}.",
            cure=f"Install what it was logged with: {needed}.",
        ) from error
    except MlflowException as error:
        if NO_PICKLES not in str(error):
            raise
        raise Refused(
            f"{version} can't be loaded: this host has {NO_PICKLES}=false, by which MLflow refuses skops too.",
            cure="Set registry.trusted = false, which loads skops and ONNX by a list of what is harmless; or that "
            "variable to true, if whoever writes to the registry may run code here.",
        ) from error
    return LoadedModel(
        version=version,
        path=path,
        signature=described.signature.to_dict() if described.signature is not None else None,
        estimator=parts.estimator,
        pyfunc=parts.pyfunc,
        answers_with=str(described.flavors.get("python_function", {}).get("predict_fn", "predict")),
        requirements=_requirements(path),
    )


def input_example(loaded: LoadedModel, names: list[str]) -> pa.Table | None:
    """The rows that were kept with a model as an example of its inputs, under these names; None where it has none."""
    import pandas as pd
    import pyarrow as pa
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    try:
        example = Model.load(str(loaded.path)).load_input_example(str(loaded.path))
    except (MlflowException, OSError):
        return None
    if example is None:
        return None
    frame = example if isinstance(example, pd.DataFrame) else pd.DataFrame(example)
    if frame.shape[1] != len(names):
        return None
    if not set(names) <= set(map(str, frame.columns)):
        frame = frame.set_axis(names, axis=1)
    return pa.Table.from_pandas(frame, preserve_index=False)


def _load_any(path: Path, described: Any) -> Parts:
    """Whatever it is: its code is run."""
    if "sklearn" in described.flavors:
        return Parts(load_sklearn(path), None)
    if (flavor := flavor_of(described)) and (estimator := load_boosting(path, flavor)) is not None:
        return Parts(estimator, None)
    from mlflow import pyfunc

    return Parts(None, pyfunc.load_model(str(path)).predict)


def _requirements(path: Path) -> tuple[str, ...]:
    file = path / "requirements.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
