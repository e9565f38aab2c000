"""FeedbackLoop: the facade that wires the rooms. Whoever uses the package from Python holds one of these."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feedback_loop import serving
from feedback_loop.alerts import Delivery, deliver_alerts, route_names
from feedback_loop.capture import Recorder
from feedback_loop.clock import Clock, Window, system_clock
from feedback_loop.config import ModelSettings, ServingSettings, Settings, load_settings
from feedback_loop.decisions import Baseline, Reason, decide, monitored_loss, next_step
from feedback_loop.errors import BadInput
from feedback_loop.inference import FileResult, Scorer, make_scorer, predict_file
from feedback_loop.monitoring import (
    References,
    due_windows,
    evaluate_window,
    make_reference,
    row_losses,
    window_numbers,
    write_report,
)
from feedback_loop.outcomes import FolderIntake, IntakeResult, OnError, load_folder, matured_until, record_outcomes
from feedback_loop.progress import Progress, Silent
from feedback_loop.registry import ModelVersion, Reference, Registry
from feedback_loop.retraining import RetrainingResult, Search, promote, reconcile, rollback
from feedback_loop.scheduling import Runner
from feedback_loop.schema import RandomBits, Role, Source
from feedback_loop.store import Store, keys, migrate, predictions, retrainings, verdicts
from feedback_loop.store.evaluations import ALL_ROWS, Evaluation
from feedback_loop.store.retrainings import Promotion
from feedback_loop.store.verdicts import Verdict


class FeedbackLoop:
    """The whole loop over one store and one registry. Methods raise FeedbackLoopError's children only."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock = system_clock,
        progress: Progress | None = None,
        bits: RandomBits = secrets.randbits,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.progress = progress or Silent()
        self.store = Store(settings.url(settings.store.url))
        self.registry = Registry.of(settings)
        self.recorder = Recorder(predictions.PredictionLog(self.store), bits)
        self.runner = Runner(self.store, clock, settings.scheduler.lease)
        self._references = References(self.store, self.registry)
        self._scorers: dict[tuple[str, str], Scorer] = {}
        self._versions: dict[tuple[str, str], ModelVersion] = {}

    @classmethod
    def open(cls, path: str | Path | None = None, **options: Any) -> FeedbackLoop:
        """A loop by its configuration; makes the tables of an empty store. Options are those of the constructor."""
        loop = cls(load_settings(Path(path) if path is not None else None), **options)
        migrate.prepare(loop.store)
        return loop

    @property
    def reports(self) -> Path:
        """The folder that reports are written to."""
        return self.settings.path(self.settings.scheduler.reports)

    def close(self) -> None:
        """Gives database connections back."""
        self.store.close()

    # Versions

    def champion(self, model: str) -> ModelVersion:
        """The version that answers callers; raises NotFound."""
        return self.registry.find(Reference(model, alias=self.settings.model(model).alias))

    def scorer(self, version: ModelVersion) -> Scorer:
        """A version, loaded; kept in memory for the next time."""
        key = (version.model, version.version)
        if key not in self._scorers:
            self._scorers[key] = make_scorer(self.registry.load(version), self.settings.model(version.model))
        return self._scorers[key]

    def find(self, reference: str) -> ModelVersion:
        """The version that `name`, `name@alias` or `name/version` means; a bare name means its champion."""
        parsed = Reference.parse(reference)
        if parsed.version is None and "@" not in reference:
            return self.champion(parsed.model)
        return self.registry.find(parsed)

    def register(self, model: str, source: str, *, reference: Any = None, text: bool = False) -> ModelVersion:
        """Makes a version of a model that was logged elsewhere; `reference` rows (features and label) stay with it.

        Raises NotFound, BadInput and ContractError. No alias is set.
        """
        version = self.registry.adopt(model, source)
        scorer = self.scorer(version)
        if reference is not None:
            self.registry.keep_reference(version, make_reference(scorer, reference, text=text), self.clock())
        return version

    # Predictions and outcomes

    def predict(self, model: str, frame: Any, *, source: Source = Source.BATCH) -> pa.Table:
        """Scores a frame and logs it; returns `prediction_id` and the outputs, one row per row, in its order.

        `frame` (pandas, Arrow, Polars, columns or rows) holds the features and, beside them, the key's columns.
        """
        moment = self.clock()
        scorer = self.scorer(self.find(model))
        rows = scorer.rows_of(frame)
        ids = self.recorder.identify(rows, moment)
        scored = scorer.score(rows)
        self.recorder.record(scorer, rows, scored, ids, moment, source=source)
        return scored.outputs.add_column(0, "prediction_id", pa.array(ids, pa.string()))

    def predict_file(self, model: str, source: Path, target: Path, *, overwrite: bool = False) -> FileResult:
        """Scores a Parquet or CSV file into another and logs every row; resumes where an earlier run stopped."""
        wanted = self.find(model)

        def choose(version: str | None) -> Scorer:
            found = wanted if version is None else self.registry.find(Reference(wanted.model, version=version))
            return self.scorer(found)

        def record(scorer: Scorer, rows: pa.Table, scored: Any, ids: Any, moment: datetime) -> int:
            return self.recorder.record(scorer, rows, scored, ids, moment, source=Source.BATCH)

        return predict_file(
            choose, source, target, record=record, now=self.clock(), progress=self.progress, overwrite=overwrite
        )

    def record_outcomes(
        self, model: str, frame: Any, *, source: str = "python", on_error: OnError = "refuse", text: bool = False
    ) -> IntakeResult:
        """Takes outcomes in (see `feedback_loop.outcomes.record_outcomes`)."""
        contract = self.scorer(self.champion(model)).contract
        return record_outcomes(
            self.store, contract, frame, now=self.clock(), source=source, on_error=on_error, text=text
        )

    def take_in_outcomes(self, model: str) -> FolderIntake | None:
        """Takes in what lies in the model's folder of outcomes; None where none is configured."""
        folder = self.settings.model(model).outcomes.folder
        if not folder:
            return None
        path = self.settings.path(folder)
        path.mkdir(parents=True, exist_ok=True)
        return load_folder(path, lambda table, text: self.record_outcomes(model, table, source="folder", text=text))

    def app(self, models: Sequence[str], serve: ServingSettings) -> serving.App:
        """The HTTP application for these models (`name` or `name@alias`), their versions loaded and watched."""
        found = {Reference.parse(model).model: model for model in models}
        endpoints = serving.Endpoints(
            {name: serving.Source(partial(self.find, model), self.scorer) for name, model in found.items()}
        )
        guard = serving.Guard(
            partial(keys.valid_digests, self.store), keys.digest, is_needed=serving.needs_key(serve)
        )
        endpoints.load()
        guard.refresh()
        endpoints.watch(serve.poll_alias, guard.refresh)

        def take(model: str, rows: Any) -> dict[str, Any]:
            return asdict(self.record_outcomes(model, rows, source="http").counts)

        batcher = serving.Batcher(self.recorder, self.clock, serve.threads)
        return serving.App(endpoints, batcher, guard, take, most_bytes=serve.max_body_bytes)

    # Monitoring and decisions

    def evaluate(self, model: str, window: Window | None = None, as_of: datetime | None = None) -> list[Evaluation]:
        """Evaluates a window (default: each that is due) as of a moment (default: now), one result per version."""
        settings, now = self.settings.model(model), as_of or self.clock()
        if now > self.clock():
            raise BadInput.of("as_of", "is in the future: what will be known then can't be")
        windows = [window] if window else due_windows(self.store, model, settings.window, settings.maturity, now)
        contract = self.scorer(self.champion(model)).contract
        found: list[Evaluation] = []
        with self.progress.track(f"evaluate {model}", len(windows)) as advance:
            for each in windows:
                found += evaluate_window(
                    self.store,
                    contract,
                    each,
                    lambda v: self._profile(model, v),
                    maturity=settings.maturity,
                    as_of=now,
                )
                advance(1)
        if as_of is None:
            self._show_metrics(found)
        return found

    def decide(self, model: str) -> Verdict | None:
        """Judges what has matured since the last verdict on the champion; None where nothing has."""
        settings, version = self.settings.model(model), self.champion(model)
        contract = self.scorer(version).contract
        promotions = self._promotions(model)
        return decide(
            self.store,
            contract,
            version.version,
            settings,
            self._baseline(version, settings, ordinal=max(len(promotions), 1)),
            since=promotions[-1].done_at if promotions and promotions[-1].from_version is not None else None,
            routes=route_names(self.settings.alerts),
            now=self.clock(),
        )

    def report(self, model: str, window: Window, name: str, folder: Path | None = None) -> list[Path]:
        """Writes Evidently's reports of drift and of validation of a window, and keeps them in MLflow.

        Of the champion's predictions of the window, against the reference of the version that is champion now.
        """
        version, now = self.champion(model), self.clock()
        contract = self.scorer(version).contract
        rows = predictions.read_labelled(self.store, contract, window, as_of=now, role=Role.CHAMPION)
        reference = self._reference(version)
        target = folder or self.reports
        paths: list[Path] = []
        with self.progress.track(f"report {name}", 2) as advance:
            for kind in ("drift", "validation"):
                paths += write_report(kind, contract, reference, rows, target, name)
                advance(1)
        self.registry.lineage.log_files(version, paths, "reports", now)
        return paths

    def deliver_alerts(self) -> Delivery:
        """Tries every alert that is due."""
        return deliver_alerts(self.store, self.settings.alerts, self.clock())

    # Retraining and promotion

    def retrain_reason(self, model: str) -> Reason | None:
        """Why the model should be retrained now: its champion's alarm, the slow schedule, or not at all."""
        policy, champion = self.settings.model(model).policy, self.champion(model)
        since = [each.done_at for each in self._promotions(model) if each.done_at is not None]
        return next_step(
            verdicts.latest_verdict(self.store, model, champion.version),
            policy,
            retrainings=retrainings.load_retrainings(self.store, model),
            champion_since=since[-1] if since else champion.created_at,
            now=self.clock(),
        )

    def retrain(self, model: str, *, reason: Reason = "manual", promotes: bool = True) -> RetrainingResult:
        """Searches for a better version, gates it and (if it `promotes`) makes it the champion."""
        settings, now = self.settings.model(model), self.clock()
        incident = verdicts.open_incident(self.store, model)
        history = settings.retraining.history
        search = Search(
            store=self.store,
            registry=self.registry,
            champion=self.scorer(self.champion(model)),
            settings=settings.retraining,
            alias=settings.alias,
            until=matured_until(now, settings.maturity, settings.window),
            window=settings.window,
            history=self.settings.path(history) if history else None,
            now=now,
            progress=self.progress,
        )
        return search.run(reason, incident.incident_id if incident is not None else None, promotes=promotes)

    def promote(self, model: str, version: str, *, reason: str = "by hand") -> Promotion:
        """Makes a version the champion; raises NotFound and Refused."""
        self.registry.find(Reference(model, version=version))
        alias = self.settings.model(model).alias
        return promote(self.store, self.registry, model, alias, version, reason=reason, now=self.clock())

    def rollback(self, model: str, *, reason: str = "by hand") -> Promotion:
        """Makes the champion before this one the champion again; raises Refused where there is none."""
        alias = self.settings.model(model).alias
        return rollback(self.store, self.registry, model, alias, reason=reason, now=self.clock())

    def reconcile(self, model: str) -> str | None:
        """Ends promotions that a crash interrupted and takes note of aliases that were moved in MLflow."""
        return reconcile(self.store, self.registry, model, self.settings.model(model).alias, self.clock())

    def _show_metrics(self, found: Sequence[Evaluation]) -> None:
        """MLflow's own page draws what a matured window said about a version."""
        for each in found:
            if each.matured and each.version:
                metrics = {value.metric: value.value for value in each.metrics if value.segment == ALL_ROWS}
                if each.coverage is not None:
                    metrics["coverage"] = each.coverage
                version = self._version(each.model, each.version)
                self.registry.lineage.log_metrics(version, metrics, each.window.start, each.as_of)

    # What the versions are held against

    def _reference(self, version: ModelVersion) -> pa.Table:
        settings = self.settings.model(version.model)
        until = matured_until(self.clock(), settings.maturity, settings.window)
        contract = self.scorer(version).contract
        return self._references.rows(contract, version, settings.policy.reference, until)

    def _profile(self, model: str, version: str) -> Any:
        settings = self.settings.model(model)
        until = matured_until(self.clock(), settings.maturity, settings.window)
        found = self._version(model, version)
        return self._references.profile(
            self.scorer(found).contract, found, settings.policy.reference, until, settings.window
        )

    def _version(self, model: str, version: str) -> ModelVersion:
        key = (model, version)
        if key not in self._versions:
            self._versions[key] = self.registry.find(Reference(model, version=version))
        return self._versions[key]

    def _promotions(self, model: str) -> list[Promotion]:
        return [each for each in retrainings.load_promotions(self.store, model) if each.state == "done"]

    def _baseline(self, version: ModelVersion, settings: ModelSettings, *, ordinal: int) -> Baseline:
        contract = self.scorer(version).contract
        rows = self._reference(version)
        loss = monitored_loss(contract, settings.policy)
        losses = row_losses(contract, rows).get(loss) if len(rows) else None
        if losses is None:
            return Baseline(loss, np.empty(0), np.empty(0, dtype=np.int64), ordinal)
        times = rows.column("predicted_at")
        is_enough = len(losses) >= settings.policy.reference
        until = times[-1].as_py() if is_enough else None
        return Baseline(loss, losses, window_numbers(times, settings.window), ordinal, until)
