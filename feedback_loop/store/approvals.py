"""Approvals: people's yes or no to a candidate, with evidence, reasons and an end; each is used at most once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ForeignKeyConstraint, Index, Integer

from feedback_loop.clock import format_moment
from feedback_loop.errors import NotFound, Refused
from feedback_loop.store.alerts import Message, Routes, raise_in
from feedback_loop.store.engine import Store
from feedback_loop.store.freezes import refuse_frozen
from feedback_loop.store.records import Source, add, change, many, one
from feedback_loop.store.schema import PREFIX, shared_table


@dataclass(frozen=True)
class Approval:
    """One question whether `candidate` may replace `champion`, asked on this evidence.

    `open` until it is answered; `approved` once enough people have said yes; then `promoted`, or in its `rollout`. Or
    it ends otherwise:
    `rejected`, `superseded` by another candidate, `expired` (it is judged again) or, judged again, `refused`.
    """

    approval_id: int
    model: str
    candidate: str
    champion: str
    retraining_id: int | None
    needed: int  # so many people
    asked_at: datetime
    expires_at: datetime
    state: str
    evidence: dict[str, Any]
    ended_at: datetime | None = None
    ended_because: str | None = None


@dataclass(frozen=True)
class Vote:
    """One person's answer."""

    voter: str
    approves: bool
    reason: str
    voted_at: datetime


approvals = shared_table(
    "approvals",
    Approval,
    ForeignKeyConstraint(["retraining_id"], [f"{PREFIX}retrainings.retraining_id"]),
    key=["approval_id"],
)
Index(
    f"uq_{PREFIX}approvals_open",
    approvals.c.model,
    unique=True,  # one candidate of a model is asked about at a time
    sqlite_where=approvals.c.state.in_(("open", "approved")),
    postgresql_where=approvals.c.state.in_(("open", "approved")),
)

votes = shared_table(
    "approval_votes",
    Vote,
    Column("approval_id", Integer),
    ForeignKeyConstraint(["approval_id"], [approvals.c.approval_id]),
    key=["approval_id", "voter"],
)


def ask(store: Store, approval: Approval, routes: Routes = ()) -> Approval:
    """Stores a question, with an alert that has the command to answer it; one that was open is superseded."""
    with store.write() as connection:
        superseded = {
            "state": "superseded",
            "ended_at": approval.asked_at,
            "ended_because": f"Version {approval.candidate} was proposed instead.",
        }
        under_way = one(connection, Approval, model=approval.model, state="approved")
        if under_way is not None:
            cause = f"Approval {under_way.approval_id} was given: version {under_way.candidate} is being promoted."
            raise Refused(cause, cure="The next turn of the loop ends that; then search again.")
        change(connection, Approval, superseded, approvals.c.state.in_(("open", "expired")), model=approval.model)
        stored = replace(approval, approval_id=add(connection, approval))
        raise_in(connection, _message(stored), routes, stored.asked_at)
    return stored


def vote(
    store: Store, approval_id: int, *, voter: str, approves: bool, reason: str, now: datetime
) -> tuple[Approval, list[Vote]]:
    """Stores a person's answer and what follows from it: `approved` by enough of them, `rejected` by one.

    Raises NotFound, and Refused where it is answered, has expired, this person has answered, or the model is frozen.
    """
    voter = voter.strip().casefold()
    with store.write() as connection:
        change(connection, Approval, {"approval_id": approval_id}, approval_id=approval_id)  # others wait for its row
        approval = load_approval(connection, approval_id)
        if approval.state != "open":
            raise Refused(f"Approval {approval_id} is {approval.state}: it is not open any more.")
        if now >= approval.expires_at:
            cause = f"Approval {approval_id} has expired at {format_moment(approval.expires_at)}."
            raise Refused(cause, cure="The candidate is judged again, on newer rows, by the next turn of the loop.")
        if approves:
            refuse_frozen(connection, approval.model)
        if voter in {vote.voter for vote in load_votes(connection, approval_id)}:
            raise Refused(f"{voter} has answered already: {approval.needed} different people are needed.")
        add_vote = votes.insert().values(
            approval_id=approval_id, voter=voter, approves=approves, reason=reason, voted_at=now
        )
        connection.execute(add_vote)
        answers = load_votes(connection, approval_id)
        if not approves:
            approval = end(connection, approval, "rejected", f"{voter}: {reason}", now)
        elif len(answers) >= approval.needed:
            change(connection, Approval, {"state": "approved"}, approval_id=approval_id)
            approval = replace(approval, state="approved")
    return approval, answers


def end(source: Source, approval: Approval, state: str, because: str, now: datetime) -> Approval:
    """Ends an approval in this state, if it still is in the one that was read; returns it as it is then."""
    ended = {"state": state, "ended_at": now, "ended_because": because}
    change(source, Approval, ended, approval_id=approval.approval_id, state=approval.state)
    return load_approval(source, approval.approval_id)


def load_approval(source: Source, approval_id: int) -> Approval:
    """The approval with that number; raises NotFound."""
    approval = one(source, Approval, approval_id=approval_id)
    if approval is None:
        raise NotFound("approval", str(approval_id), cure="List them: feedback-loop approvals list --all.")
    return approval


def load_approvals(source: Source, model: str) -> list[Approval]:
    """All approvals of a model, oldest first."""
    return many(source, Approval, model=model, order_by="approval_id")


def waiting_approval(source: Source, model: str) -> Approval | None:
    """The approval that waits for people, or for the promotion that they have agreed to."""
    return one(source, Approval, approvals.c.state.in_(("open", "approved")), model=model)


def load_votes(source: Source, approval_id: int) -> list[Vote]:
    """The answers to an approval, oldest first."""
    return many(source, Vote, approval_id=approval_id, order_by=("voted_at", "voter"))


def _message(approval: Approval) -> Message:
    model, number = approval.model, approval.approval_id
    people = "" if approval.needed == 1 else f" {approval.needed} people are needed."
    body = (
        f"{approval.evidence.get('summary', '')} Look: feedback-loop approvals show {number}. Then: "
        f'feedback-loop approvals approve {number} --reason "…" (or reject). '
        f"It expires at {format_moment(approval.expires_at)}.{people}"
    )
    title = f"{model} version {approval.candidate} waits for approval, to replace version {approval.champion}"
    fields = {"model": model, "model_version": approval.candidate, "approval": str(number)}
    return Message(f"approval:{model}:{number}", title, body.strip(), None, fields, model)
