"""Monitoring and decisions: evaluations, verdicts, reports, alerts."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa
import structlog

from feedback_loop.alerts import Delivery, deliver_alerts, tell_conditions
from feedback_loop.clock import Window, floor_moment, format_moment
from feedback_loop.config import ModelSettings
from feedback_loop.decisions import Baseline, baseline_of, decide, load_standings
from feedback_loop.errors import BadInput, NotFound, Unavailable
from feedback_loop.loop.context import Context
from feedback_loop.loop.outcomes import Outcomes
from feedback_loop.monitoring import (
    KINDS,
    LEAST_ROWS,
    MOST_ROWS,
    PAST_WINDOWS,
    MissingReference,
    PastError,
    Profile,
    after_failure,
    due_windows,
    evaluate_window,
    find_slices,
    multivariate_values,
    past_errors,
    real_rows,
    report_subject,
    sample_window,
    span_of,
    spread,
    when_enough,
    write_report,
)
from feedback_loop.outcomes import (
    matured_until,
    matures_at,
)
from feedback_loop.registry import ModelVersion
from feedback_loop.store import privacy, profiles
from feedback_loop.store.alerts import raise_alert
from feedback_loop.store.conclusions import Verdict, latest_verdict
from feedback_loop.store.coverage import load_coverage
from feedback_loop.store.evaluations import (
    ALL_ROWS,
    INSUFFICIENT,
    Evaluation,
    load_past_estimates,
)
from feedback_loop.store.failed_windows import FailedWindow, forget_failed_window, load_failed_windows
from feedback_loop.store.predictions import predicted_span

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Judging:
    """Everything that is concluded from labelled predictions."""

    context: Context
    outcomes: Outcomes

    def evaluate(
        self,
        model: str,
        window: Window | None = None,
        as_of: datetime | None = None,
        *,
        from_log: bool = False,
        multivariate: bool = False,
        slices: bool = False,
    ) -> list[Evaluation]:
        """Evaluates a window (default: each that is due) as of a moment (default: now), one result per version.

        What the join keeps of each hour answers, or, for a moment of the past and with `from_log`, the rows
        themselves: both say the same. `multivariate` drift and `slices` (also by the settings) are of rows, which are
        read for that. One of the windows that are due may fail: that is recorded with its cause, told by an alert,
        tried again later, and stops no other. Raises Refused for a window of which retention has removed rows: its
        numbers would be others.
        """
        settings = self.context.settings.model(model)
        if window is not None:
            self.outcomes.refuse_removed(model, window)
        now = self.known_until(model, as_of)
        windows = (
            [window] if window else due_windows(self.context.store, model, settings.window, settings.maturity, now)
        )
        since = privacy.kept_since(self.context.store, model)
        windows = [each for each in windows if since is None or each.start >= since]
        failed = {each.window for each in load_failed_windows(self.context.store, model)}
        for gone in [each for each in failed if since is not None and each.start < since]:
            forget_failed_window(self.context.store, model, gone)
        contract = self.context.scorer(self.context.champion(model)).logged
        multivariate, slices = multivariate or settings.drift.multivariate, slices or settings.find_slices
        found: list[Evaluation] = []
        with self.context.progress.track(f"evaluate {model}", len(windows)) as advance:
            for each in windows:
                try:
                    found += evaluate_window(
                        self.context.store,
                        contract,
                        each,
                        lambda v: self.profile(model, v, now, is_past=as_of is not None),
                        length=settings.window,
                        maturity=settings.maturity,
                        as_of=now,
                        from_log=from_log,
                        extend=lambda e: self._looked_closer(e, multivariate=multivariate, slices=slices),
                    )
                    if each in failed:
                        forget_failed_window(self.context.store, model, each)
                except Unavailable:
                    raise
                except Exception as error:
                    if window is not None:
                        raise
                    self._tell_failure(
                        model, after_failure(self.context.store, model, each, error, self.context.clock()), error
                    )
                advance(1)
        if as_of is None:
            self._show_metrics(found)
        return found

    def tell_conditions(self, model: str) -> int:
        """Has it told which of the model's own conditions are crossed, or within again; counts new alerts."""
        conditions = self.context.settings.model(model).conditions
        if not conditions:
            return 0
        version = self.context.champion(model).version
        standings = load_standings(self.context.store, model, version, conditions)
        return tell_conditions(
            self.context.store, model, version, standings, self.context.routes, self.context.clock()
        )

    def past_errors(self, model: str) -> dict[str, PastError]:
        """How far estimates of each metric were from what was realised later, in the last windows that matured."""
        return past_errors(load_past_estimates(self.context.store, model, PAST_WINDOWS))

    def decide(self, model: str) -> Verdict | None:
        """Judges what has matured since the last verdict on the champion; None where nothing has."""
        settings, version = self.context.settings.model(model), self.context.champion(model)
        contract = self.context.scorer(version).logged
        promotions = self.context.promotions(model)
        return decide(
            self.context.store,
            contract,
            version.version,
            settings,
            lambda as_of: self.baseline(version, settings, as_of=as_of),
            since=promotions[-1].done_at if promotions and promotions[-1].from_version is not None else None,
            routes=self.context.routes,
            now=self.context.final(model, None),
        )

    def why_not_judged(self, model: str) -> str:
        """Why a look finds nothing to judge now, and what to do about it, in words."""
        settings, version, now = (
            self.context.settings.model(model),
            self.context.champion(model),
            self.context.final(model, None),
        )
        until, span = (
            matured_until(now, settings.maturity, settings.window),
            predicted_span(self.context.store, model, version.version, as_of=now),
        )
        rehearsal = f"What the loop would have made of them: feedback-loop rehearse {model}."
        if span is None:
            others = predicted_span(self.context.store, model, as_of=now) is not None
            cure = rehearsal if others else "Predict, or bring what was predicted: feedback-loop import predictions."
            there = "Those of the log are of other versions. " if others else ""
            return f"The log has no prediction of {version}. {there}{cure}"
        promotions, verdict = (
            self.context.promotions(model),
            latest_verdict(self.context.store, model, version.version),
        )
        since = promotions[-1].done_at if promotions and promotions[-1].from_version is not None else None
        if verdict is not None and since is not None and verdict.decided_at < since:
            verdict = None
        if verdict is not None and verdict.evidence.get("predictions"):
            judged = format_moment(verdict.window.end)
            return f"Nothing has matured since the last verdict: predictions until {judged} are judged."
        if span[0] >= until:
            matures = format_moment(matures_at(span[0], settings.maturity, settings.window))
            return f"No prediction of {version} has matured yet: the first ones do on {matures}."
        if since is not None and span[1] < floor_moment(since, settings.window):
            return (
                f"All of its predictions are from before {version} became champion anew, on {format_moment(since)}."
            )
        baseline = self.baseline(version, settings, as_of=now).until
        if baseline is not None and baseline >= span[0]:
            return (
                f"Only what was predicted after {format_moment(baseline)} is judged: up to there reach the rows that "
                f"{version} is held against. The log has older predictions. {rehearsal}"
            )
        return f"No window with predictions of {version} is due."

    def report(
        self,
        model: str,
        window: Window,
        name: str,
        folder: Path | None = None,
        *,
        rows: int | Literal["surrogate", "full"] = "surrogate",
        as_of: datetime | None = None,
    ) -> list[Path]:
        """Writes Evidently's reports of drift and of validation of a window (as of then), and keeps them in MLflow.

        Of the version that made the most of the champions' predictions in it, against that version's reference. What
        is drawn is of surrogates, at the same cost for any number of predictions; or of real rows, a sample of at
        most so many of each side, or all. While there are too few outcomes, there is no report of validation, which
        that of drift says; before there is a reference, they are of the window alone. Raises BadInput where there are
        too few predictions.
        """
        self.outcomes.refuse_removed(model, window)
        if isinstance(rows, int) and rows < LEAST_ROWS:
            raise BadInput.of("sample", f"of {rows} rows is too small for a report; {LEAST_ROWS} are needed")
        settings, now = self.context.settings.model(model), self.known_until(model, as_of)
        subject = report_subject(
            self.context.store,
            self.context.scorer(self.context.champion(model)).logged,
            window,
            lambda v: self.profile(model, v, now, is_past=as_of is not None),
            name,
            length=settings.window,
            maturity=settings.maturity,
            as_of=now,
        )
        noted = self._looked_closer(subject.evaluation, multivariate=False, slices=False)
        subject = replace(subject, evaluation=noted)
        version = self.context.version(model, subject.evaluation.version)
        real = None
        if rows != "surrogate":
            reference = self.reference(version, settings, now)
            if subject.reference is not None:
                subject = replace(subject, reference_span=span_of(reference))
            real = real_rows(self.context.store, subject, reference, rows if isinstance(rows, int) else None)
        is_judged = not subject.contract.more_labels  # Evidently's presets know one label
        kinds = [k for k in KINDS if k == "drift" or (is_judged and subject.has_enough(k))]
        paths: list[Path] = []
        with self.context.progress.track(f"report {name}", len(kinds)) as advance:
            for kind in kinds:
                paths += write_report(kind, subject, folder or self.context.reports, real)
                advance(1)
        try:
            self.context.registry.lineage.log_files(version, paths, "reports", now)
        except (NotFound, Unavailable) as error:  # the pages are there
            _log.warning("report not kept in MLflow", model=model, version=version.version, cause=str(error))
        return paths

    def deliver_alerts(self) -> Delivery:
        """Tries every alert that is due."""
        return deliver_alerts(self.context.store, self.context.settings.alerts, self.context.clock())

    def _tell_failure(self, model: str, failed: FailedWindow, error: Exception) -> None:
        where = "".join(traceback.format_exception(error))
        _log.error("window_failed", model=model, window=str(failed.window), attempts=failed.attempts, traceback=where)
        subject, title = f"stream:{model}:failed:{failed.window}", f"{model}: a window could not be evaluated"
        again = f"It is tried again from {format_moment(failed.next_attempt_at)} on; other windows go on."
        words = f"{failed.window}: {failed.cause.rstrip('.')}. {again}"
        raise_alert(self.context.store, subject, title, words, self.context.routes, self.context.clock())

    def _looked_closer(self, found: Evaluation, *, multivariate: bool, slices: bool) -> Evaluation:
        """The evaluation with what only rows can say, as known at its moment, and with what can't be said at all."""
        rows = self.context.references.found.get((found.model, found.version))
        if rows is not None and not found.drift:
            wanted = self.context.settings.model(found.model).policy.reference
            lacking = f"the reference takes {wanted:,} matured predictions with outcomes, and there are {rows:,}"
            told = f"Drift, data quality and verdicts are not judged yet: {lacking}."
            found = replace(found, notes=(told, *found.notes))
        slices = slices and found.matured
        if not (multivariate or slices):
            return found
        settings, version = self.context.settings.model(found.model), self.context.version(found.model, found.version)
        redaction = self.context.scorer(version).redaction
        contract = redaction.logged
        sample = sample_window(self.context.store, contract, found.window, version=version.version, as_of=found.as_of)
        if slices:
            found = replace(found, slices=find_slices(contract, sample.labelled))
        if multivariate:
            reference = self.context.references.rows_of_profile(
                redaction,
                version,
                settings.policy.reference,
                settings.maturity,
                settings.window,
                as_of=found.as_of,
            )
            values = multivariate_values(contract, spread(reference, MOST_ROWS), sample.rows)
            found = replace(found, drift=(*found.drift, *values))
        return found

    def missing_reference(self, model: str) -> MissingReference | None:
        """What the champion lacks before it can be judged; None where its reference is whole."""
        settings, version = self.context.settings.model(model), self.context.champion(model)
        rows, wanted = (
            self.reference(version, settings, self.context.final(model, None)).num_rows,
            settings.policy.reference,
        )
        if rows >= wanted:
            return None
        known = load_coverage(self.context.store, model)[0]
        about = when_enough(known, version.version, wanted - rows, settings.maturity)
        return MissingReference(model, version.version, rows, wanted, about)

    def _show_metrics(self, found: Sequence[Evaluation]) -> None:
        """MLflow's own page draws what windows said about a version: as estimated, and as it came later.

        The figures are in our own store: that they can't be drawn fails no evaluation.
        """
        for each in found:
            told = [value for value in each.estimates if value.metric != INSUFFICIENT and value.segment == ALL_ROWS]
            metrics = {f"estimated_{value.metric}": value.value for value in told}
            if each.matured:
                metrics |= {value.metric: value.value for value in each.metrics if value.segment == ALL_ROWS}
                if each.coverage is not None:
                    metrics["coverage"] = each.coverage
            if each.version and metrics:
                try:
                    version = self.context.version(each.model, each.version)
                    self.context.registry.lineage.log_metrics(version, metrics, each.window.start, each.as_of)
                except NotFound as error:
                    _log.warning("not drawn in MLflow", model=each.model, version=each.version, cause=str(error))
                except Unavailable as error:  # it would be waited for again with each window
                    _log.warning("windows not drawn in MLflow", model=each.model, cause=str(error))
                    return

    def reference(
        self, version: ModelVersion, settings: ModelSettings, as_of: datetime, known: datetime | None = None
    ) -> pa.Table:
        """The version's reference as of a moment; of the log, what had matured by then as it is `known` later."""
        until = matured_until(as_of, settings.maturity, settings.window)
        redaction = self.context.scorer(version).redaction
        return self.context.references.rows(
            redaction, version, settings.policy.reference, until, as_of=known or as_of
        )

    def known_until(self, model: str, as_of: datetime | None = None) -> datetime:
        """The moment as of which is evaluated; without one, all that has come by now is joined first."""
        if as_of is not None:
            return self.context.final(model, as_of)
        self._tally_by_references(model)
        return self.outcomes.join(model).until or self.context.final(model, None)

    def _tally_by_references(self, model: str) -> None:
        """The champion has its reference before its first predictions are joined: they are tallied as they come."""
        self.profile(model, self.context.champion(model).version, self.context.clock(), is_past=False)

    def profile(self, model: str, version: str, as_of: datetime, *, is_past: bool) -> Profile | None:
        """The profile of a version's reference; None where it has none yet."""
        settings = self.context.settings.model(model)
        try:
            found = self.context.version(model, version)
        except NotFound:  # it was deleted in the registry: what it answered is judged by what is kept here
            with self.context.store.read() as connection:
                kept = profiles.load_reference(connection, model, version)
            return Profile.from_bytes(kept.profile) if kept is not None else None
        return self.context.references.profile(
            self.context.scorer(found).redaction,
            found,
            settings.policy.reference,
            matured_until(as_of, settings.maturity, settings.window),
            settings.window,
            as_of=as_of,
            is_past=is_past,
        )

    def baseline(
        self,
        version: ModelVersion,
        settings: ModelSettings,
        *,
        as_of: datetime,
        known: datetime | None = None,
    ) -> Baseline:
        """What a version's losses are held against as of a moment."""
        rows = self.reference(version, settings, as_of, known)
        return baseline_of(self.context.scorer(version).logged, rows, settings)
