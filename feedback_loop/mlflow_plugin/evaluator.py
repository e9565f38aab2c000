"""MLflow's evaluator `feedback-loop`: `mlflow.models.evaluate(…, evaluators="feedback-loop")`.

Imported whenever MLflow's evaluation is: what it works with is imported when it is asked to evaluate.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mlflow.models.evaluation.base import EvaluationResult, ModelEvaluator

NAME = "feedback-loop"
ARTIFACT = "feedback_loop_evaluation"
"""What MLflow calls the file with all figures; and it is `feedback_loop/evaluation.json` in the run."""


class FeedbackLoopEvaluator(ModelEvaluator):
    """Our metrics with their errors and bounds, and the gate against a baseline."""

    @classmethod
    def can_evaluate(cls, *, model_type: Any, evaluator_config: Any, **others: Any) -> bool:
        """Whether it is a classifier or regressor, and somebody has asked for us.

        MLflow runs every evaluator that is installed where none is named: then we add nothing, unless configured.
        """
        del others
        caller = inspect.currentframe()
        caller = caller.f_back if caller is not None else None
        nobody_asked = caller is not None and caller.f_code.co_name == "resolve_evaluators_and_configs"
        return model_type in ("classifier", "regressor") and not (nobody_asked and not _is_ours(evaluator_config))

    def evaluate(
        self,
        *,
        model_type: str,
        dataset: Any,
        run_id: str,
        evaluator_config: Mapping[str, Any],
        model: Any = None,
        predictions: str | None = None,
        model_id: str | None = None,
        **others: Any,
    ) -> EvaluationResult:
        """Logs and returns the metrics; raises MlflowException where the options or the data do not fit.

        `extra_metrics` and `custom_artifacts` are left to MLflow's own evaluators.
        """
        del others
        from mlflow import MlflowClient
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException
        from mlflow.models.evaluation.artifacts import JsonEvaluationArtifact
        from mlflow.utils.time import get_current_time_millis

        from feedback_loop.errors import FeedbackLoopError
        from feedback_loop.mlflow_plugin.evaluating import Options, evaluated

        try:
            options = Options.of(evaluator_config)
            metrics, content = evaluated(model, dataset, model_type, options, output=predictions)
        except FeedbackLoopError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        client, now = MlflowClient(), get_current_time_millis()
        shown = {"model_id": model_id, "dataset_name": dataset.name, "dataset_digest": dataset.digest}
        logged = [Metric(name, value, now, 0, run_id=run_id, **shown) for name, value in metrics.items()]
        client.log_batch(run_id, metrics=logged)
        file = "feedback_loop/evaluation.json"
        client.log_dict(run_id, content, file)
        uri = f"{client.get_run(run_id).info.artifact_uri}/{file}"
        return EvaluationResult(metrics, {ARTIFACT: JsonEvaluationArtifact(uri, content)}, run_id)


def _is_ours(config: Any) -> bool:
    """Whether a configuration (which MLflow may have given to all evaluators) has an option that is ours alone."""
    return isinstance(config, Mapping) and bool({"baseline", "segments", "time"} & set(config))
