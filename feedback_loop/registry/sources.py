"""Where a model's files are: MLflow's `models:/…` and `runs:/…` resolved by our own client.

MLflow's own resolution goes through the tracking URI that is set globally, and would look in another store.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from feedback_loop.errors import NotFound
from feedback_loop.registry.versions import Reference, number_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class ModelSource:
    """A model's files: their plain location, and the run and logged model that they belong to, if any."""

    location: str
    run_id: str | None = None
    model_id: str | None = None

    def registered_as(self, *, is_server: bool) -> str:
        """What a registry takes: a server resolves `models:/…` itself and refuses bare paths, a database can't."""
        return f"models:/{self.model_id}" if is_server and self.model_id else self.location


def resolve_source(client: MlflowClient, source: str) -> ModelSource:
    """Finds what `models:/m-…`, `models:/name/1`, `runs:/<run>/<name>`, a URI or a folder means.

    Raises NotFound, BadInput for a `models:/` that names nothing, and MLflow's own errors.
    """
    if source.startswith("models:/m-"):
        return _logged_model(client, source.removeprefix("models:/"))
    if source.startswith("models:/"):
        return _registered(client, Reference.parse(source))
    if source.startswith("runs:/"):
        return _of_run(client, *source.removeprefix("runs:/").partition("/")[::2])
    if "://" not in source and not source.startswith("mlflow-artifacts:"):
        path = Path(source).absolute()
        if not (path / "MLmodel").is_file():
            raise NotFound(
                "MLflow model", str(path), cure="Give its folder (with the file MLmodel), runs:/… or models:/…."
            )
        return ModelSource(path.as_uri())
    return ModelSource(source)


def _of_run(client: MlflowClient, run_id: str, name: str) -> ModelSource:
    """A run's model by its name (the one logged last), or, as MLflow 2 has it, by its place among the artifacts."""
    run = client.get_run(run_id)
    outputs = run.outputs.model_outputs if run.outputs is not None else ()
    names = {output.model_id: str(client.get_logged_model(output.model_id).name) for output in outputs}
    named = [output for output in outputs if names[output.model_id] == name]
    if named:
        return _logged_model(client, max(named, key=lambda output: output.step).model_id)
    if any(file.path == f"{name}/MLmodel" for file in client.list_artifacts(run_id, name)):
        return ModelSource(f"{run.info.artifact_uri.rstrip('/')}/{name}", run_id)
    there = ", ".join(f"runs:/{run_id}/{other}" for other in sorted(set(names.values())))
    raise NotFound("model", f"runs:/{run_id}/{name}", cure=f"That run has: {there or 'none'}.")


def _registered(client: MlflowClient, reference: Reference) -> ModelSource:
    if reference.version is not None:
        version = client.get_model_version(reference.model, number_of(reference.version))
    else:
        version = client.get_model_version_by_alias(reference.model, reference.alias)
    if version.model_id:
        return _logged_model(client, version.model_id)
    return replace(resolve_source(client, version.source), run_id=version.run_id or None)


def _logged_model(client: MlflowClient, model_id: str) -> ModelSource:
    logged = client.get_logged_model(model_id)
    return ModelSource(str(logged.artifact_location), logged.source_run_id or None, model_id)
