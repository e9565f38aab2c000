"""Approvals: which candidates wait for people, and what these say."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from feedback_loop.errors import BadInput, FeedbackLoopError, NotFound, Unavailable
from feedback_loop.loop.context import Context
from feedback_loop.loop.rollouts import Rollouts
from feedback_loop.plain import plain
from feedback_loop.promotion import ApprovalDesk, differences, gate_evidence, judge_on_newer_rows, parameters
from feedback_loop.retraining import RetrainingResult
from feedback_loop.store import approvals
from feedback_loop.store.approvals import Approval
from feedback_loop.store.freezes import held_by_freeze


@dataclass(frozen=True)
class Approvals:
    """The part of the loop that asks people before a promotion (`policy.mode = "propose"`)."""

    context: Context
    rollouts: Rollouts

    def list(self, model: str | None = None, *, closed: bool = False) -> Sequence[Approval]:
        """The open approvals (and the `closed` ones) of a model or of all, oldest first."""
        if model is not None:
            self.context.settings.model(model)
        names = self.context.settings.models if model is None else [model]
        loaded = [approval for name in names for approval in approvals.load_approvals(self.context.store, name)]
        loaded.sort(key=lambda approval: approval.approval_id)
        return [approval for approval in loaded if closed or approval.ended_at is None]

    def show(self, approval_id: int) -> dict[str, Any]:
        """One with its evidence and all answers, as plain values; raises NotFound."""
        approval = approvals.load_approval(self.context.store, approval_id)
        answers = approvals.load_votes(self.context.store, approval_id)
        return {**plain(approval), "votes": plain(answers)}

    def approve(self, approval_id: int, *, reason: str, by: str | None = None) -> Approval:
        """One person's yes (`by`: who is logged in); with the last that is needed the candidate is promoted.

        Raises NotFound, BadInput without a reason, and Refused: answered already, expired, frozen. Unavailable where
        the registry is away: the next turn carries the promotion out.
        """
        desk, reason = self._desk(approval_id), _required(reason)
        return desk.approve(approval_id, by=by or getpass.getuser(), reason=reason, now=self.context.clock())

    def reject(self, approval_id: int, *, reason: str, by: str | None = None) -> Approval:
        """One person's no, which is enough. Raises as `approve` does."""
        desk, reason = self._desk(approval_id), _required(reason)
        return desk.reject(approval_id, by=by or getpass.getuser(), reason=reason, now=self.context.clock())

    def ask(self, model: str, result: RetrainingResult, now: datetime) -> Approval:
        """Asks about the candidate of a search, with its gate, and how it differs from the champion."""
        assert result.candidate is not None  # only a candidate that passed is asked about
        assert result.gate is not None  # likewise
        versions = [self.context.version(model, version) for version in (result.champion, result.candidate)]
        origins = [self.context.registry.lineage.origin_of(version) for version in versions]
        estimators = [self.context.scorer(version).loaded.estimator for version in versions]
        evidence = {
            **gate_evidence(result.gate),
            "summary": result.summary,
            "gates": plain(result.gates),
            "trials": plain(result.trials),
            "parameters": differences(*map(parameters, estimators)),
            "data": differences(*origins),
        }
        return self._desk_of(model).ask(
            result.candidate, result.champion, evidence, now, retraining_id=result.retraining_id
        )

    def settle(self, model: str) -> dict[str, Any]:
        """Carries out what was approved; judges again, on newer rows, what has expired.

        Returns the newest approval's number and state, and why it stands as it does.
        """
        now = self.context.clock()
        if frozen := held_by_freeze(self.context.store, model):
            return {"held": frozen}
        desk = self._desk_of(model)
        newest, waits = desk.settle(now), ""
        if newest is not None and newest.state == "expired":
            newest, waits = self._judge_again(desk, newest, now)
        if newest is None:
            return {"approval": None}
        because = waits or newest.ended_because
        return {"approval": newest.approval_id, "state": newest.state, "because": because}

    def _judge_again(self, desk: ApprovalDesk, expired: Approval, now: datetime) -> tuple[Approval, str]:
        context, model = self.context, expired.model
        champion = context.champion(model)
        if champion.version == expired.candidate:
            because = "It was made the champion by hand."
            return approvals.end(context.store, expired, "superseded", because, now), ""
        try:
            candidate = context.scorer(context.version(model, expired.candidate))
            judged = judge_on_newer_rows(
                context.scorer(champion),
                candidate,
                context.settings.model(model).retraining,
                store=context.store,
                until=context.matured_until(model, context.final(model, None)),
                now=now,
            )
        except Unavailable:
            raise
        except (NotFound, FeedbackLoopError) as error:  # it is gone, or can't be loaded or compared any more
            return approvals.end(context.store, expired, "refused", f"Judged again: {error.cause}", now), ""
        if isinstance(judged, str):
            return expired, f"It is judged again once there are rows enough: {judged}"
        return desk.judged_again(expired, judged, now), ""

    def _desk(self, approval_id: int) -> ApprovalDesk:
        return self._desk_of(approvals.load_approval(self.context.store, approval_id).model)

    def _desk_of(self, model: str) -> ApprovalDesk:
        return ApprovalDesk(self.rollouts.desk(model), self.context.settings.model(model).approval)


def _required(reason: str) -> str:
    if not reason.strip():
        raise BadInput.of("reason", "is empty", cure="Give --reason a few words.")
    return reason.strip()
