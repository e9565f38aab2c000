"""Approvals: what waits for people, who was asked and by when, on what evidence, and what they said."""

from __future__ import annotations

from typing import Any

from feedback_loop.loop import FeedbackLoop
from feedback_loop.plain import plain
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.approvals import Approval, load_approval, load_votes


def list_approvals(loop: FeedbackLoop, model: str | None = None, *, closed: bool = False) -> list[dict[str, Any]]:
    """What waits for an answer (and, if wanted, what is `closed`), of a model or of all, oldest first."""
    return [_row(loop, approval) for approval in loop.approvals.list(model, closed=closed)]


def approval_story(loop: FeedbackLoop, approval_id: int) -> dict[str, Any]:
    """One with its evidence, all answers, and whom it was sent to; raises NotFound."""
    approval = load_approval(loop.store, approval_id)
    subject = f"approval:{approval.model}:{approval_id}"
    asked = [
        {"route": alert.route, "state": alert.state, "sent_at": alert.sent_at, "cause": alert.cause}
        for alert in load_alerts(loop.store, [], about=subject)
        if alert.subject == subject
    ]
    votes = load_votes(loop.store, approval_id)
    return {**_row(loop, approval), "votes": plain(votes), "asked_on": plain(asked)}


def _row(loop: FeedbackLoop, approval: Approval) -> dict[str, Any]:
    """An approval as plain values; while it is open, so many more people have to say yes (`missing`)."""
    now, is_open = loop.clock(), approval.state == "open"
    given = sum(vote.approves for vote in load_votes(loop.store, approval.approval_id)) if is_open else 0
    return {
        **plain(approval),
        "missing": max(approval.needed - given, 0) if is_open else 0,
        "has_expired": is_open and now >= approval.expires_at,
        "expires_in_seconds": (approval.expires_at - now).total_seconds() if is_open else None,
    }
