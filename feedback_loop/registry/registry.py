"""The registry: find a version, load it, register one, set an alias."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feedback_loop.config import RegistrySettings, Settings
from feedback_loop.errors import NotFound
from feedback_loop.registry.client import Connection
from feedback_loop.registry.lineage import DataSource, Lineage
from feedback_loop.registry.loading import load_folder
from feedback_loop.registry.sklearn_model import save_sklearn
from feedback_loop.registry.sources import ModelSource, resolve_source
from feedback_loop.registry.versions import TAG, TRAINED_UNTIL, LoadedModel, ModelVersion, Reference, number_of

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

NameVersion = Callable[[str, str, datetime], str]
"""What the version of a model is called here, by its number and when it was made: it is kept by that everywhere."""

REFERENCE_RUN = "reference_run"
"""The tag with the run whose artifacts hold a version's reference rows."""

FOLDER = "feedback_loop"
"""The folder of a run's artifacts that ours are in."""


class Registry:
    """An MLflow registry. Nothing is imported or reached before the first call; methods raise Unavailable."""

    def __init__(self, connection: Connection, name: NameVersion | None = None) -> None:
        self._mlflow = connection
        self._name = name or _plain
        self.lineage = Lineage(connection)

    @classmethod
    def of(cls, settings: Settings, name: NameVersion | None = None) -> Registry:
        """The registry that the configuration names; `name` says what versions are called here."""
        wanted: RegistrySettings = settings.registry
        uris = (settings.url(wanted.tracking_uri), settings.url(wanted.registry_uri))
        place = settings.path(wanted.artifact_root)
        return cls(Connection(*uris, place, wanted.experiment, trusted=wanted.trusted), name)

    @property
    def tracking_uri(self) -> str:
        """Where it is."""
        return self._mlflow.tracking_uri

    def find(self, reference: Reference, *, exactly: bool = False) -> ModelVersion:
        """The version that is meant; raises NotFound.

        `exactly`, for names of our own: `1` is never a version 1 of a registered model that was made anew since.
        """
        name = reference.model
        if reference.version is not None:
            with self._mlflow.translated("model version", f"{name}/{reference.version}"):
                found = self._mlflow.client.get_model_version(name, number_of(reference.version))
                version = self._version(found)
            if reference.version != version.version and (exactly or reference.version != version.number):
                raise _made_anew(name, reference.version)
            return version
        alias = reference.alias or "champion"
        with self._mlflow.translated("model with that alias", f"{name}@{alias}"):
            from mlflow.exceptions import MlflowException

            client = self._mlflow.client
            try:
                return self._version(client.get_model_version_by_alias(name, alias))
            except MlflowException as error:
                # That an alias is not there has no code of its own.
                if (
                    error.error_code != "INVALID_PARAMETER_VALUE"
                    or alias in client.get_registered_model(name).aliases
                ):
                    raise
                raise NotFound(
                    "model with that alias", f"{name}@{alias}", cure="See what there is: feedback-loop models list."
                ) from error

    def champion(self, model: str, alias: str) -> ModelVersion | None:
        """The version behind an alias, or None where the model or the alias is not there yet."""
        try:
            return self.find(Reference(model, alias=alias))
        except NotFound:
            return None

    def versions(self, model: str) -> list[ModelVersion]:
        """All versions of a model, oldest first."""
        with self._mlflow.translated("model", model):
            client = self._mlflow.client
            aliases: dict[str, list[str]] = {}
            for alias, version in client.get_registered_model(model).aliases.items():  # a search leaves them out
                aliases.setdefault(str(version), []).append(alias)
            searched = client.search_model_versions(_filter(model), 1000)
            found = [self._version(each) for each in searched if each.name == model]
            named = [replace(each, aliases=tuple(sorted(aliases.get(each.number, ())))) for each in found]
            return sorted(named, key=lambda each: int(each.number))

    def models(self) -> list[str]:
        """The names of all registered models."""
        with self._mlflow.translated("model", "*"):
            return sorted(each.name for each in self._mlflow.client.search_registered_models(max_results=1000))

    def load(self, version: ModelVersion) -> LoadedModel:
        """Brings a version to this machine and into memory."""
        with self._mlflow.translated("model version", f"{version.model}/{version.version}"):
            import mlflow.artifacts

            client, uris = self._mlflow.client, (self._mlflow.tracking_uri, self._mlflow.registry_uri)
            self._found(version)
            source = client.get_model_version_download_uri(version.model, version.number)
            location = resolve_source(client, source).location
            path = Path(mlflow.artifacts.download_artifacts(location, tracking_uri=uris[0], registry_uri=uris[1]))
            return load_folder(path, version, trusted=self._mlflow.is_trusted)

    def register(
        self,
        model: str,
        estimator: Any,
        *,
        signature: dict[str, Any] | None,
        example: pd.DataFrame | None,
        answers_with: str = "predict",
        reference: pa.Table,
        trained_until: datetime,
        source: DataSource,
        metrics: dict[str, float],
        params: dict[str, str],
        now: datetime,
        requirements: Sequence[str] = (),
        tags: dict[str, str] | None = None,
    ) -> ModelVersion:
        """Makes a new version of a scikit-learn model, with the run, data and metrics it came from.

        Without a `signature` one is inferred from `example` (some inputs, kept with the model) and its answers.
        `reference` rows are kept with the version. No alias is set: that is a promotion.
        """
        with self._mlflow.translated("model", model):
            from mlflow.models import ModelSignature, infer_signature

            described = (
                ModelSignature.from_dict(signature)
                if signature is not None
                else infer_signature(example, getattr(estimator, answers_with)(example))
            )
            run_id = self.lineage.start(f"train {model}", now, {TAG + "kind": "training", TAG + "model": model})
            with tempfile.TemporaryDirectory() as folder:
                model_id, location = save_sklearn(
                    self._mlflow.client,
                    self._mlflow.experiment_id,
                    run_id,
                    estimator,
                    folder=Path(folder),
                    name=model,
                    signature=described,
                    answers_with=answers_with,
                    example=example,
                    requirements=requirements,
                )
            self.lineage.describe(run_id, params=params, metrics=metrics, source=source, model_id=model_id, now=now)
            self.lineage.end(run_id, now)
            self._ensure_model(model)
            made = self._create(
                model,
                ModelSource(location, run_id, model_id),
                {
                    TRAINED_UNTIL: trained_until.isoformat(),
                    **{TAG + name: each for name, each in (tags or {}).items()},
                },
            )
            version = self._version(made)
        self.keep_reference(version, reference, now)
        return version

    def adopt(self, model: str, source: str) -> ModelVersion:
        """Registers what `runs:/…/model`, `models:/m-…`, `models:/name/1` or a folder is as a version."""
        with self._mlflow.translated("model source", source):
            found = resolve_source(self._mlflow.client, source)
            self._ensure_model(model)
            return self._version(self._create(model, found, {}))

    def keep_reference(self, version: ModelVersion, rows: pa.Table, now: datetime) -> None:
        """Keeps reference rows with a version, as an artifact of its run (or of one made for this)."""
        import pyarrow.parquet as pq

        with self._mlflow.translated("model version", str(version)), tempfile.TemporaryDirectory() as folder:
            run_id = version.run_id
            if run_id is None:
                kind = {TAG + "kind": "reference", TAG + "model": version.model, TAG + "version": version.version}
                run_id = self.lineage.start(f"reference of {version}", now, kind)
                self.lineage.end(run_id, now)
            path = Path(folder) / _reference_file(version)
            pq.write_table(rows, path)
            self._mlflow.client.log_artifact(run_id, str(path), FOLDER)
        self.tag(version, {REFERENCE_RUN: run_id})

    def replace_reference(self, version: ModelVersion, rows: pa.Table) -> None:
        """Puts other reference rows in the place of those that are kept with a version."""
        import pyarrow.parquet as pq

        with self._mlflow.translated("reference", str(version)), tempfile.TemporaryDirectory() as folder:
            tags = self._found(version).tags
            path = Path(folder) / _reference_file(version)
            pq.write_table(rows, path)
            self._mlflow.client.log_artifact(tags[TAG + REFERENCE_RUN], str(path), FOLDER)

    def reference_rows(self, version: ModelVersion) -> pa.Table | None:
        """The reference rows that are kept with a version, or None where it has none."""
        import pyarrow.parquet as pq

        with self._mlflow.translated("reference", str(version)), tempfile.TemporaryDirectory() as folder:
            tags = self._found(version).tags
            if TAG + REFERENCE_RUN not in tags:
                return None
            file = f"{FOLDER}/{_reference_file(version)}"
            return pq.read_table(self._mlflow.client.download_artifacts(tags[TAG + REFERENCE_RUN], file, folder))

    def keep_proof(self, version: ModelVersion, proof: dict[str, Any], *, engine: str, now: datetime) -> None:
        """Keeps a proof with a version: an artifact of its monitoring run, and what it says as tags."""
        import json

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"proof-{version.version}.json"
            path.write_text(json.dumps(proof, indent=2, allow_nan=True))
            self.lineage.log_files(version, [path], FOLDER, now)
        tags = {"engine": engine, "proof": "holds" if proof["holds"] else f"fails: {proof['reason']}"}
        self.tag(version, {**tags, "proof_max_difference": f"{proof['max_difference']:.3g}"})

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Points an alias to a version. Last write wins in MLflow: the fence is in the store."""
        with self._mlflow.translated("model version", f"{model}/{version}"):
            self.find(Reference(model, version=version), exactly=True)
            self._mlflow.client.set_registered_model_alias(model, alias, number_of(version))

    def tag(self, version: ModelVersion, tags: dict[str, str]) -> None:
        """Sets tags (without our prefix in their names) on a version."""
        with self._mlflow.translated("model version", f"{version.model}/{version.version}"):
            self._found(version)
            for name, value in tags.items():
                self._mlflow.client.set_model_version_tag(version.model, version.number, TAG + name, value)

    def _version(self, found: Any) -> ModelVersion:
        return _version(found, self._name)

    def _found(self, version: ModelVersion) -> Any:
        """A version as MLflow has it now; raises NotFound where another bears its number by now."""
        found = self._mlflow.client.get_model_version(version.model, version.number)
        if _version(found).created_at != version.created_at:
            raise _made_anew(version.model, version.version)
        return found

    def _create(self, model: str, source: ModelSource, tags: dict[str, str]) -> Any:
        place = source.registered_as(is_server=self._mlflow.is_server)
        return self._mlflow.client.create_model_version(
            model, place, run_id=source.run_id, model_id=source.model_id, tags=tags
        )

    def _ensure_model(self, model: str) -> None:
        client = self._mlflow.client
        if all(each.name != model for each in client.search_registered_models(_filter(model), 1000)):
            client.create_registered_model(model)


def _reference_file(version: ModelVersion) -> str:
    return f"reference-{version.version}.parquet"


def _filter(name: str) -> str | None:
    """The versions of a model: MLflow's filters have two kinds of quotes, and no escape for a name with both."""
    quote = '"' if "'" in name else "'"
    return f"name = {quote}{name}{quote}" if quote not in name else None


def _made_anew(model: str, version: str) -> NotFound:
    return NotFound(
        "model version", f"{model}/{version}", cure="Its registered model was deleted and made anew since."
    )


def _plain(model: str, number: str, created_at: datetime) -> str:
    """What a version is called where nothing is remembered of those before it."""
    del model, created_at
    return number


def _version(found: Any, name: NameVersion = _plain) -> ModelVersion:
    created_at = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return ModelVersion(
        model=found.name,
        version=name(found.name, str(found.version), created_at),
        run_id=found.run_id or None,
        created_at=created_at,
        aliases=tuple(found.aliases or ()),
        tags=dict(found.tags or {}),
    )
