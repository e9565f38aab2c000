"""The registry: find a version, load it, register one, set an alias."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import structlog

from feedback_loop.config import RegistrySettings, Settings
from feedback_loop.errors import BadInput, NotFound, Refused
from feedback_loop.registry.candidates import Proven, write_candidate
from feedback_loop.registry.client import Connection, page_at
from feedback_loop.registry.lineage import Lineage, Origin
from feedback_loop.registry.loading import load_folder
from feedback_loop.registry.sklearn_model import save_sklearn, serializations
from feedback_loop.registry.sources import ModelSource, resolve_source
from feedback_loop.registry.versions import TAG, LoadedModel, ModelVersion, Reference, number_of
from feedback_loop.registry.webhooks import Webhooks
from feedback_loop.safe_text import without_secrets

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

NameVersion = Callable[[str, str, datetime], str]
"""What the version of a model is called here, by its number and when it was made: it is kept by that everywhere."""

REFERENCE_RUN = "reference_run"
"""The tag with the run whose artifacts hold a version's reference rows."""

REFERENCE_FILE = "reference_file"
"""The tag with what the file of these is called."""

FOLDER = "feedback_loop"
"""The folder of a run's artifacts that ours are in."""

_log = structlog.get_logger(__name__)


class Registry:
    """An MLflow registry. Nothing is imported or reached before the first call; methods raise Unavailable."""

    def __init__(self, connection: Connection, name: NameVersion | None = None) -> None:
        self._mlflow = connection
        self._name = name or _plain
        self.lineage, self.webhooks = Lineage(connection), Webhooks(connection)

    @classmethod
    def of(cls, settings: Settings, name: NameVersion | None = None) -> Registry:
        """The registry that the configuration names; `name` says what versions are called here."""
        wanted: RegistrySettings = settings.registry
        uris = (settings.url(wanted.tracking_uri), settings.url(wanted.registry_uri))
        place = settings.path(wanted.artifact_root)
        return cls(Connection(*uris, place, wanted.experiment, trusted=wanted.trusted), name)

    @property
    def name(self) -> str:
        """Where it is, as it may be shown."""
        return without_secrets(self._mlflow.tracking_uri)

    def page_of(self, model: str, version: str) -> str:
        """The address of MLflow's own page about a version; empty where there is no server that has pages."""
        return page_at(self._mlflow.registry_uri, f"models/{quote(model, safe='')}/versions/{number_of(version)}")

    def page_of_run(self, run_id: str | None) -> str:
        """The address of MLflow's own page about a run; empty where there is none."""
        return page_at(self._mlflow.tracking_uri, f"runs/{run_id}") if run_id is not None else ""

    @property
    def has_server(self) -> bool:
        """Whether it is a server, and no database alone."""
        return self._mlflow.is_server

    @property
    def is_trusted(self) -> bool:
        """Whether models of it may hold code."""
        return self._mlflow.is_trusted

    def find(self, reference: Reference, *, exactly: bool = False) -> ModelVersion:
        """The version that is meant; raises NotFound.

        `exactly`, for names of our own: `1` is never a version 1 of a registered model that was made anew since.
        """
        name = reference.model
        if reference.version is not None:
            with self._mlflow.translated("model version", f"{name}/{reference.version}"):
                entry = self._mlflow.client.get_model_version(name, number_of(reference.version))
                version = self._version(entry)
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
                command = f"promote {name} VERSION" if alias == "champion" else "list"
                cure = f"Give it to a version, or another name: feedback-loop models {command}."
                raise NotFound("model with that alias", f"{name}@{alias}", cure=cure) from error

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
            versions = [self._version(version) for version in searched if version.name == model]
            named = [replace(version, aliases=tuple(sorted(aliases.get(version.number, ())))) for version in versions]
            return sorted(named, key=lambda version: int(version.number))

    def models(self) -> list[str]:
        """The names of all registered models."""
        with self._mlflow.translated("model", "*"):
            return sorted(model.name for model in self._mlflow.client.search_registered_models(max_results=1000))

    def load(self, version: ModelVersion) -> LoadedModel:
        """Brings a version to this machine and into memory."""
        with self._mlflow.translated("model version", f"{version.model}/{version.version}"):
            import mlflow.artifacts

            client, uris = self._mlflow.client, (self._mlflow.tracking_uri, self._mlflow.registry_uri)
            self._found(version)
            source = client.get_model_version_download_uri(version.model, version.number)
            location = resolve_source(client, source).location
            path = Path(mlflow.artifacts.download_artifacts(location, tracking_uri=uris[0], registry_uri=uris[1]))
            return load_folder(path, version, trusted=self.is_trusted)

    def register(
        self,
        model: str,
        estimator: Any,
        origin: Origin,
        now: datetime,
        *,
        example: pd.DataFrame,
        answers_with: str = "predict",
    ) -> ModelVersion:
        """Makes a first version of a scikit-learn model, with the run, data and metrics it came from.

        Its signature is inferred from `example` (some inputs, kept with the model) and its answers. No alias is set:
        that is a promotion. Raises BadInput for a reference of a classifier without its probabilities: nothing could
        be judged by it.
        """
        columns = origin.reference.column_names
        if hasattr(estimator, "predict_proba") and not any("probability" in name for name in columns):
            cure = "Add probability (of the positive class), or probability_<class> for each."
            raise BadInput.of("reference", f"has no probabilities, only {', '.join(columns)}", cure=cure)
        with self._mlflow.translated("model", model), tempfile.TemporaryDirectory() as folder:
            from mlflow.models import infer_signature

            signature = infer_signature(example, getattr(estimator, answers_with)(example))
            path = Path(folder) / "model"
            kind = next(iter(serializations(estimator)))
            save_sklearn(estimator, path, signature=signature, answers_with=answers_with, kind=kind, example=example)
            return self._publish(model, path, origin, now)

    def register_candidate(self, candidate: Proven, origin: Origin, now: datetime) -> ModelVersion:
        """Makes a new version of a candidate: by its predecessor's name, with the code and metadata of that one.

        A fresh process has loaded it first. All or nothing: what fails on the way leaves no version. Raises Refused
        where it can't be loaded elsewhere, and Unavailable.
        """
        model = candidate.parent.version.model
        with self._mlflow.translated("model", model), tempfile.TemporaryDirectory() as folder:
            return self._publish(model, write_candidate(candidate, Path(folder)), origin, now)

    def end_abandoned(self, model: str, now: datetime) -> list[str]:
        """Ends the runs of searches and registrations whose processes died, or could not; returns their ids."""
        return self.lineage.runs.end_abandoned(model, now)

    def unregister(self, version: ModelVersion, now: datetime) -> None:
        """Takes a version of ours back that nobody could take note of."""
        with self._mlflow.translated("model version", str(version)):
            assert version.run_id is not None  # what we register comes of a run
            self.lineage.runs.fail(version.run_id, now)

    def _publish(self, model: str, path: Path, origin: Origin, now: datetime) -> ModelVersion:
        """Makes a version of what lies in a folder: at the last step, when all that belongs to it is there."""
        import pyarrow.parquet as pq

        client = self._mlflow.client
        kind = {TAG + "kind": "training", TAG + "model": model}
        run_id = self.lineage.runs.start(f"train {model}", now, {**kind, **_tags(origin.tags)})
        try:
            model_id, location = self._log_model(run_id, model, path)
            self.lineage.describe(run_id, model, origin, model_id=model_id, now=now)
            file = path.with_name("reference.parquet")
            pq.write_table(origin.reference, file)
            client.log_artifact(run_id, str(file), FOLDER)
            self.lineage.runs.end(run_id, now)
            self._ensure_model(model)
            tags = {
                "trained_until": origin.trained_until.isoformat(),
                REFERENCE_RUN: run_id,
                REFERENCE_FILE: file.name,
                **origin.tags,
            }
            return self._version(self._create(model, ModelSource(location, run_id, model_id), _tags(tags)))
        except BaseException:
            self._take_back(run_id, now)
            raise

    def _take_back(self, run_id: str, now: datetime) -> None:
        try:
            self.lineage.runs.fail(run_id, now)
        except Exception as error:  # noqa: BLE001 (the first error is raised; the next registration ends this run)
            _log.warning("registration_not_taken_back", run_id=run_id, cause=repr(error))

    def _log_model(self, run_id: str, name: str, path: Path) -> tuple[str, str]:
        """Logs what lies in a folder as a model of that run; returns MLflow's model id and where its files are.

        This is what `mlflow.sklearn.log_model` does, by way of the client: no active run and no global URI is needed.
        """
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        client, described = self._mlflow.client, Model.load(str(path))
        plain = re.sub(r"[/:.%\"']", "_", name)  # a logged model's name is stricter than a registered one's
        logged = client.create_logged_model(self._mlflow.experiment_id, name=plain, source_run_id=run_id)
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        described.artifact_path = logged.artifact_location
        described.model_uuid = described.model_id = logged.model_id
        described.run_id = run_id
        described.save(str(path / "MLmodel"))
        client.log_model_artifacts(logged.model_id, str(path))
        client.finalize_logged_model(logged.model_id, "READY")
        return str(logged.model_id), str(logged.artifact_location)

    def adopt(self, model: str, source: str) -> ModelVersion:
        """Registers what `runs:/…/model`, `models:/m-…`, `models:/name/1` or a folder is as a version."""
        with self._mlflow.translated("model source", source):
            files = resolve_source(self._mlflow.client, source)
            self._ensure_model(model)
            return self._version(self._create(model, files, {}))

    def adopted(self, model: str, source: str) -> ModelVersion | None:
        """The newest version that is of these files already; None where `adopt` would make the first."""
        with self._mlflow.translated("model source", source):
            files, client = resolve_source(self._mlflow.client, source), self._mlflow.client
            place = files.registered_as(is_server=self._mlflow.is_server)
            same = [entry for entry in client.search_model_versions(_filter(model), 1000) if entry.source == place]
            newest = max((entry for entry in same if entry.name == model), key=_number, default=None)
            return self._version(newest) if newest is not None else None

    def keep_reference(self, version: ModelVersion, rows: pa.Table, now: datetime) -> None:
        """Keeps reference rows with a version, as an artifact of its run (or of one made for this)."""
        import pyarrow.parquet as pq

        with self._mlflow.translated("model version", str(version)), tempfile.TemporaryDirectory() as folder:
            run_id = version.run_id
            if run_id is None:
                kind = {TAG + "kind": "reference", TAG + "model": version.model, TAG + "version": version.version}
                run_id = self.lineage.runs.start(f"reference of {version}", now, kind)
                self.lineage.runs.end(run_id, now)
            path = Path(folder) / f"reference-{version.version}.parquet"
            pq.write_table(rows, path)
            self._mlflow.client.log_artifact(run_id, str(path), FOLDER)
        self.tag(version, {REFERENCE_RUN: run_id, REFERENCE_FILE: path.name})

    def replace_reference(self, version: ModelVersion, rows: pa.Table) -> None:
        """Puts other reference rows in the place of those that are kept with a version."""
        import pyarrow.parquet as pq

        with self._mlflow.translated("reference", str(version)), tempfile.TemporaryDirectory() as folder:
            tags = self._found(version).tags
            path = Path(folder) / _file_name(tags[TAG + REFERENCE_FILE])
            pq.write_table(rows, path)
            self._mlflow.client.log_artifact(tags[TAG + REFERENCE_RUN], str(path), FOLDER)

    def reference_rows(self, version: ModelVersion) -> pa.Table | None:
        """The reference rows that are kept with a version, or None where it has none."""
        import pyarrow.parquet as pq

        with self._mlflow.translated("reference", str(version)), tempfile.TemporaryDirectory() as folder:
            tags = self._found(version).tags
            if TAG + REFERENCE_RUN not in tags:
                return None
            file = f"{FOLDER}/{_file_name(tags[TAG + REFERENCE_FILE])}"
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

    def _version(self, entry: Any) -> ModelVersion:
        return _version(entry, self._name)

    def _found(self, version: ModelVersion) -> Any:
        """A version as MLflow has it now; raises NotFound where another bears its number by now."""
        entry = self._mlflow.client.get_model_version(version.model, version.number)
        if _version(entry).created_at != version.created_at:
            raise _made_anew(version.model, version.version)
        return entry

    def _create(self, model: str, source: ModelSource, tags: dict[str, str]) -> Any:
        place = source.registered_as(is_server=self._mlflow.is_server)
        return self._mlflow.client.create_model_version(
            model, place, run_id=source.run_id, model_id=source.model_id, tags=tags
        )

    def _ensure_model(self, model: str) -> None:
        client = self._mlflow.client
        if all(registered.name != model for registered in client.search_registered_models(_filter(model), 1000)):
            client.create_registered_model(model)


def _file_name(text: str) -> str:
    """A file's name by a tag, which anybody may have set who can write to the registry; raises Refused for a path."""
    if text in ("", ".", "..") or "/" in text or "\\" in text:
        raise Refused(f"The tag {TAG + REFERENCE_FILE} is {text!r}, which is no file's name.", cure="Mend that tag.")
    return text


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {TAG + name: value for name, value in tags.items()}


def _number(entry: Any) -> int:
    return int(entry.version)


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


def _version(entry: Any, name: NameVersion = _plain) -> ModelVersion:
    if not re.fullmatch(r"\d+", str(entry.version), re.ASCII):  # it names folders
        raise Refused(f"The registry calls a version of {entry.name} {entry.version!r}, which is no number.")
    created_at = datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC)
    return ModelVersion(
        model=entry.name,
        version=name(entry.name, str(entry.version), created_at),
        run_id=entry.run_id or None,
        created_at=created_at,
        aliases=tuple(entry.aliases or ()),
        tags=dict(entry.tags or {}),
    )
