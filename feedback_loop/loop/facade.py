"""The facade itself, and what is made from it."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Self

from feedback_loop.capture import Client
from feedback_loop.clock import Clock, system_clock
from feedback_loop.config import Settings, load_settings
from feedback_loop.decisions import Suggestion
from feedback_loop.loop.adapter import Adapters
from feedback_loop.loop.alerts import Alerts
from feedback_loop.loop.approvals import Approvals
from feedback_loop.loop.backtesting import Backtesting
from feedback_loop.loop.context import Context
from feedback_loop.loop.diagnosing import Diagnosing
from feedback_loop.loop.incidents import Incidents
from feedback_loop.loop.jobs import Jobs
from feedback_loop.loop.judging import Judging
from feedback_loop.loop.models import Models
from feedback_loop.loop.outcomes import Outcomes
from feedback_loop.loop.predictions import Predictions
from feedback_loop.loop.privacy import Privacy
from feedback_loop.loop.retraining import Retraining
from feedback_loop.loop.rollouts import Rollouts
from feedback_loop.loop.unfit_adapter import stop_for_next
from feedback_loop.progress import Progress
from feedback_loop.scheduling import Runner
from feedback_loop.schema import RandomBits
from feedback_loop.store import migrate
from feedback_loop.tracing import start_tracing


class FeedbackLoop:
    """The whole loop over one store and one registry. Methods raise FeedbackLoopError's children only.

    What is done every day is a verb of the loop itself; all of it is with its parts, named as the groups of commands:
    `loop.models.register`, `loop.outcomes.load`, `loop.incidents.ack`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock = system_clock,
        progress: Progress | None = None,
        bits: RandomBits = secrets.randbits,
    ) -> None:
        context = Context.of(settings, stop_for_next, clock=clock, progress=progress, bits=bits)
        self.context, self.settings, self.clock, self.progress = context, settings, clock, context.progress
        self.store, self.registry, self.reports = context.store, context.registry, context.reports
        self.champion, self.find, self.scorer = context.champion, context.find, context.scorer
        trace = start_tracing if settings.scheduler.trace else None
        self.runner = Runner(self.store, clock, settings.scheduler.lease, trace=trace)

        self.outcomes = outcomes = Outcomes(context)
        self.actions = Outcomes(context, are_actions=True)
        self.models = models = Models(context)
        self.incidents, self.alerts, self.jobs = Incidents(context), Alerts(context), Jobs(context)
        self.predictions = predictions = Predictions(context)
        self.judging = judging = Judging(context, outcomes)
        self.rollouts = rollouts = Rollouts(context)
        self.approvals = approvals = Approvals(context, rollouts)
        self.adapter = adapter = Adapters(context, judging)
        retraining, privacy = Retraining(context, approvals, rollouts, adapter), Privacy(context)
        diagnosing = Diagnosing(context, judging, outcomes)

        self.predict, self.predict_file = predictions.predict, predictions.predict_file
        self.import_predictions, self.capture_client = predictions.import_rows, predictions.capture_client
        self.forward, self.accounts = predictions.forward, predictions.accounts
        self.record_actions = self.actions.record
        self.record_outcomes, self.join, self.labelled = outcomes.record, outcomes.join, outcomes.labelled
        self.evaluate, self.decide, self.report = judging.evaluate, judging.decide, judging.report
        self.deliver_alerts = self.alerts.deliver
        self.watch_volume, self.watch_drift = judging.watch_volume, judging.watch_drift
        self.diagnose, self.diagnose_incident = diagnosing.diagnose, diagnosing.diagnose_incident
        self.judge_diagnoses = diagnosing.judge_diagnoses
        self.backtest = Backtesting(context, judging).backtest
        self.retrain, self.retrain_reason = retraining.retrain, retraining.retrain_reason
        self.outline_retraining, self.training_rows = retraining.outline_retraining, retraining.training_rows
        self.held_by_diagnosis, self.tell_spent_budget = retraining.held_by_diagnosis, retraining.tell_spent_budget
        self.promote, self.rollback, self.reconcile = models.promote, models.rollback, models.reconcile
        self.freeze, self.unfreeze = models.freeze, models.unfreeze
        self.retain, self.prune, self.erase = privacy.retain, privacy.prune, privacy.erase

    @classmethod
    def open(cls, path: str | Path | None = None, **options: Any) -> Self:
        """A loop by its configuration; makes the tables of an empty store. Options are those of the constructor."""
        loop = cls(load_settings(Path(path) if path is not None else None), **options)
        migrate.prepare(loop.store)
        return loop

    def suggest_policy(self, model: str) -> list[Suggestion]:
        """Suggested maturity, units, cycle, tolerance, reference, adapter, each with its reason; raises NotFound."""
        return [*self.judging.suggest_policy(model), self.adapter.suggest(model)]

    def close(self) -> None:
        """Gives database connections back."""
        self.store.close()


def open_client(path: str | Path | None = None, **options: Any) -> Client:
    """A capture client by the configuration alone; at its end (or that of a `with`) it gives all back."""
    loop = FeedbackLoop.open(path, **options)
    return loop.capture_client(close=loop.close)
