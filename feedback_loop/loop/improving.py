"""Retraining and promotion: better versions, found and put in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from feedback_loop.alerts import route_names
from feedback_loop.clock import format_moment
from feedback_loop.decisions import Reason, next_step, spent_until, wanted_step
from feedback_loop.decisions.diagnosis import LEAST_ROWS, Recommendation
from feedback_loop.errors import FeedbackLoopError, Refused, Unavailable
from feedback_loop.inference import SklearnEngine, make_scorer
from feedback_loop.loop.base import Wired
from feedback_loop.outcomes import (
    matured_until,
)
from feedback_loop.registry import Reference
from feedback_loop.retraining import RetrainingResult, Search, promote, reconcile, rollback
from feedback_loop.serving import warm
from feedback_loop.store import conclusions, retrainings
from feedback_loop.store.alerts import raise_alert
from feedback_loop.store.conclusions import State
from feedback_loop.store.incidents import open_incident
from feedback_loop.store.retrainings import Promotion


class Improving(Wired):
    """Everything that changes which version answers."""

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
        policy, now = self.settings.model(model).policy, self.clock()
        until = spent_until(retrainings.load_retrainings(self.store, model), policy, now)
        reason = self._step(model, wanted_step) if until is not None else None
        if until is None or reason is None:
            return ""
        again = f"again from {format_moment(until)} on" if policy.budget else "never by itself"
        words = f"It should be retrained ({reason}), but its budget of {policy.budget} in 90 days is spent: {again}."
        subject, title = f"retraining:{model}:{policy.budget}:{format_moment(until)}", f"{model} is not retrained"
        body = f"{words} By hand: feedback-loop retrain {model}."
        raise_alert(self.store, subject, title, body, route_names(self.settings.alerts), now)
        return words

    def _step(self, model: str, rule: Callable[..., Reason | None]) -> Reason | None:
        if self.held_by_diagnosis(model):
            return None
        policy, champion = self.settings.model(model).policy, self.champion(model)
        since = [each.done_at for each in self._promotions(model) if each.done_at is not None]
        verdict = conclusions.latest_verdict(self.store, model, champion.version)
        if verdict is not None and verdict.state is State.DEGRADED and open_incident(self.store, model) is None:
            verdict = None  # its incident is closed: it asks for nothing any more
        return rule(
            verdict,
            policy,
            retrainings=retrainings.load_retrainings(self.store, model),
            champion_since=since[-1] if since else champion.created_at,
            now=self.clock(),
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
        version = self.champion(model)
        champion = replace(self.scorer(version), version=version)  # with the tags that it has by now
        if champion.redaction.hides_features:
            raise Refused(
                f"{champion.version} can't be retrained: some of its features are logged hashed or not at all.",
                cure=f"Log them plain (models.{model}.log.columns), or train elsewhere and promote that version.",
            )
        if champion.contract.more_labels:
            raise Refused(
                f"{champion.version} can't be retrained: it predicts several labels.",
                cure="Train elsewhere and promote that version: feedback-loop models register, models promote.",
            )
        settings, now = self.settings.model(model), self._final(model, None)
        incident = open_incident(self.store, model)
        history = settings.retraining.history
        none = champion.engine.inputs.none if isinstance(champion.engine, SklearnEngine) else ()
        search = Search(
            store=self.store,
            registry=self.registry,
            champion=champion,
            score=lambda loaded: make_scorer(loaded, settings, self.settings.hash_key, none=none),
            settings=settings,
            until=matured_until(now, settings.maturity, settings.window),
            history=self.settings.path(history) if history else None,
            now=now,
            progress=self.progress,
            diagnosis=made.recommendation if (made := self._newest_diagnosis(model)) is not None else "",
        )
        return search.run(reason, incident.incident_id if incident is not None else None, promotes=promotes)

    def _newest_diagnosis(self, model: str) -> conclusions.Diagnosis | None:
        """The last one of the open incident; None where there is none."""
        incident = open_incident(self.store, model)
        made = conclusions.load_diagnoses(self.store, model, incident.incident_id) if incident is not None else []
        return made[-1] if made else None

    def check_servable(self, model: str, version: str) -> None:
        """Makes a version ready as a server would; raises Refused where it can't be answered with or logged."""
        found = self.registry.find(Reference(model, version=version))
        try:
            scorer = self.fastest_scorer(found)
            warm(scorer)
            self.check_storable(scorer)
        except Unavailable:
            raise
        except Exception as error:
            # Loading and answering run the model's own code, which may raise anything.
            said = error.cause if isinstance(error, FeedbackLoopError) else f"{type(error).__name__}: {error}"
            cure = error.cure if isinstance(error, FeedbackLoopError) else "Mend the model, and register it anew."
            raise Refused(f"{found} can't be served: {said}", cure=cure) from error

    def promote(self, model: str, version: str, *, reason: str = "by hand", force: bool = False) -> Promotion:
        """Makes a version the champion; raises NotFound, Refused, and ContractError for one that can't be logged.

        With `force` it is not looked at before. `check_servable` looks closer, and takes longer.
        """
        version = (found := self.registry.find(Reference(model, version=version))).version
        if not force:
            self.check_storable(self.scorer(found))
        alias = self.settings.model(model).alias
        routes = route_names(self.settings.alerts)
        return promote(
            self.store, self.registry, model, alias, version, reason=reason, now=self.clock(), routes=routes
        )

    def rollback(self, model: str, *, reason: str = "by hand") -> Promotion:
        """Makes the newest champion before this one, and before all that were rolled back, the champion again.

        Raises Refused where there is none.
        """
        alias = self.settings.model(model).alias
        routes = route_names(self.settings.alerts)
        return rollback(self.store, self.registry, model, alias, reason=reason, now=self.clock(), routes=routes)

    def reconcile(self, model: str) -> str | None:
        """Ends promotions that a crash interrupted and takes note of aliases that were moved in MLflow."""
        alias, routes = self.settings.model(model).alias, route_names(self.settings.alerts)
        return reconcile(self.store, self.registry, model, alias, self.clock(), routes)
