"""MLflow: versions are found, loaded, registered, tagged and aliased here, and nowhere else."""

from feedback_loop.registry.candidates import Proven
from feedback_loop.registry.lineage import Origin, TrialRun, mlflow_names
from feedback_loop.registry.loading import input_example, load_folder
from feedback_loop.registry.mlflow_answers import mlflow_answers
from feedback_loop.registry.pyfunc_model import is_pyfunc, write_pyfunc
from feedback_loop.registry.registry import Registry
from feedback_loop.registry.sklearn_model import write_estimator
from feedback_loop.registry.thresholds import unmet_thresholds
from feedback_loop.registry.versions import TAG, LoadedModel, ModelVersion, Reference
from feedback_loop.registry.webhooks import cure_of as cure_of_webhook

__all__ = [
    "TAG",
    "LoadedModel",
    "ModelVersion",
    "Origin",
    "Proven",
    "Reference",
    "Registry",
    "TrialRun",
    "cure_of_webhook",
    "input_example",
    "is_pyfunc",
    "load_folder",
    "mlflow_answers",
    "mlflow_names",
    "unmet_thresholds",
    "write_estimator",
    "write_pyfunc",
]
