"""Monitoring and decisions: evaluations, drift, verdicts, reports, alerts."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa
import structlog

from feedback_loop.alerts import tell_conditions, watch_volume
from feedback_loop.clock import Window, format_moment
from feedback_loop.config import ModelSettings
from feedback_loop.decisions import (
    Baseline,
    Suggestion,
    baseline_of,
    decide,
    load_condition_states,
    suggest_policy,
    why_nothing_judged,
)
from feedback_loop.decisions.drift import watch_due_windows
from feedback_loop.errors import BadInput, NotFound, Unavailable
from feedback_loop.loop.context import Context
from feedback_loop.loop.outcomes import Outcomes
from feedback_loop.monitoring import (
    KINDS,
    LEAST_REPORT_ROWS,
    PAST_WINDOWS,
    SAMPLE_ROWS,
    ExplorationEffect,
    MissingReference,
    PastError,
    Profile,
    WindowQuery,
    after_failure,
    due_windows,
    evaluate_window,
    exploration_effect,
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
from feedback_loop.registry import ModelVersion
from feedback_loop.run_tags import run_tags
from feedback_loop.store import profiles, retention
from feedback_loop.store.alerts import raise_alert
from feedback_loop.store.conclusions import Verdict, latest_verdict, note_run
from feedback_loop.store.coverage import load_coverage
from feedback_loop.store.evaluations import Evaluation, load_evaluations, newest_evaluations
from feedback_loop.store.incidents import Incident, incidents_within, open_incident
from feedback_loop.store.ledger import FailedWindow, forget_failed_window, load_failed_windows
from feedback_loop.store.past_estimates import load_past_estimates

MOST_SHOWN = 30
"""So many evaluations go into a verdict's run in MLflow: the newest of its windows."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Judging:
    """The part of the loop that concludes something from predictions and their outcomes."""

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
        read for that. One of the windows that are due may fail: that is recorded with its cause, raises an alert, is
        tried again later, and stops no other. Raises Refused for a window of which retention has removed rows: its
        numbers would be others.
        """
        store, settings = self.context.store, self.context.settings.model(model)
        if window is not None:
            self.outcomes.refuse_removed(model, window)
        now = self.known_until(model, as_of)
        windows = [window] if window else due_windows(store, model, settings.window, settings.maturity, now)
        failed = {failure.window for failure in load_failed_windows(store, model)}
        since = retention.kept_since(store, model)
        if since is not None:
            windows = [due for due in windows if due.start >= since]
            for gone in [due for due in failed if due.start < since]:
                forget_failed_window(store, model, gone)
        contract = self.context.contract(model)
        multivariate, slices = multivariate or settings.drift.multivariate, slices or settings.find_slices
        evaluations: list[Evaluation] = []
        with self.context.progress.track(f"evaluate {model}", len(windows)) as advance:
            for due in windows:
                try:
                    with run_tags(model=model, window=due, as_of=format_moment(now)):
                        evaluations += evaluate_window(
                            store,
                            contract,
                            WindowQuery(due, now, settings.window, settings.maturity, from_log),
                            lambda version: self.profile(model, version, now, is_past=as_of is not None),
                            extend=lambda made: self._with_rows(made, multivariate=multivariate, slices=slices),
                        )
                    if due in failed:
                        forget_failed_window(store, model, due)
                except Unavailable:
                    raise
                except Exception as error:
                    if window is not None:
                        raise
                    self._tell_failure(model, after_failure(store, model, due, error, self.context.clock()), error)
                advance(1)
        if as_of is None:
            self.context.shown.windows(evaluations)
        return evaluations

    def tell_conditions(self, model: str) -> int:
        """Raises alerts for the model's own conditions that are crossed, or within again; counts the new ones."""
        context, conditions = self.context, self.context.settings.model(model).conditions
        if not conditions:
            return 0
        version = context.champion(model).version
        standings = load_condition_states(context.store, model, version, conditions)
        return tell_conditions(context.store, model, version, standings, context.routes, context.clock())

    def past_errors(self, model: str) -> dict[str, PastError]:
        """How far estimates of each metric were from what was realised later, in the last windows that matured."""
        return past_errors(load_past_estimates(self.context.store, model, PAST_WINDOWS))

    def decide(self, model: str) -> Verdict | None:
        """Judges what has matured since the last verdict on the champion; None where nothing has."""
        context, settings, version = self.context, self.context.settings.model(model), self.context.champion(model)
        before, incident = latest_verdict(context.store, model, version.version), open_incident(context.store, model)
        newest = load_evaluations(context.store, model, version=version.version, matured=True, newest=1)
        ids = {"evaluation": newest[0].evaluation_id if newest else None, "incident": _id_of(incident)}
        with run_tags(model=model, version=version.version, **ids):
            verdict = decide(
                context.store,
                context.scorer(version).logged,
                version.version,
                settings,
                lambda as_of: self.baseline(version, settings, as_of=as_of),
                since=context.champion_anew(model),
                routes=context.routes,
                now=context.final(model, None),
            )
        return self._shown(verdict, before, incident) if verdict is not None else None

    def _shown(self, verdict: Verdict, before: Verdict | None, incident: Incident | None) -> Verdict:
        """Shows a verdict in MLflow: one that is another than before, or opens or closes an incident, as a run."""
        store, shown = self.context.store, self.context.shown
        now_open = open_incident(store, verdict.model)
        shown.verdict(verdict, _id_of(now_open))
        run_id = before.run_id if before is not None else None
        if before is None or before.state != verdict.state or _id_of(now_open) != _id_of(incident):
            evaluations = load_evaluations(
                store, verdict.model, version=verdict.version, within=verdict.window, matured=True, newest=MOST_SHOWN
            )
            of_incident = _id_of(now_open or incident)
            state = before.state if before is not None else None
            run_id = shown.news(verdict, state, of_incident, newest_evaluations(evaluations))
        return note_run(store, verdict, run_id) if run_id is not None else verdict

    def why_not_judged(self, model: str) -> str:
        """Why a look finds nothing to judge now, and what to do about it, in words."""
        context, settings, version = self.context, self.context.settings.model(model), self.context.champion(model)
        now = context.final(model, None)
        return why_nothing_judged(
            context.store,
            model,
            version.version,
            settings,
            lambda: self.baseline(version, settings, as_of=now).until,
            since=context.champion_anew(model),
            now=now,
        )

    def suggest_policy(self, model: str) -> list[Suggestion]:
        """What maturity, units, cycle, tolerance and reference should be, each with its reason; raises NotFound."""
        context, settings, version = self.context, self.context.settings.model(model), self.context.champion(model)
        now = context.final(model, None)
        reference = self.baseline(version, settings, as_of=now)
        contract = context.scorer(version).logged
        return suggest_policy(context.store, contract, version.version, settings, reference, now)

    def watch_volume(self, model: str) -> int:
        """Raises an alert where predictions stay away (`silence`) or come as they did not before; counts new ones."""
        context = self.context
        return watch_volume(context.store, model, context.settings.model(model), context.routes, context.clock())

    def watch_drift(self, model: str) -> int:
        """Takes in each closed window of the champion once, in order; raises alerts and counts the new ones."""
        context, version = self.context, self.context.champion(model).version
        promoted = [promotion.done_at for promotion in context.promotions(model) if promotion.to_version == version]
        return watch_due_windows(
            context.store,
            model,
            version,
            context.settings.model(model),
            champion_since=promoted[-1] if promoted else None,
            routes=context.routes,
            as_of=self.known_until(model),
            clock=context.clock,
        )

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
        if isinstance(rows, int) and rows < LEAST_REPORT_ROWS:
            raise BadInput.of("sample", f"of {rows} rows is too small for a report; {LEAST_REPORT_ROWS} are needed")
        context, settings, now = self.context, self.context.settings.model(model), self.known_until(model, as_of)
        subject = report_subject(
            context.store,
            context.contract(model),
            WindowQuery(window, now, settings.window, settings.maturity),
            lambda version: self.profile(model, version, now, is_past=as_of is not None),
            name,
        )
        noted = self._with_rows(subject.evaluation, multivariate=False, slices=False)
        told = [incident.words for incident in incidents_within(context.store, model, window, now)]
        subject = replace(subject, evaluation=replace(noted, notes=(*noted.notes, *told)))
        real = None
        if rows != "surrogate":
            version = context.version(model, subject.evaluation.version)
            reference = self.reference(version, settings, now)
            if subject.reference is not None:
                subject = replace(subject, reference_span=span_of(reference))
            real = real_rows(context.store, subject, reference, rows if isinstance(rows, int) else None)
        is_judged = not subject.contract.more_labels  # Evidently's presets know one label
        kinds = [kind for kind in KINDS if kind == "drift" or (is_judged and subject.has_enough(kind))]
        paths: list[Path] = []
        with context.progress.track(f"report {name}", len(kinds)) as advance:
            for kind in kinds:
                paths += write_report(kind, subject, folder or context.reports, real)
                advance(1)
        try:
            version = context.version(model, subject.evaluation.version)
            context.registry.lineage.log_files(version, paths, "reports", now)
        except (NotFound, Unavailable) as error:  # the pages are there
            number = subject.evaluation.version
            _log.warning("report not kept in MLflow", model=model, version=number, cause=str(error))
        return paths

    def _tell_failure(self, model: str, failed: FailedWindow, error: Exception) -> None:
        where = "".join(traceback.format_exception(error))
        _log.error("window_failed", model=model, window=str(failed.window), attempts=failed.attempts, traceback=where)
        subject, title = f"stream:{model}:failed:{failed.window}", f"{model}: a window could not be evaluated"
        again = f"It is tried again from {format_moment(failed.next_attempt_at)} on; other windows go on."
        words = f"{failed.window}: {failed.cause.rstrip('.')}. {again}"
        raise_alert(self.context.store, subject, title, words, self.context.routes, self.context.clock(), model=model)

    def _with_rows(self, evaluation: Evaluation, *, multivariate: bool, slices: bool) -> Evaluation:
        """The evaluation with what only rows can say, as known at its moment, and a note if it lacks a reference."""
        context, model = self.context, evaluation.model
        settings = context.settings.model(model)
        rows = context.references.incomplete.get((model, evaluation.version))
        if rows is not None and not evaluation.drift:
            wanted = f"{settings.policy.reference:,} matured predictions with outcomes"
            lacking = f"the reference takes {wanted}, and there are {rows:,}"
            note = f"Drift, data quality and verdicts are not judged yet: {lacking}."
            evaluation = replace(evaluation, notes=(note, *evaluation.notes))
        slices = slices and evaluation.matured
        if not (multivariate or slices):
            return evaluation
        try:
            version, as_of = context.version(model, evaluation.version), evaluation.as_of
        except NotFound as error:  # it was deleted in the registry, and what it takes with it
            note = f"Slices and drift of columns together are not looked for: {error.cause}"
            return replace(evaluation, notes=(*evaluation.notes, note))
        redaction = context.scorer(version).redaction
        contract = redaction.logged
        sample = sample_window(context.store, contract, evaluation.window, version=version.version, as_of=as_of)
        if slices:
            evaluation = replace(evaluation, slices=find_slices(contract, sample.labelled))
        if multivariate:
            reference = context.references.rows_of_profile(
                redaction, version, settings.policy.reference, settings.maturity, settings.window, as_of=as_of
            )
            values = multivariate_values(contract, spread(reference, SAMPLE_ROWS), sample.rows)
            evaluation = replace(evaluation, drift=(*evaluation.drift, *values))
        return evaluation

    def missing_reference(self, model: str) -> MissingReference | None:
        """What the champion lacks before it can be judged; None where its reference is whole."""
        context, settings, version = self.context, self.context.settings.model(model), self.context.champion(model)
        rows = self.reference(version, settings, context.final(model, None)).num_rows
        wanted = settings.policy.reference
        if rows >= wanted:
            return None
        accounts = load_coverage(context.store, model)[0]
        about = when_enough(accounts, version.version, wanted - rows, settings.maturity)
        return MissingReference(model, version.version, rows, wanted, about)

    def exploration(self, model: str, version: str | None) -> ExplorationEffect | None:
        """How explored rows of the last 30 windows that have matured differ from the rest of those acted on.

        The store alone is asked: None where outcomes need no action, or the version has no reference yet.
        """
        context, settings = self.context, self.context.settings.model(model)
        if settings.outcomes.selection != "acted":
            return None
        with context.store.read() as connection:
            stored = profiles.load_reference(connection, model, version or "")
        contract = Profile.from_bytes(stored.profile).layout.contract if stored is not None else None
        if contract is None or not contract.join.needs_action:
            return None
        now = context.clock()
        until = context.matured_until(model, now)
        return exploration_effect(context.store, contract, Window(until - 30 * settings.window, until), now)

    def reference(
        self, version: ModelVersion, settings: ModelSettings, as_of: datetime, known: datetime | None = None
    ) -> pa.Table:
        """The version's reference as of a moment; of the log, what had matured by then, as known at a later one."""
        until, redaction = self.context.matured_until(version.model, as_of), self.context.scorer(version).redaction
        wanted = settings.policy.reference
        return self.context.references.rows(redaction, version, wanted, until, as_of=known or as_of)

    def known_until(self, model: str, as_of: datetime | None = None) -> datetime:
        """The moment as of which is evaluated; without one, all that has come by now is joined first."""
        if as_of is not None:
            return self.context.final(model, as_of)
        # The champion has its reference before its first predictions are joined: they are tallied as they come.
        self.profile(model, self.context.champion(model).version, self.context.clock(), is_past=False)
        return self.outcomes.join(model).until or self.context.final(model, None)

    def profile(self, model: str, version: str, as_of: datetime, *, is_past: bool) -> Profile | None:
        """The profile of a version's reference; None where it has none yet."""
        context, settings = self.context, self.context.settings.model(model)
        try:
            registered = context.version(model, version)
        except NotFound:  # it was deleted in the registry: what it answered is judged by what is kept here
            with context.store.read() as connection:
                kept = profiles.load_reference(connection, model, version)
            return Profile.from_bytes(kept.profile) if kept is not None else None
        return context.references.profile(
            context.scorer(registered).redaction,
            registered,
            settings.policy.reference,
            context.matured_until(model, as_of),
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
        """The reference losses of a version as of a moment."""
        rows = self.reference(version, settings, as_of, known)
        return baseline_of(self.context.scorer(version).logged, rows, settings)


def _id_of(incident: Incident | None) -> int | None:
    return incident.incident_id if incident is not None else None
