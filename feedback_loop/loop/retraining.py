"""Retraining: whether it is time for one, and the search for a better version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import pyarrow as pa

from feedback_loop.adaptation import mistrusted
from feedback_loop.clock import format_moment
from feedback_loop.decisions import Reason, held_by, next_step, spent_until, wanted_step
from feedback_loop.errors import NotFound, Refused
from feedback_loop.inference import make_scorer, refuse_unfit
from feedback_loop.loop.adapter import Adapters
from feedback_loop.loop.approvals import Approvals
from feedback_loop.loop.context import Context
from feedback_loop.loop.rollouts import Rollouts
from feedback_loop.promotion import THE_LOOP
from feedback_loop.registry import ModelVersion
from feedback_loop.retraining import Outline, RetrainingResult, Search, Trainer, outline, rows_again
from feedback_loop.store import conclusions, retrainings
from feedback_loop.store.adapters import load_revisions
from feedback_loop.store.alerts import raise_alert
from feedback_loop.store.conclusions import State
from feedback_loop.store.freezes import refuse_frozen
from feedback_loop.store.incidents import open_incident
from feedback_loop.store.rollouts import load_rollouts


@dataclass(frozen=True)
class Retraining:
    """The part of the loop that looks for better versions."""

    context: Context
    approvals: Approvals
    rollouts: Rollouts
    adapters: Adapters

    def retrain_reason(self, model: str) -> Reason | None:
        """Why the model should be retrained now: its champion's alarm, the slow schedule, or not at all.

        Not while the newest diagnosis of the open incident holds it back (see `held_by_diagnosis`).
        """
        return self._step(model, next_step)

    def held_by_diagnosis(self, model: str) -> str:
        """Why no search should start while the open incident's newest diagnosis stands, in words; empty: it may."""
        return held_by(self._newest_diagnosis(model))

    def tell_spent_budget(self, model: str) -> str:
        """Raises an alert, once, where a retraining is wanted and the budget is spent; returns what it says."""
        context = self.context
        policy, now = context.settings.model(model).policy, context.clock()
        until = spent_until(retrainings.load_retrainings(context.store, model), policy, now)
        reason = self._step(model, wanted_step) if until is not None else None
        if until is None or reason is None:
            return ""
        again = f"again from {format_moment(until)} on" if policy.budget else "never by itself"
        words = f"It should be retrained ({reason}), but its budget of {policy.budget} in 90 days is spent: {again}."
        subject, title = f"retraining:{model}:{policy.budget}:{format_moment(until)}", f"{model} is not retrained"
        body = f"{words} By hand: feedback-loop retrain {model}."
        raise_alert(context.store, subject, title, body, context.routes, now, model=model)
        return words

    def _step(self, model: str, rule: Callable[..., Reason | None]) -> Reason | None:
        if self.held_by_diagnosis(model):
            return None
        context, store = self.context, self.context.store
        champion = context.champion(model)
        since = [promotion.done_at for promotion in context.promotions(model) if promotion.done_at is not None]
        verdict = conclusions.latest_verdict(store, model, champion.version)
        if verdict is not None and verdict.state is State.DEGRADED and open_incident(store, model) is None:
            verdict = None  # its incident is closed: it asks for nothing any more
        return rule(
            verdict,
            context.settings.model(model).policy,
            retrainings=retrainings.load_retrainings(store, model),
            champion_since=since[-1] if since else champion.created_at,
            now=context.clock(),
        )

    def retrain(
        self, model: str, *, reason: Reason = "manual", promotes: bool = True, despite_diagnosis: bool = False
    ) -> RetrainingResult:
        """Searches for a better version, gates it and (if it `promotes`) makes it the champion; in the mode
        `propose` it asks for approval instead.

        Raises Refused while the model is frozen or the open incident's diagnosis speaks against it (but
        `despite_diagnosis`), for a model whose features the log does not hold plain, and for one of several labels.
        """
        refuse_frozen(self.context.store, model)
        diagnosis = self._newest_diagnosis(model)
        if not despite_diagnosis and (held := held_by(diagnosis)):
            raise Refused(held, cure="Search all the same: retrain --yes, or despite_diagnosis=True.")
        now, incident = self.context.final(model, None), open_incident(self.context.store, model)
        incident_id = incident.incident_id if incident is not None else None
        settle = partial(self._settle, model, now) if promotes else None
        return self._search(model, now).run(reason, incident_id, settle=settle)

    def outline_retraining(self, model: str) -> Outline:
        """What `retrain` would do now, and about how long that would take; raises as it does."""
        return outline(self._search(model, self.context.final(model, None)))

    def training_rows(self, version: ModelVersion) -> pa.Table:
        """The rows that a version of a retraining's was trained on, again: features, label, `predicted_at`, weight.

        Raises NotFound for a version that no retraining has made, and Refused where they are not the same any more.
        """
        context, history = self.context, self.context.settings.model(version.model).retraining.history
        source = context.registry.lineage.training_source(version)
        path = context.settings.path(history) if history else None
        return rows_again(context.store, context.scorer(version), source, path).table

    def _search(self, model: str, now: datetime) -> Search:
        context = self.context
        version = context.champion(model)
        champion = replace(context.scorer(version), version=version)  # with the tags that it has by now
        refuse_unfit(
            champion,
            "retrained",
            instead=", or train elsewhere and promote that version",
            of_labels="Train elsewhere and promote that version: feedback-loop models register, models promote.",
        )
        settings = context.settings.model(model)
        history = settings.retraining.history
        return Search(
            store=context.store,
            registry=context.registry,
            champion=champion,
            score=lambda loaded: make_scorer(loaded, settings, context.settings.hash_key, none=champion.inputs.none),
            settings=settings,
            until=context.matured_until(model, now),
            history=context.settings.path(history) if history else None,
            now=now,
            progress=context.progress,
            diagnosis=self._newest_diagnosis(model),
            trainer=self._trainer(model, now),
            mistrusted=mistrusted(load_revisions(context.store, model)) if settings.adapter.mode == "on" else (),
            anticipation=partial(self.adapters.anticipation, model),
        )

    def _trainer(self, model: str, now: datetime) -> Trainer | None:
        context, settings = self.context, self.context.settings.model(model).retraining
        if settings.trainer is None:
            return None
        home = context.settings.path("")
        return Trainer(
            settings.trainer,
            home,
            settings.time_limit,
            context.registry,
            context.progress,
            now,
            check=context.store.check,
        )

    def _settle(self, model: str, now: datetime, result: RetrainingResult, reason: Reason) -> str:
        assert result.candidate is not None  # only a candidate that passed is settled
        self._refuse_blocked(model, result.candidate)
        if self.context.settings.model(model).policy.mode == "propose":
            self.approvals.ask(model, result, now)
            return "proposed"
        return self.rollouts.desk(model).land(
            result.candidate,
            result.champion,
            now,
            reason=f"{reason}: {result.summary}",
            made_by=THE_LOOP,
            retraining_id=result.retraining_id,
        )

    def _refuse_blocked(self, model: str, candidate: str) -> None:
        """Raises Refused for the recipe and rows of a version that was found to be worse on live rows."""
        versions = [
            rollout.candidate for rollout in load_rollouts(self.context.store, model) if rollout.state == "harmful"
        ]
        made = self._recipe(model, candidate) if versions else {}
        for version in versions:
            if made and self._recipe(model, version) == made:
                cause = f"Version {candidate} has the recipe and the rows of version {version}, which was worse."
                raise Refused(cause, cure="Wait for newer rows.")

    def _recipe(self, model: str, version: str) -> dict[str, str]:
        """What a version was made of."""
        try:
            origin = self.context.registry.lineage.origin_of(self.context.version(model, version))
        except NotFound:
            return {}
        return {name: value for name, value in origin.items() if name != "as_of"}

    def _newest_diagnosis(self, model: str) -> conclusions.Diagnosis | None:
        """The last one of the open incident; None where there is none."""
        incident = open_incident(self.context.store, model)
        if incident is None:
            return None
        return next(reversed(conclusions.load_diagnoses(self.context.store, model, incident.incident_id)), None)
