"""Approvals: what waits for people, on what evidence; yes or no with a reason."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from feedback_loop.dashboard.access import Form, Loop, Who
from feedback_loop.dashboard.api import Number, answer_approval
from feedback_loop.dashboard.pages.links import Link
from feedback_loop.dashboard.pages.versions import GATES, TRIALS, gate_rows, trial_rows
from feedback_loop.dashboard.render import linked, page, path_to
from feedback_loop.dashboard.tables import Column, Table
from feedback_loop.errors import BadInput
from feedback_loop.store.keys import Scope
from feedback_loop.views.approvals import approval_story, list_approvals

LINK = Link("Approvals", "approvals")

router = APIRouter(include_in_schema=False)


@router.get("/approvals", name="approvals")
def approvals_page(request: Request, loop: Loop, visitor: Who) -> Response:
    """What waits, and what was decided."""
    columns = [
        Column("approval_id", "No.", "number", link=linked(request, "approval", {"approval_id": "approval_id"})),
        Column("model", "Model"),
        Column("candidate", "Candidate", "code"),
        Column("champion", "In place of", "code"),
        Column("gain", "Expected gain", "number"),
        Column("gain_at_least", "at least", "number"),
        Column("missing", "People missing", "number"),
        Column("asked_at", "Asked", "moment"),
        Column("expires_at", "Expires", "moment"),
    ]
    decided = [
        *columns[:6],
        Column("state", "State", "state"),
        Column("asked_at", "Asked", "moment"),
        Column("ended_at", "Ended", "moment"),
        Column("ended_because", "Because"),
    ]
    rows = [
        {**row, "gain": row["evidence"].get("gain"), "gain_at_least": row["evidence"].get("gain_at_least")}
        for model in visitor.visible(loop.settings.models)
        for row in list_approvals(loop, model, closed=True)
    ]
    rows.sort(key=lambda row: -row["approval_id"])
    waiting = [row for row in rows if row["ended_at"] is None]
    tables = [
        Table("waiting", "Waiting", columns, waiting, "Nothing waits for anybody."),
        Table("decided", "Decided", decided, [row for row in rows if row["ended_at"]], "Nothing was decided yet."),
    ]
    return page(request, "approvals.html", title="Approvals", tables=tables)


@router.get("/approvals/{approval_id}", name="approval")
def approval_page(request: Request, loop: Loop, visitor: Who, approval_id: Number) -> Response:
    """One approval."""
    story = approval_story(loop, approval_id)
    visitor.require(Scope.READ, story["model"])
    evidence = story["evidence"]
    votes = [{**vote, "answer": "yes" if vote["approves"] else "no"} for vote in story["votes"]]
    tables = [
        Table("gates", "Gates", GATES, gate_rows(evidence.get("gates")), "No gate is on record."),
        Table("differences", "What is different", _differences(), _different(evidence), "Nothing that is on record."),
        Table("trials", "Trials", TRIALS, trial_rows(evidence.get("trials")), "No trial is on record."),
        Table("votes", "Answers", _votes(), votes, "Nobody has answered."),
        Table("asked", "Sent to", _asked(), story["asked_on"], "No route for alerts is configured: nobody was told."),
    ]
    return page(
        request,
        "approval.html",
        title=f"Approval {approval_id}",
        model=story["model"],
        tables=tables,
        approval=story,
        evidence=evidence,
        may_answer=story["state"] == "open" and not story["has_expired"],
        has_scope=visitor.may(Scope.APPROVE, story["model"]),
    )


@router.post("/approvals/{approval_id}")
def answer(request: Request, loop: Loop, visitor: Who, form: Form, approval_id: Number) -> Response:
    """Yes or no, in the visitor's name."""
    model = approval_story(loop, approval_id)["model"]
    visitor.require(Scope.APPROVE, model)
    if form.get("answer") not in ("approve", "reject"):
        raise BadInput.of("answer", "is neither approve nor reject")
    is_yes = form["answer"] == "approve"
    answer_approval(loop, visitor, model, approval_id, approves=is_yes, reason=form.get("reason", ""))
    return RedirectResponse(path_to(request, "approval", approval_id=approval_id), status_code=303)


def _differences() -> list[Column]:
    return [
        Column("of", "Of"),
        Column("name", "Name", "code"),
        Column("champion", "Champion"),
        Column("candidate", "Candidate"),
    ]


def _different(evidence: dict[str, Any]) -> list[dict[str, Any]]:
    """What the candidate was made otherwise by: parameters that both have, and its data."""
    rows = [
        {"of": kind, "name": name, "champion": _text(old), "candidate": _text(new)}
        for kind in ("parameters", "data")
        for name, (old, new) in evidence.get(kind, {}).items()
    ]
    return [row for row in rows if row["champion"] != row["candidate"]]


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _votes() -> list[Column]:
    return [
        Column("voted_at", "When", "moment"),
        Column("voter", "Who"),
        Column("answer", "Answer", "state"),
        Column("reason", "Reason"),
    ]


def _asked() -> list[Column]:
    return [
        Column("route", "Route"),
        Column("state", "State", "state"),
        Column("sent_at", "Sent", "moment"),
        Column("cause", "Cause"),
    ]
