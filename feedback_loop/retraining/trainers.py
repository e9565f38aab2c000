"""A trainer of the user's own: it runs in a process of its own, within limits, and its model is a trial like any."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from feedback_loop.clock import Window
from feedback_loop.config_policy import TrainerSettings
from feedback_loop.errors import ContractError, FeedbackLoopError
from feedback_loop.inference import without_data
from feedback_loop.progress import Progress
from feedback_loop.registry import LoadedModel, Registry, load_folder
from feedback_loop.retraining.dataset import TrainingRows
from feedback_loop.retraining.parallel import THREADS, Fitted, cores
from feedback_loop.retraining.split import moment_of
from feedback_loop.retraining.supervised import Limits, run_supervised
from feedback_loop.retraining.trainer_data import INPUTS, PARAMS, ROWS, write_dataset, write_rows
from feedback_loop.safe_text import as_text
from feedback_loop.schema import feature_columns

_log = structlog.get_logger(__name__)

TRAINER = "trainer"
"""The kind of its trials."""

LOG = "trainer.log"
"""What it prints, as a file of its run in MLflow."""

SHOWN = 2_000
"""So many of the last letters that it printed are kept with the trial."""


class _Failed(Exception):
    """Why there is no model, in words."""


@dataclass(frozen=True)
class Trainer:
    """A trainer as a search runs it. Its folder, its imports and the project start from `home`."""

    settings: TrainerSettings
    home: Path
    limit: timedelta
    registry: Registry
    progress: Progress
    now: datetime
    search: str = ""  # the run in MLflow that its own are part of
    check: Callable[[], object] = lambda: None  # called now and then while it runs; what it raises ends it
    kept: Path | None = None  # where its models are until the search has ended

    def fit(self, rows: TrainingRows, seed: int) -> Fitted:
        """What it makes of these rows; where that is no model, why. What it prints is in MLflow as it comes."""
        fitted = Fitted()
        try:
            with self._run(rows) as run_id, tempfile.TemporaryDirectory() as name:
                fitted = self._fit(rows, seed, Path(name), run_id)
                _refuse_failure(fitted)
        except _Failed:  # so has its run ended
            return fitted
        return fitted

    @contextmanager
    def _run(self, rows: TrainingRows) -> Iterator[str]:
        model, name = rows.champion.contract.model, f"{TRAINER}, {len(rows):,} rows"
        with self.registry.lineage.trial(model, self.search, name, self.now) as run_id:
            yield run_id

    def _fit(self, rows: TrainingRows, seed: int, folder: Path, run_id: str) -> Fitted:
        output = _Output(folder / LOG, self, run_id)

        def report() -> None:
            self.check()
            output.report()

        made = Path(tempfile.mkdtemp(dir=self.kept))  # what is no estimator is registered as it lies there
        self._hand_over(rows, seed, folder, made, run_id)
        ended = run_supervised(
            folder / "job.json",
            folder=self.home,
            variables=self._variables(run_id),
            output=output.path,
            limits=Limits(self.limit.total_seconds(), self.settings.memory_limit),
            report=report,
        )
        fitted = Fitted(None, ended.seconds, log=output.last_words, peak_bytes=ended.peak_bytes, run_id=run_id)
        error = folder / "error.json"
        if ended.cause and error.is_file():
            told = json.loads(error.read_text())
            return replace(fitted, error=told["error"], words=told["words"])
        try:
            return replace(fitted, estimator=_taken(made, ended.cause, rows, self.registry))
        except _Failed as why:
            return replace(fitted, words=str(why))

    def _hand_over(self, rows: TrainingRows, seed: int, folder: Path, made: Path, run_id: str) -> None:
        """Writes the rows, and what the process is to run. MLflow writes into an empty folder, as `made` is."""
        times, settings = rows.times, self.settings
        window = Window(moment_of(times.min()), moment_of(times.max()) + timedelta(microseconds=1))
        threads: dict[str, Any] = {"seed": seed, "threads": cores()}
        if settings.function:
            write_dataset(rows, folder, window, self.now)
        else:
            write_rows(rows, folder, window, self.now, {**threads, "params": dict(settings.params)})
        paths = {"data": str(folder / ROWS), "params": str(folder / PARAMS), "model": str(made)}
        job = {
            "function": settings.function,
            "command": self._command(paths, run_id),
            "params": {**threads, **settings.params},
            "path": [str(self.home), *filter(None, sys.path)],
            "dataset": str(folder / INPUTS),
            "model": paths["model"],
            "error": str(folder / "error.json"),
            "folder": str(folder),
        }
        (folder / "job.json").write_text(json.dumps(job))

    def _command(self, paths: dict[str, str], run_id: str) -> list[str]:
        """The words of a command, or those by which MLflow runs a project; with where the files are."""
        settings = self.settings
        if settings.command:
            return [*settings.command, *(word for name, path in paths.items() for word in (f"--{name}", path))]
        if not settings.project:
            return []
        local = self.home / settings.project
        options = ["--entry-point", settings.entry_point, "--env-manager", settings.environment]
        options += ["--run-id", run_id]
        for name, value in {**settings.params, **paths}.items():
            options += ["--param-list", f"{name}={value}"]
        return [sys.executable, "-m", "mlflow", "run", str(local) if local.exists() else settings.project, *options]

    def _variables(self, run_id: str) -> dict[str, str]:
        """Threads within the cores, the run in MLflow that it may add to, and our own Python first."""
        return {
            **dict.fromkeys(THREADS, str(cores())),
            **self.registry.lineage.variables(run_id),
            "PYTHONUNBUFFERED": "1",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        }


def _refuse_failure(fitted: Fitted) -> None:
    if fitted.estimator is None:
        raise _Failed(fitted.words)


@dataclass(frozen=True)
class TrainerJob:
    """A trainer, and the rows that it is to learn from."""

    trainer: Trainer
    rows: TrainingRows
    seed: int

    def run(self) -> Fitted:
        """What it makes of them."""
        return self.trainer.fit(self.rows, self.seed)


@dataclass
class _Output:
    """What a trainer prints: shown as it comes, and kept with its run."""

    path: Path
    trainer: Trainer
    run_id: str
    shown: int = field(default=0)  # bytes

    def report(self) -> None:
        """Shows and keeps what has come since."""
        with self.path.open("rb") as file:
            file.seek(self.shown)
            new = file.read()
        self.shown += len(new)
        for line in new.decode(errors="replace").splitlines():
            self.trainer.progress.say(line)
        try:
            if new:
                self.trainer.registry.lineage.log_output(self.run_id, self.path)
        except FeedbackLoopError as error:  # no cause to end a training that goes on
            _log.warning("output_not_kept", run_id=self.run_id, cause=error.cause)

    @property
    def last_words(self) -> str:
        """The end of it."""
        with self.path.open("rb") as file:
            file.seek(max(self.path.stat().st_size - 4 * SHOWN, 0))
            return as_text(file.read().decode(errors="replace")[-SHOWN:].strip(), keep="\n\t")


def _taken(folder: Path, cause: str, rows: TrainingRows, registry: Registry) -> Any:
    """The estimator that lies in a folder in MLflow's format, loaded as one of the registry's; raises _Failed."""
    if cause:
        raise _Failed(cause)
    if not (folder / "MLmodel").is_file():
        raise _Failed("it ended well and left no model")
    try:
        loaded = load_folder(folder, rows.champion.version, trusted=registry.is_trusted)
    except FeedbackLoopError as error:
        raise _Failed(f"its model is not loaded: {error.cause} {error.cure}") from error
    except Exception as error:
        names = {column.name for column in rows.champion.contract.features}
        words = without_data(str(error), names)
        raise _Failed(f"its model can't be loaded: {type(error).__name__}: {words}") from error
    if loaded.estimator is not None and not callable(getattr(loaded.estimator, "predict", None)):
        raise _Failed(f"its model is of the type {type(loaded.estimator).__name__}, which is no estimator")
    try:
        wrong = _other_signature(loaded, rows)
    except ContractError as error:
        raise _Failed(f"its signature is of no use: {error.cause} {error.cure}") from error
    if wrong:
        raise _Failed(f"its signature is another one: {wrong}")
    return loaded if loaded.estimator is None else loaded.estimator


def _other_signature(loaded: LoadedModel, rows: TrainingRows) -> str:
    """How the inputs of a model differ from the champion's, in words; empty: they do not."""
    wanted = [column.name for column in rows.champion.contract.features]
    if type(loaded.estimator).__module__.startswith("lightgbm."):  # which writes them so
        wanted = [name.replace(" ", "_") for name in wanted]
    taken = getattr(loaded.estimator, "feature_names_in_", None)
    if loaded.estimator is None:
        taken = [column.name for column in feature_columns(loaded.version.model, loaded.signature, wanted)]
    count = getattr(loaded.estimator, "n_features_in_", len(wanted))
    if taken is None:
        return "" if count == len(wanted) else f"it takes {count} inputs, the champion {len(wanted)}"
    names = list(map(str, taken))
    wrong = [f"it does not take {name!r}" for name in wanted if name not in names]
    wrong += [f"it takes {name!r}, which the champion does not" for name in names if name not in wanted]
    return "; ".join(wrong)
