"""Approvals: a candidate that passed waits for people; it is promoted once, fresh, or judged again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from feedback_loop.clock import format_moment
from feedback_loop.config_policy import ApprovalSettings
from feedback_loop.errors import NotFound
from feedback_loop.promotion.fence import Champions
from feedback_loop.promotion.rollout import RolloutDesk
from feedback_loop.registry import Reference
from feedback_loop.retraining import GateResult
from feedback_loop.store import Store, approvals, retrainings
from feedback_loop.store.approvals import Approval, Vote
from feedback_loop.store.rollouts import load_rollouts

LONGEST_TAG = 1000
"""So much of people's words goes into a tag in MLflow."""


@dataclass(frozen=True)
class ApprovalDesk:
    """Asks people about candidates of one model, and does what they say."""

    rollout: RolloutDesk  # by which an approved candidate takes over
    settings: ApprovalSettings

    @property
    def champions(self) -> Champions:
        """Who is the champion."""
        return self.rollout.champions

    @property
    def store(self) -> Store:
        """Where approvals are kept."""
        return self.champions.store

    def ask(
        self,
        candidate: str,
        champion: str,
        evidence: Mapping[str, Any],
        now: datetime,
        *,
        retraining_id: int | None = None,
    ) -> Approval:
        """Asks whether a candidate may replace the champion. A question that was open is superseded."""
        question = Approval(
            approval_id=0,
            model=self.champions.model,
            candidate=candidate,
            champion=champion,
            retraining_id=retraining_id,
            needed=self.settings.needed,
            asked_at=now,
            expires_at=now + self.settings.expires,
            state="open",
            evidence=dict(evidence),
        )
        return approvals.ask(self.store, question, self.champions.routes)

    def approve(self, approval_id: int, *, by: str, reason: str, now: datetime) -> Approval:
        """One person's yes; with the last that is needed the candidate is promoted, or its rollout begins.

        Raises NotFound, Refused, and Unavailable where the registry is away: the loop's next turn carries it out.
        """
        approval, _ = approvals.vote(self.store, approval_id, voter=by, approves=True, reason=reason, now=now)
        return self.carry_out(approval, now) if approval.state == "approved" else approval

    def reject(self, approval_id: int, *, by: str, reason: str, now: datetime) -> Approval:
        """One person's no, which is enough. Raises NotFound, Refused; Unavailable (it is rejected all the same)."""
        approval, answers = approvals.vote(self.store, approval_id, voter=by, approves=False, reason=reason, now=now)
        self._tag(approval, "rejected", answers)
        return approval

    def settle(self, now: datetime) -> Approval | None:
        """Carries out what was approved, and lets expire what is too old or asks about another champion.

        Returns the newest approval as it stands then: one that is `expired` is to be judged again.
        """
        waiting = approvals.waiting_approval(self.store, self.champions.model)
        if waiting is not None and waiting.state == "approved":
            self.carry_out(waiting, now)
        elif waiting is not None and (why := self._why_stale(waiting, now)):
            approvals.end(self.store, waiting, "expired", why, now)
        return next(reversed(approvals.load_approvals(self.store, self.champions.model)), None)

    def carry_out(self, approval: Approval, now: datetime) -> Approval:
        """Promotes an approved candidate (or begins its rollout), once. One that is stale by now expires."""
        if any(begun.approval_id == approval.approval_id for begun in load_rollouts(self.store, approval.model)):
            return approvals.end(self.store, approval, "rollout", "Its rollout has begun.", now)
        used = next(
            (
                promotion
                for promotion in retrainings.load_promotions(self.store, approval.model)
                if promotion.approval_id == approval.approval_id
            ),
            None,
        )
        if used is not None and used.state == "done":
            return approvals.end(self.store, approval, "promoted", used.reason, now)
        if used is not None and used.is_open:
            return approval  # its process works on it, or the registry is away
        why = f"Its promotion failed: {used.cause}" if used is not None else self._why_stale(approval, now)
        if why:
            return approvals.end(self.store, approval, "expired", why, now)
        answers = approvals.load_votes(self.store, approval.approval_id)
        who = ", ".join(answer.voter for answer in answers)
        reason = f"approved by {who}: {'; '.join(answer.reason for answer in answers)}"
        try:
            self._tag(approval, "approved", answers)
            landed = self.rollout.land(
                approval.candidate,
                approval.champion,
                now,
                reason=reason,
                made_by=who,
                retraining_id=approval.retraining_id,
                approval_id=approval.approval_id,
                evidence=approval.evidence,
            )
        except NotFound as error:
            return approvals.end(self.store, approval, "refused", error.cause, now)
        return approvals.end(self.store, approval, landed, reason, now)

    def judged_again(self, expired: Approval, gate: GateResult, now: datetime) -> Approval:
        """What a fresh judgement of an expired candidate leads to: it is asked about anew, or refused."""
        if not gate.passed:
            return approvals.end(self.store, expired, "refused", f"Judged again: {gate.summary}", now)
        champion = self.champions.reconcile(now)
        fresh = {**expired.evidence, **gate_evidence(gate), "judged_again": expired.approval_id}
        return self.ask(
            expired.candidate, champion or expired.champion, fresh, now, retraining_id=expired.retraining_id
        )

    def _why_stale(self, approval: Approval, now: datetime) -> str:
        if now >= approval.expires_at:
            return f"Nobody said yes in time, that is by {format_moment(approval.expires_at)}."
        champion = self.champions.reconcile(now)
        if champion != approval.champion:
            return f"The champion is version {champion} by now, not {approval.champion}."
        return ""

    def _tag(self, approval: Approval, answer: str, answers: list[Vote]) -> None:
        registry = self.champions.registry
        version = registry.find(Reference(approval.model, version=approval.candidate), exactly=True)
        counted = [vote for vote in answers if vote.approves is (answer == "approved")]
        tags = {
            "approval": f"{approval.approval_id}: {answer}",
            f"{answer}_by": ", ".join(vote.voter for vote in counted),
            f"{answer}_because": "; ".join(vote.reason for vote in counted),
        }
        registry.tag(version, {name: text[:LONGEST_TAG] for name, text in tags.items()})


def gate_evidence(gate: GateResult) -> dict[str, Any]:
    """A gate's figures, with how much of the loss the candidate saves, and at least, at the gate's confidence."""
    at_least = -gate.upper if gate.upper is not None else None
    return {"summary": gate.summary, "gate": asdict(gate), "gain": -gate.difference, "gain_at_least": at_least}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The names whose values differ, with both; None where there is none."""
    names = sorted({*before, *after})
    return {name: [before.get(name), after.get(name)] for name in names if before.get(name) != after.get(name)}


def parameters(estimator: Any) -> dict[str, Any]:
    """A scikit-learn estimator's parameters, as far as they are plain values or names of steps; else none."""
    if not hasattr(estimator, "get_params"):
        return {}
    values = {name: value for name, value in estimator.get_params(deep=True).items() if name != "steps"}
    plain = {name: value for name, value in values.items() if isinstance(value, bool | int | float | str | None)}
    kinds = {name: type(value).__name__ for name, value in values.items() if hasattr(value, "get_params")}
    return {"estimator": type(estimator).__name__, **plain, **kinds}
