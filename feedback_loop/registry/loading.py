"""A model in MLflow's format, from a local folder into memory; code only from where it is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from feedback_loop.errors import Refused
from feedback_loop.registry.versions import LoadedModel, ModelVersion

if TYPE_CHECKING:
    import pyarrow as pa

CODELESS = ("onnx",)
"""Flavors whose files hold no code."""


def load_folder(path: Path, version: ModelVersion, *, trusted: bool = True) -> LoadedModel:
    """The model that lies in a folder; raises Refused for one that holds code and is not trusted."""
    from mlflow.models import Model

    described = Model.load(str(path))
    signature = described.signature.to_dict() if described.signature is not None else None
    if not trusted:
        _refuse_code(described, path, version)
    estimator, pyfunc = None, None
    if "sklearn" in described.flavors:
        from feedback_loop.registry.sklearn_model import load_sklearn

        estimator = load_sklearn(path)
    else:
        from mlflow import pyfunc as flavor

        pyfunc = flavor.load_model(str(path)).predict
    return LoadedModel(
        version=version,
        path=path,
        signature=signature,
        estimator=estimator,
        pyfunc=pyfunc,
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


def _refuse_code(described: Any, path: Path, version: ModelVersion) -> None:
    """Refuses pickles, code beside the model, and types of skops' that are not scikit-learn's."""
    held = _code_in(described, path)
    if held:
        raise Refused(
            f"{version} holds code ({held}), and its registry is not trusted.",
            cure="Save it as skops or ONNX; or, if whoever writes to that registry may run code here, "
            "set registry.trusted = true.",
        )


def _code_in(described: Any, path: Path) -> str:
    flavors = described.flavors
    if any(flavor.get("code") for flavor in flavors.values()):
        return "modules beside the model"
    if "sklearn" in flavors:
        kind = flavors["sklearn"].get("serialization_format", "cloudpickle")
        if kind != "skops":
            return f"the format {kind}"
        from feedback_loop.registry.sklearn_model import foreign_types

        foreign = foreign_types(path / flavors["sklearn"]["pickled_model"])
        return f"the types {', '.join(foreign)}" if foreign else ""
    if any(name in flavors for name in CODELESS):
        return ""
    return f"the flavor {next((name for name in flavors if name != 'python_function'), 'python_function')}"


def _requirements(path: Path) -> tuple[str, ...]:
    file = path / "requirements.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
