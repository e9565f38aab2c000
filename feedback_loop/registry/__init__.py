"""MLflow: versions are found, loaded, registered, tagged and aliased here, and nowhere else."""

from feedback_loop.registry.candidates import Proven
from feedback_loop.registry.lineage import Origin
from feedback_loop.registry.loading import input_example, load_folder
from feedback_loop.registry.mlflow_answers import mlflow_answers
from feedback_loop.registry.registry import Registry
from feedback_loop.registry.versions import TAG, LoadedModel, ModelVersion, Reference

__all__ = [
    "TAG",
    "LoadedModel",
    "ModelVersion",
    "Origin",
    "Proven",
    "Reference",
    "Registry",
    "input_example",
    "load_folder",
    "mlflow_answers",
]
