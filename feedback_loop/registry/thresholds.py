"""MLflow's metric thresholds: what a candidate's metrics must reach, alone or against the champion's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feedback_loop.errors import BadInput


def unmet_thresholds(
    thresholds: Mapping[str, Mapping[str, Any]], candidate: Mapping[str, float], champion: Mapping[str, float]
) -> str:
    """Which thresholds (arguments of `mlflow.models.MetricThreshold`) a candidate misses, in MLflow's words; or none.

    Raises BadInput for a threshold that MLflow does not take.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.models.evaluation.base import EvaluationResult
    from mlflow.models.evaluation.validation import (
        MetricThreshold,
        ModelValidationFailedException,
        validate_evaluation_results,
    )

    try:
        wanted = {name: MetricThreshold(**arguments) for name, arguments in thresholds.items()}
        results = [EvaluationResult(dict(metrics), {}) for metrics in (candidate, champion)]
        validate_evaluation_results(wanted, results[0], results[1])
    except ModelValidationFailedException as error:
        return str(error.message)
    except MlflowException as error:
        raise BadInput.of("retraining.thresholds", str(error)) from error
    return ""
