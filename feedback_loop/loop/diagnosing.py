"""Diagnosis: why the champion has become worse, asked of the log, kept, and held against what followed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from feedback_loop.clock import Window
from feedback_loop.decisions.diagnosis import (
    advice_message,
    changed_window,
    comparable_rows,
    find_causes,
    is_owed,
    judge_diagnoses,
    record_causes,
    score_with,
)
from feedback_loop.errors import Refused
from feedback_loop.inference import refuse_unfit
from feedback_loop.loop.context import Context
from feedback_loop.loop.judging import Judging
from feedback_loop.loop.outcomes import Outcomes
from feedback_loop.monitoring import sample_window
from feedback_loop.registry import ModelVersion
from feedback_loop.store.alerts import raise_in
from feedback_loop.store.conclusions import Diagnosis


@dataclass(frozen=True)
class Diagnosing:
    """What lies behind a verdict."""

    context: Context
    judging: Judging
    outcomes: Outcomes

    def diagnose(self, model: str, window: Window | None = None, as_of: datetime | None = None) -> Diagnosis:
        """Why the champion's loss in a window is another than on its reference, and what is to be done; it is kept.

        What data quality has found in the window is told first; it is by default that from the change which the
        latest verdict estimates to its end. Of a moment of the past it is the diagnosis of then, to the bit, of the
        version that was the champion then. At most 6,000 rows of each side are looked at. Raises NotFound where
        nothing has been judged and no window is given, and Refused for a model whose features the log does not hold
        plain, one of several labels, and one without a reference.
        """
        store, settings = self.context.store, self.context.settings.model(model)
        now = self.context.final(model, as_of)
        version = self._champion_at(model, now)
        scorer = self.context.scorer(version)
        advice = "See which label has become worse (feedback-loop evaluate), or register a model for each."
        refuse_unfit(scorer, "diagnosed", of_labels=advice)
        window = window or changed_window(store, model, version.version, now)
        self.outcomes.refuse_removed(model, window)
        reference = self.judging.reference(version, settings, now)
        if not reference.num_rows:
            raise Refused(
                f"{version} has no reference: there is nothing that it could have become worse than.",
                cure="Register it with reference rows, or wait until its first labelled predictions have matured.",
            )
        contract, policy = scorer.logged, settings.policy
        current = sample_window(store, contract, window, version=version.version, as_of=now).labelled
        reference, current = comparable_rows(reference, current)
        causes = find_causes(
            contract,
            reference,
            current,
            score_with(scorer.engine, contract),
            length=settings.window,
            seed=policy.seed,
        )
        is_of_now, wanted = as_of is None, policy.reference
        return record_causes(
            store, contract, version.version, causes, window, now, is_of_now=is_of_now, reference=wanted
        )

    def diagnose_incident(self, model: str) -> Diagnosis | None:
        """The diagnosis of the open incident, made anew with each degraded verdict; None where there is none to make.

        It is told when it says something new. What earlier ones recommended is held against what has followed by now.
        """
        self.judge_diagnoses(model)
        if not is_owed(self.context.store, model, self.context.champion(model).version):
            return None
        made = self.diagnose(model)
        with self.context.store.write() as connection:
            raise_in(connection, advice_message(made), self.context.routes, self.context.clock())
        return made

    def judge_diagnoses(self, model: str) -> int:
        """Records whether recommendations were right, where what followed has shown it; counts those."""
        return judge_diagnoses(self.context.store, model, self.context.promotions(model))

    def _champion_at(self, model: str, moment: datetime) -> ModelVersion:
        """Who answered callers then."""
        moments = [(promotion.done_at, promotion.to_version) for promotion in self.context.promotions(model)]
        done = [version for done_at, version in moments if done_at is not None and done_at <= moment]
        return self.context.version(model, done[-1]) if done else self.context.champion(model)
