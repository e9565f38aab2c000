"""Runs in MLflow that show the loop: what a version was trained on, and how it fared since."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from feedback_loop.registry.client import NOT_THERE, Connection
from feedback_loop.registry.versions import TAG, ModelVersion

if TYPE_CHECKING:
    import pyarrow as pa


EVALUATED = {"evaluation", "eval", "validation", "test", "testing"}
"""In which context a dataset is logged that a version was not trained on."""


@dataclass(frozen=True)
class Origin:
    """Where a version comes from: the rows it learned from, and how it did on `reference` rows it had not seen."""

    place: str
    rows: int
    trained_until: datetime
    reference: pa.Table
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    trained_from: str = ""
    digest: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def source(self, model: str, now: datetime) -> dict[str, str | int]:
        """Enough to read exactly the same training rows again."""
        return {
            "name": model,
            "place": self.place,
            "rows": self.rows,
            "trained_from": self.trained_from,
            "trained_until": self.trained_until.isoformat(),
            "as_of": now.isoformat(),
            "digest": self.digest,
        }


class Lineage:
    """Writes runs, through the client and without an active run."""

    def __init__(self, connection: Connection) -> None:
        self._mlflow = connection
        self._monitoring_runs: dict[tuple[str, str], str] = {}

    def evaluation_files(self, version: ModelVersion) -> list[Path]:
        """The files on this machine that the version's run logged as what it was evaluated on, as MLflow keeps them.

        By `mlflow.log_input(dataset, context="evaluation")`, or an evaluation of MLflow's.
        """
        if version.run_id is None:
            return []
        with self._mlflow.translated("run", version.run_id):
            run = self._mlflow.client.get_run(version.run_id)
        files = []
        for entry in run.inputs.dataset_inputs if run.inputs is not None else ():
            contexts = {tag.value for tag in entry.tags if tag.key == "mlflow.data.context"}
            if contexts & EVALUATED and entry.dataset.source_type == "local":
                uri = str(json.loads(entry.dataset.source).get("uri", ""))
                files.append(Path(uri.removeprefix("file://")))
        return [path for path in files if path.is_file()]

    def start(self, name: str, now: datetime, tags: Mapping[str, str]) -> str:
        """Begins a run; returns its id."""
        run = self._mlflow.client.create_run(
            self._mlflow.experiment_id, start_time=_milliseconds(now), tags=dict(tags), run_name=name
        )
        return str(run.info.run_id)

    def end(self, run_id: str, now: datetime) -> None:
        """Ends a run well."""
        self._mlflow.client.set_terminated(run_id, "FINISHED", end_time=_milliseconds(now))

    def end_abandoned(self, model: str, now: datetime) -> None:
        """Ends what registrations whose process died, or that could not clean up, have begun: as failed."""
        wanted = f"tags.`{TAG}kind` = 'training' and tags.`{TAG}model` = '{_escaped(model)}'"
        wanted += " and attributes.status = 'RUNNING'"
        with self._mlflow.translated("model", model):
            for run in self._mlflow.client.search_runs([self._mlflow.experiment_id], wanted):
                self.fail(run.info.run_id, now)

    def fail(self, run_id: str, now: datetime) -> None:
        """Ends a run and the models that it has logged as failed, and takes versions of these back."""
        client = self._mlflow.client
        for version in client.search_model_versions(f"run_id = '{run_id}'"):
            client.delete_model_version(version.name, version.version)
        for model in client.search_logged_models([self._mlflow.experiment_id], f"source_run_id = '{run_id}'"):
            client.finalize_logged_model(model.model_id, "FAILED")
        client.set_terminated(run_id, "FAILED", end_time=_milliseconds(now))

    def describe(self, run_id: str, model: str, origin: Origin, *, model_id: str, now: datetime) -> None:
        """Writes how a version was trained, on which data, and how well it did on rows that it had not seen."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

        data = Dataset(
            name=model,
            digest=origin.digest,
            source_type="feedback-loop",
            source=json.dumps(origin.source(model, now)),
            profile=json.dumps({"num_rows": origin.rows}),
        )
        self._mlflow.client.log_inputs(
            run_id, datasets=[DatasetInput(data, tags=[InputTag("mlflow.data.context", "training")])]
        )
        stamp = _milliseconds(now)
        self._mlflow.client.log_batch(
            run_id,
            params=[Param(name, value[:6000]) for name, value in origin.params.items()],
            metrics=[
                Metric(name, value, stamp, 0, model_id=model_id) for name, value in _named(origin.metrics).items()
            ],
        )

    def log_metrics(
        self, version: ModelVersion, metrics: Mapping[str, float], moment: datetime, now: datetime
    ) -> None:
        """Adds one window's metrics to the version's monitoring run: MLflow's page draws them over time.

        What is of one class (`f1[a]`) is called `f1/a` there, without what MLflow takes in no name.
        """
        from mlflow.entities import Metric

        with self._mlflow.translated("run", str(version)):
            stamp = _milliseconds(moment)
            step = stamp // 3_600_000
            values = [Metric(name, value, stamp, step) for name, value in _named(metrics).items()]
            self._mlflow.client.log_batch(self._monitoring_run(version, now), metrics=values)

    def log_files(self, version: ModelVersion, paths: Sequence[Path], folder: str, now: datetime) -> None:
        """Adds files, such as reports, to the version's monitoring run."""
        with self._mlflow.translated("run", str(version)):
            run_id = self._monitoring_run(version, now)
            for path in paths:
                self._mlflow.client.log_artifact(run_id, str(path), folder)

    def fetch_files(self, version: ModelVersion, folder: str, suffix: str, target: Path) -> None:
        """Brings the files of a folder of the version's monitoring run (those that end so) into `target`."""
        with self._mlflow.translated("run", str(version)):
            run_id = self._find_monitoring_run(version)
            for file in self._mlflow.client.list_artifacts(run_id, folder) if run_id is not None else ():
                if file.path.endswith(suffix):
                    brought = Path(self._mlflow.client.download_artifacts(run_id, file.path, str(target)))
                    brought.replace(target / brought.name)

    def delete_file(self, version: ModelVersion, path: str) -> bool:
        """Deletes a file of the version's monitoring run; False where the place that it lies in knows no deletion."""
        with self._mlflow.translated("run", str(version)):
            from mlflow.exceptions import MlflowException
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            run_id = self._find_monitoring_run(version)
            assert run_id is not None  # the file was found in it
            place = self._mlflow.client.get_run(run_id).info.artifact_uri
            repository = get_artifact_repository(place, tracking_uri=self._mlflow.tracking_uri)
            with suppress(NotImplementedError, MlflowException):
                repository.delete_artifacts(path)
            folder = path.rpartition("/")[0]
            return path not in {file.path for file in self._mlflow.client.list_artifacts(run_id, folder)}

    def _monitoring_run(self, version: ModelVersion, now: datetime) -> str:
        """The run that is there, else one that is made anew: somebody may have deleted it since it was last used."""
        key = (version.model, version.version)
        if not self._is_active(self._monitoring_runs.get(key)):
            self._monitoring_runs[key] = self._find_monitoring_run(version) or self.start(
                f"monitor {version}",
                now,
                {TAG + "kind": "monitoring", TAG + "model": version.model, TAG + "version": version.version},
            )
        return self._monitoring_runs[key]

    def _is_active(self, run_id: str | None) -> bool:
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return False
        try:
            return str(self._mlflow.client.get_run(run_id).info.lifecycle_stage) == "active"
        except MlflowException as error:
            if error.error_code in NOT_THERE:
                return False
            raise

    def _find_monitoring_run(self, version: ModelVersion) -> str | None:
        wanted = f"tags.`{TAG}kind` = 'monitoring' and tags.`{TAG}model` = '{_escaped(version.model)}'"
        wanted += f" and tags.`{TAG}version` = '{version.version}'"
        runs = self._mlflow.client.search_runs([self._mlflow.experiment_id], wanted, max_results=1)
        return str(runs[0].info.run_id) if runs else None


def _named(metrics: Mapping[str, float]) -> dict[str, float]:
    """Figures by names that MLflow takes, and that stay apart: `f1/a` for `f1[a]`, `_` for what else it refuses."""
    named: dict[str, float] = {}
    for name, value in metrics.items():
        metric, of_class, label = name.partition("[")
        plain = re.sub(r"[^\w\- :]", "_", label.removesuffix("]"))
        plain = (f"{metric}/{plain or '_'}" if of_class else re.sub(r"[^\w .:-]", "_", name))[:250]
        apart, count = plain, 1
        while apart in named:
            count += 1
            apart = f"{plain[:245]}_{count}"
        named[apart] = value
    return named


def _escaped(text: str) -> str:
    return text.replace("'", "\\'")


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
