"""Monitoring and decisions: evaluations, verdicts, reports, alerts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from feedback_loop.alerts import Delivery, deliver_alerts, route_names, tell_volume
from feedback_loop.clock import Window
from feedback_loop.config import ModelSettings
from feedback_loop.decisions import Baseline, decide, monitored_loss
from feedback_loop.loop.labelling import Labelling
from feedback_loop.monitoring import (
    PAST_WINDOWS,
    PastError,
    Profile,
    due_windows,
    evaluate_window,
    past_errors,
    row_losses,
    silence_notice,
    uniform,
    volume_notice,
    window_numbers,
    write_report,
)
from feedback_loop.outcomes import (
    matured_until,
)
from feedback_loop.registry import ModelVersion
from feedback_loop.schema import Role
from feedback_loop.store import accounts, predictions, retention
from feedback_loop.store.evaluations import ALL_ROWS, INSUFFICIENT, Evaluation, load_past_estimates
from feedback_loop.store.verdicts import Verdict


class Judging(Labelling):
    """Everything that is concluded from labelled predictions."""

    def evaluate(
        self, model: str, window: Window | None = None, as_of: datetime | None = None, *, from_log: bool = False
    ) -> list[Evaluation]:
        """Evaluates a window (default: each that is due) as of a moment (default: now), one result per version.

        What the join keeps of each hour answers, or, for a moment of the past and with `from_log`, the rows
        themselves: both say the same. Raises Refused for a window of which retention has removed rows: its numbers
        would be others.
        """
        settings = self.settings.model(model)
        if window is not None:
            self._refuse_removed(model, window)
        now = self._final(model, as_of)
        if as_of is None:
            self._tally_by_references(model)
            now = self.join(model).until or now
        windows = [window] if window else due_windows(self.store, model, settings.window, settings.maturity, now)
        since = retention.kept_since(self.store, model)
        windows = [each for each in windows if since is None or each.start >= since]
        contract = self.scorer(self.champion(model)).logged
        found: list[Evaluation] = []
        with self.progress.track(f"evaluate {model}", len(windows)) as advance:
            for each in windows:
                found += evaluate_window(
                    self.store,
                    contract,
                    each,
                    lambda v: self._profile(model, v, now, is_past=as_of is not None),
                    length=settings.window,
                    maturity=settings.maturity,
                    as_of=now,
                    from_log=from_log,
                )
                advance(1)
        if as_of is None:
            self._show_metrics(found)
        return found

    def past_errors(self, model: str) -> dict[str, PastError]:
        """How far estimates of each metric were from what was realised later, in the last windows that matured."""
        return past_errors(load_past_estimates(self.store, model, PAST_WINDOWS))

    def decide(self, model: str) -> Verdict | None:
        """Judges what has matured since the last verdict on the champion; None where nothing has."""
        settings, version = self.settings.model(model), self.champion(model)
        contract = self.scorer(version).logged
        promotions = self._promotions(model)
        return decide(
            self.store,
            contract,
            version.version,
            settings,
            self._baseline(version, settings, ordinal=max(len(promotions), 1)),
            since=promotions[-1].done_at if promotions and promotions[-1].from_version is not None else None,
            routes=route_names(self.settings.alerts),
            now=self._final(model, None),
        )

    def report(self, model: str, window: Window, name: str, folder: Path | None = None) -> list[Path]:
        """Writes Evidently's reports of drift and of validation of a window, and keeps them in MLflow.

        Of the champion's predictions of the window, against the reference of the version that is champion now.
        """
        self._refuse_removed(model, window)
        version, now = self.champion(model), self._final(model, None)
        contract = self.scorer(version).logged
        rows = uniform(predictions.read_labelled(self.store, contract, window, as_of=now, role=Role.CHAMPION))
        reference = self._reference(version)
        target = folder or self.reports
        paths: list[Path] = []
        with self.progress.track(f"report {name}", 2) as advance:
            for kind in ("drift", "validation"):
                paths += write_report(kind, contract, reference, rows, target, name, window=window)
                advance(1)
        self.registry.lineage.log_files(version, paths, "reports", now)
        return paths

    def watch_volume(self, model: str) -> int:
        """Raises an alert where predictions stay away (`silence`) or come as they did not before; counts new ones."""
        settings, now = self.settings.model(model), self.clock()
        span = predictions.predicted_span(self.store, model)
        if span is None:
            return 0
        counts: Counter[datetime] = Counter()
        for each in accounts.load_accounts(self.store, model)[0]:
            if each.role == Role.CHAMPION and each.segment == ALL_ROWS:
                counts[each.window_start] += each.predictions
        notices = [
            volume_notice(counts, settings.window, now) if counts else None,
            silence_notice(span[1], settings.silence, now) if settings.silence is not None else None,
        ]
        told = [notice for notice in notices if notice is not None]
        return tell_volume(self.store, model, told, route_names(self.settings.alerts), now)

    def deliver_alerts(self) -> Delivery:
        """Tries every alert that is due."""
        return deliver_alerts(self.store, self.settings.alerts, self.clock())

    def _show_metrics(self, found: Sequence[Evaluation]) -> None:
        """MLflow's own page draws what windows said about a version: as estimated, and as it came later."""
        for each in found:
            told = [value for value in each.estimates if value.metric != INSUFFICIENT and value.segment == ALL_ROWS]
            metrics = {f"estimated_{value.metric}": value.value for value in told}
            if each.matured:
                metrics |= {value.metric: value.value for value in each.metrics if value.segment == ALL_ROWS}
                if each.coverage is not None:
                    metrics["coverage"] = each.coverage
            if each.version and metrics:
                version = self._version(each.model, each.version)
                self.registry.lineage.log_metrics(version, metrics, each.window.start, each.as_of)

    def _reference(self, version: ModelVersion) -> pa.Table:
        settings = self.settings.model(version.model)
        until = matured_until(self.clock(), settings.maturity, settings.window)
        redaction = self.scorer(version).redaction
        return self._references.rows(redaction, version, settings.policy.reference, until)

    def _tally_by_references(self, model: str) -> None:
        """The champion has its reference before its first predictions are joined: they are tallied as they come."""
        self._profile(model, self.champion(model).version, self.clock(), is_past=False)

    def _profile(self, model: str, version: str, as_of: datetime, *, is_past: bool) -> Profile | None:
        settings = self.settings.model(model)
        found = self._version(model, version)
        return self._references.profile(
            self.scorer(found).redaction,
            found,
            settings.policy.reference,
            matured_until(as_of, settings.maturity, settings.window),
            settings.window,
            as_of=as_of,
            is_past=is_past,
        )

    def _baseline(self, version: ModelVersion, settings: ModelSettings, *, ordinal: int) -> Baseline:
        contract = self.scorer(version).logged
        rows = self._reference(version)
        loss = monitored_loss(contract, settings.policy)
        losses = row_losses(contract, rows).get(loss) if len(rows) else None
        if losses is None:
            return Baseline(loss, np.empty(0), np.empty(0, dtype=np.int64), ordinal)
        times = rows.column("predicted_at")
        is_enough = len(losses) >= settings.policy.reference
        until = times[-1].as_py() if is_enough else None
        return Baseline(loss, losses, window_numbers(times, settings.window), ordinal, until)
