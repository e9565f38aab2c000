"""Retraining and promotion: better versions, found and put in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from feedback_loop.clock import format_moment
from feedback_loop.decisions import Reason, next_step, spent_until, wanted_step
from feedback_loop.decisions.diagnosis import LEAST_ROWS, Recommendation
from feedback_loop.errors import Refused
from feedback_loop.inference import SklearnEngine, make_scorer
from feedback_loop.loop.context import Context
from feedback_loop.loop.outcomes import refuse_unfit
from feedback_loop.outcomes import (
    matured_until,
)
from feedback_loop.retraining import RetrainingResult, Search
from feedback_loop.store import conclusions, retrainings
from feedback_loop.store.alerts import raise_alert
from feedback_loop.store.conclusions import State
from feedback_loop.store.incidents import open_incident


@dataclass(frozen=True)
class Retraining:
    """Everything that changes which version answers."""

    context: Context

    def retrain_reason(self, model: str) -> Reason | None:
        """Why the model should be retrained now: its champion's alarm, the slow schedule, or not at all.

        Not while the newest diagnosis of the open incident holds it back (see `held_by_diagnosis`).
        """
        return self._step(model, next_step)

    def held_by_diagnosis(self, model: str) -> str:
        """Why no search should start while the open incident's newest diagnosis stands, in words; empty: it may.

        Nothing is learned from a feed that is to be repaired; and what is to be learned is not known before there are
        labelled rows enough for a diagnosis (only time brings those: a reference that is too small holds nothing).
        """
        made = self._newest_diagnosis(model)
        if made is not None and made.recommendation == Recommendation.REPAIR:
            return f"The feed is to be repaired: nothing is learned from broken rows. {made.summary}"
        lacks_rows = made is not None and made.evidence["rows_before"] >= LEAST_ROWS
        if made is not None and made.recommendation == Recommendation.INSUFFICIENT_DATA and lacks_rows:
            return f"The cause is not known yet. {made.summary}"
        return ""

    def tell_spent_budget(self, model: str) -> str:
        """Raises an alert, once, where a retraining is wanted and the budget is spent; returns what it says."""
        policy, now = self.context.settings.model(model).policy, self.context.clock()
        until = spent_until(retrainings.load_retrainings(self.context.store, model), policy, now)
        reason = self._step(model, wanted_step) if until is not None else None
        if until is None or reason is None:
            return ""
        again = f"again from {format_moment(until)} on" if policy.budget else "never by itself"
        words = f"It should be retrained ({reason}), but its budget of {policy.budget} in 90 days is spent: {again}."
        subject, title = f"retraining:{model}:{policy.budget}:{format_moment(until)}", f"{model} is not retrained"
        body = f"{words} By hand: feedback-loop retrain {model}."
        raise_alert(self.context.store, subject, title, body, self.context.routes, now)
        return words

    def _step(self, model: str, rule: Callable[..., Reason | None]) -> Reason | None:
        if self.held_by_diagnosis(model):
            return None
        policy, champion = self.context.settings.model(model).policy, self.context.champion(model)
        since = [each.done_at for each in self.context.promotions(model) if each.done_at is not None]
        verdict = conclusions.latest_verdict(self.context.store, model, champion.version)
        if (
            verdict is not None
            and verdict.state is State.DEGRADED
            and open_incident(self.context.store, model) is None
        ):
            verdict = None  # its incident is closed: it asks for nothing any more
        return rule(
            verdict,
            policy,
            retrainings=retrainings.load_retrainings(self.context.store, model),
            champion_since=since[-1] if since else champion.created_at,
            now=self.context.clock(),
        )

    def retrain(
        self, model: str, *, reason: Reason = "manual", promotes: bool = True, despite_diagnosis: bool = False
    ) -> RetrainingResult:
        """Searches for a better version, gates it and (if it `promotes`) makes it the champion.

        Raises Refused while the open incident's diagnosis speaks against it (but `despite_diagnosis`), for a model
        whose features the log does not hold plain, and for one of several labels.
        """
        if not despite_diagnosis and (held := self.held_by_diagnosis(model)):
            raise Refused(held, cure="Search all the same: retrain --yes, or despite_diagnosis=True.")
        version = self.context.champion(model)
        champion = replace(self.context.scorer(version), version=version)  # with the tags that it has by now
        refuse_unfit(
            champion,
            "retrained",
            instead=", or train elsewhere and promote that version",
            of_labels="Train elsewhere and promote that version: feedback-loop models register, models promote.",
        )
        settings, now = self.context.settings.model(model), self.context.final(model, None)
        incident = open_incident(self.context.store, model)
        history = settings.retraining.history
        none = champion.engine.inputs.none if isinstance(champion.engine, SklearnEngine) else ()
        search = Search(
            store=self.context.store,
            registry=self.context.registry,
            champion=champion,
            score=lambda loaded: make_scorer(loaded, settings, self.context.settings.hash_key, none=none),
            settings=settings,
            until=matured_until(now, settings.maturity, settings.window),
            history=self.context.settings.path(history) if history else None,
            now=now,
            progress=self.context.progress,
            diagnosis=made.recommendation if (made := self._newest_diagnosis(model)) is not None else "",
        )
        return search.run(reason, incident.incident_id if incident is not None else None, promotes=promotes)

    def _newest_diagnosis(self, model: str) -> conclusions.Diagnosis | None:
        """The last one of the open incident; None where there is none."""
        incident = open_incident(self.context.store, model)
        made = (
            conclusions.load_diagnoses(self.context.store, model, incident.incident_id)
            if incident is not None
            else []
        )
        return made[-1] if made else None
