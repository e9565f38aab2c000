"""Rollouts: how a candidate takes over, and what watches it afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from feedback_loop.inference import why_unfit
from feedback_loop.loop.context import Context
from feedback_loop.promotion import RolloutDesk, compare_matured, judge_on_newer_rows
from feedback_loop.retraining import GateResult
from feedback_loop.store.freezes import held_by_freeze
from feedback_loop.store.rollouts import Rollout


@dataclass(frozen=True)
class Rollouts:
    """The part of the loop that compares versions on live rows, before a promotion and after it."""

    context: Context

    def desk(self, model: str) -> RolloutDesk:
        """What begins and follows the rollouts of a model."""
        context = self.context
        settings = context.settings.model(model)
        compare = partial(
            compare_matured,
            store=context.store,
            settings=settings,
            scorer=lambda version: context.scorer(context.version(model, version)),
        )
        return RolloutDesk(context.champions(model), settings, compare)

    def turn(self, model: str) -> dict[str, Any]:
        """One look at the rollout or probation of a model: rolls back, promotes or goes on.

        Returns what it is then, as plain values.
        """
        context = self.context
        if frozen := held_by_freeze(context.store, model):
            return {"held": frozen}
        if unfit := why_unfit(context.scorer(context.champion(model))):
            return {"held": f"Versions can't be compared on the log: {unfit}."}
        now = context.final(model, None)
        matured = context.matured_until(model, now)
        rollout = self.desk(model).turn(now, matured, lambda running: self._judged(running, matured, now))
        if rollout is None:
            return {"rollout": None}
        figures = {name: rollout.evidence.get(name) for name in ("counted", "difference", "harm", "gain")}
        names = ("rollout_id", "stage", "candidate", "baseline", "state", "ended_because")
        return {**{name: getattr(rollout, name) for name in names}, **figures}

    def _judged(self, rollout: Rollout, until: datetime, now: datetime) -> GateResult | str:
        context = self.context
        baseline, candidate = (
            context.scorer(context.version(rollout.model, version))
            for version in (rollout.baseline, rollout.candidate)
        )
        return judge_on_newer_rows(
            baseline,
            candidate,
            context.settings.model(rollout.model).retraining,
            store=context.store,
            until=until,
            now=now,
            since=rollout.since,
        )
