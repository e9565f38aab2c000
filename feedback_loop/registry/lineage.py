"""Runs in MLflow that show the loop: what a version was trained on, and how it fared since."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from feedback_loop.errors import NotFound
from feedback_loop.registry.client import NOT_THERE, Connection
from feedback_loop.registry.runs import MONITORING, Runs, escaped, milliseconds
from feedback_loop.registry.versions import TAG, ModelVersion
from feedback_loop.run_tags import as_variables

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow.entities import Metric


EVALUATED = {"evaluation", "eval", "validation", "test", "testing"}
"""In which context a dataset is logged that a version was not trained on."""


MOST_METRICS = 1000
"""MLflow takes so many in one call."""

SOURCE_TYPE = "feedback-loop"
"""What MLflow calls the kind of source that our data sets have."""


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
    rules: Mapping[str, str | int] = field(default_factory=dict)  # by which the rows were taken

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
            **self.rules,
        }


@dataclass(frozen=True)
class TrialRun:
    """A trial of a search as MLflow shows it. `cause` says why it failed; empty: it did not."""

    name: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    cause: str = ""
    run_id: str = ""  # where it is there already


class Lineage:
    """Writes runs, through the client and without an active run."""

    def __init__(self, connection: Connection) -> None:
        self._mlflow = connection
        self.runs = Runs(connection)
        self._monitoring_runs: dict[tuple[str, str], str] = {}

    def origin_of(self, version: ModelVersion) -> dict[str, str]:
        """What its run says of how it was trained: parameters, and which rows; empty where there is no such run."""
        if version.run_id is None or not self._is_active(version.run_id):
            return {}
        with self._mlflow.translated("run", version.run_id):
            run = self._mlflow.client.get_run(version.run_id)
        origin: dict[str, str] = dict(run.data.params)
        for entry in run.inputs.dataset_inputs if run.inputs is not None else ():
            contexts = {tag.value for tag in entry.tags if tag.key == "mlflow.data.context"}
            if "training" in contexts:
                source = json.loads(entry.dataset.source)
                origin |= {name: str(value) for name, value in source.items() if name not in ("name", "place")}
        return origin

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

    def training_source(self, version: ModelVersion) -> dict[str, str | int]:
        """Which rows of ours a version was trained on, as `Origin.source` says it; raises NotFound."""
        missing = NotFound(
            "training rows of", str(version), cure="Only versions that a retraining has made have them."
        )
        if version.run_id is None:
            raise missing
        with self._mlflow.translated("run", version.run_id):
            inputs = self._mlflow.client.get_run(version.run_id).inputs
        for entry in inputs.dataset_inputs if inputs is not None else ():
            source: dict[str, str | int] = json.loads(entry.dataset.source)
            if entry.dataset.source_type == SOURCE_TYPE and "until" in source:
                return source
        raise missing

    @contextmanager
    def search(self, model: str, now: datetime) -> Iterator[str]:
        """A run of a search, which lasts as long as the block; its id, by which trials are logged."""
        kind = {TAG + "kind": "search", TAG + "model": model}
        with self.runs.running(f"search {model}", now, kind) as run_id:
            yield run_id

    @contextmanager
    def trial(self, model: str, search: str, name: str, now: datetime) -> Iterator[str]:
        """A run within a search's for as long as a fit takes; its id."""
        tags = {TAG + "kind": "trial", TAG + "model": model, "mlflow.parentRunId": search}
        with self.runs.running(name, now, tags) as run_id:
            yield run_id

    def log_output(self, run_id: str, path: Path) -> None:
        """Adds what a program has printed to its run, or replaces what is there of it."""
        with self._mlflow.translated("run", run_id):
            self._mlflow.client.log_artifact(run_id, str(path))

    def variables(self, run_id: str) -> dict[str, str]:
        """The variables by which MLflow in another process finds this server, and that run as its own.

        Further runs that it begins get the tags of this moment.
        """
        connection = self._mlflow
        uris = {"MLFLOW_TRACKING_URI": connection.tracking_uri, "MLFLOW_REGISTRY_URI": connection.registry_uri}
        run = {"MLFLOW_EXPERIMENT_ID": connection.experiment_id, "MLFLOW_RUN_ID": run_id}
        return {**uris, **run, **as_variables()}

    def log_trials(self, model: str, search: str, trials: Sequence[TrialRun], now: datetime) -> None:
        """Writes a run within a search's for each trial; where it has one already, what is known of it by now."""
        from mlflow.entities import Metric, Param

        client, stamp = self._mlflow.client, milliseconds(now)
        with self._mlflow.translated("model", model):
            for trial in trials:
                tags = {TAG + "kind": "trial", TAG + "model": model, "mlflow.parentRunId": search}
                run_id = trial.run_id or self.runs.start(trial.name, now, tags)
                with self.runs.leaving(run_id):
                    if trial.cause:
                        client.set_tag(run_id, TAG + "cause", trial.cause[:5000])
                    client.log_batch(
                        run_id,
                        params=[Param(name, value[:6000]) for name, value in trial.params.items()],
                        metrics=[Metric(name, value, stamp, 0) for name, value in trial.metrics.items()],
                    )
                    ended = now + timedelta(seconds=trial.metrics.get("seconds", 0))
                    self.runs.end(run_id, ended, "FAILED" if trial.cause else "FINISHED")

    def describe(self, run_id: str, model: str, origin: Origin, *, model_id: str, now: datetime) -> None:
        """Writes how a version was trained, on which data, and how well it did on rows that it had not seen."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

        data = Dataset(
            name=model,
            digest=origin.digest,
            source_type=SOURCE_TYPE,
            source=json.dumps(origin.source(model, now)),
            profile=json.dumps({"num_rows": origin.rows}),
        )
        self._mlflow.client.log_inputs(
            run_id, datasets=[DatasetInput(data, tags=[InputTag("mlflow.data.context", "training")])]
        )
        stamp = milliseconds(now)
        self._mlflow.client.log_batch(
            run_id,
            params=[Param(name, value[:6000]) for name, value in origin.params.items()],
            metrics=[
                Metric(name, value, stamp, 0, model_id=model_id)
                for name, value in mlflow_names(origin.metrics).items()
            ],
        )

    def log_metrics(
        self,
        version: ModelVersion,
        metrics: Mapping[str, float],
        moment: datetime,
        now: datetime,
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Adds one moment's metrics to the version's monitoring run; see `log_windows`."""
        self.log_windows(version, [(moment, metrics)], now, tags)

    def log_windows(
        self,
        version: ModelVersion,
        points: Sequence[tuple[datetime, Mapping[str, float]]],
        now: datetime,
        tags: Mapping[str, str] = MappingProxyType({}),
        file: tuple[str, Any] | None = None,
    ) -> None:
        """Adds the metrics of windows, by when they begin, to the version's monitoring run, whose page draws them.

        In as few calls as MLflow takes; `tags` are set, and `file` (its name, and what becomes JSON) is put there.
        What is of one class (`f1[a]`) is called `f1/a` there, without what MLflow takes in no name.
        """
        from mlflow.entities import RunTag

        client = self._mlflow.client
        with self._mlflow.translated("run", str(version)):
            run_id = self._monitoring_run(version, now)
            values = [value for moment, metrics in points for value in _metrics(metrics, moment)]
            shown = [RunTag(name, value[:5000]) for name, value in tags.items()]
            for start in range(0, max(len(values), 1), MOST_METRICS):
                client.log_batch(
                    run_id, metrics=values[start : start + MOST_METRICS], tags=shown if not start else ()
                )
            if file is not None:
                client.log_dict(run_id, file[1], file[0])

    def log_verdict(
        self,
        version: ModelVersion,
        words: str,
        tags: Mapping[str, str],
        metrics: Mapping[str, float],
        details: Mapping[str, Any],
        now: datetime,
    ) -> str:
        """Writes a run, which is over, within the version's monitoring run for a verdict; returns its id.

        `details`, what it rests on, are its file `verdict.json`.
        """
        own = {TAG + "kind": "verdict", TAG + "model": version.model, TAG + "version": version.version}
        with self._mlflow.translated("run", str(version)):
            own["mlflow.parentRunId"] = self._monitoring_run(version, now)
            run_id = self.runs.start(words, now, {**own, **{name: text[:5000] for name, text in tags.items()}})
            with self.runs.leaving(run_id):
                self._mlflow.client.log_batch(run_id, metrics=_metrics(metrics, now))
                self._mlflow.client.log_dict(run_id, dict(details), "verdict.json")
                self.runs.end(run_id, now)
        return run_id

    def log_promotion(self, version: ModelVersion, kind: str, tags: Mapping[str, str], moment: datetime) -> str:
        """Writes a run, which is over, for a promotion of that kind; returns its id."""
        own = {TAG + "kind": "promotion", TAG + "model": version.model}
        with self._mlflow.translated("run", str(version)):
            run_id = self.runs.start(f"{kind} {version}", moment, {**own, **tags})
            self.runs.end(run_id, moment)
        return run_id

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
            self._monitoring_runs[key] = self._find_monitoring_run(version) or self._start_monitoring(version, now)
        return self._monitoring_runs[key]

    def _start_monitoring(self, version: ModelVersion, now: datetime) -> str:
        """A run that is FINISHED from the start: figures are added to it for as long as the version is watched."""
        tags = {TAG + "kind": MONITORING, TAG + "model": version.model, TAG + "version": version.version}
        run_id = self.runs.start(f"monitor {version}", now, tags)
        self.runs.end(run_id, now)
        return run_id

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
        wanted = f"tags.`{TAG}kind` = '{MONITORING}' and tags.`{TAG}model` = '{escaped(version.model)}'"
        wanted += f" and tags.`{TAG}version` = '{version.version}'"
        runs = self._mlflow.client.search_runs([self._mlflow.experiment_id], wanted, max_results=1)
        return str(runs[0].info.run_id) if runs else None


def _metrics(metrics: Mapping[str, float], moment: datetime) -> list[Metric]:
    """Figures of a moment; those of an hour have one place on MLflow's axis of steps."""
    from mlflow.entities import Metric

    stamp = milliseconds(moment)
    return [Metric(name, value, stamp, stamp // 3_600_000) for name, value in mlflow_names(metrics).items()]


def mlflow_names(metrics: Mapping[str, float]) -> dict[str, float]:
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
