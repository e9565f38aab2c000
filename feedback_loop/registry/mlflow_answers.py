"""What MLflow's own server would answer, for the proof that ours answers the same."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from feedback_loop.registry.versions import LoadedModel


def mlflow_answers(loaded: LoadedModel, records: Sequence[dict[str, Any]]) -> Any:
    """What the model says of `dataframe_records` that MLflow has read and made to fit the signature.

    None where MLflow or the model refuses them, and where there is no MLmodel file to say how.
    """
    from mlflow.models import Model
    from mlflow.pyfunc import PyFuncModel
    from mlflow.pyfunc.scoring_server import infer_and_parse_data

    if not (loaded.path / "MLmodel").is_file():
        return None
    described = Model.load(str(loaded.path))
    asked = SimpleNamespace(predict=getattr(loaded.estimator, loaded.answers_with))
    plain = [{name: _json(value) for name, value in record.items()} for record in records]
    try:
        rows = infer_and_parse_data({"dataframe_records": plain}, described.get_input_schema())
        return PyFuncModel(model_meta=described, model_impl=asked).predict(rows)
    except Exception:  # noqa: BLE001 (foreign code: what it refuses is no answer)
        return None


def _json(value: Any) -> Any:
    return value.replace(tzinfo=None).isoformat() if isinstance(value, datetime) else value
