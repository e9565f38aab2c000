"""A model's versions, and the life of one: from trial to retirement."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from feedback_loop.dashboard.access import Loop, ModelName
from feedback_loop.dashboard.pages.links import Link
from feedback_loop.dashboard.render import linked, page
from feedback_loop.dashboard.tables import Column, Table
from feedback_loop.plain import plain
from feedback_loop.views.history import model_history
from feedback_loop.views.versions import model_versions, version_life

LINK = Link("Versions", "versions", of_model=True)

router = APIRouter(include_in_schema=False)

GATES = [Column("name", "Gate"), Column("state", "Result", "state"), Column("summary", "In words")]
TRIALS = [
    Column("name", "Window"),
    Column("recipe", "Recipe"),
    Column("why", "Why"),
    Column("trained_from", "Rows from", "moment"),
    Column("trained_until", "until", "moment"),
    Column("rows", "Rows", "number"),
    Column("loss", "Loss", "number"),
    Column("seconds", "Seconds", "number"),
    Column("state", "State", "state"),
    Column("cause", "Cause"),
]
EVENTS = [Column("at", "When", "moment"), Column("kind", "What", "state"), Column("words", "In words")]


@router.get("/models/{model}/versions", name="versions")
def versions_page(request: Request, loop: Loop, model: ModelName) -> Response:
    """All versions, and all that happened to them."""
    columns = [
        Column("version", "Version", "code", link=linked(request, "version", {"version": "version"}, model=model)),
        Column("state", "State", "state"),
        Column("reason", "Made because of"),
        Column("promoted_at", "Promoted", "moment"),
        Column("retired_at", "Retired", "moment"),
        Column("predictions", "Predictions", "number"),
        Column("newest", "The last thing that happened"),
    ]
    events = [*EVENTS[:2], Column("version", "Version", "code"), EVENTS[2]]
    tables = [
        Table(
            "versions", "Versions", columns, plain(model_versions(loop.store, model)), "No version is on record yet."
        ),
        Table("history", "History", events, list(reversed(plain(model_history(loop.store, model))))),
    ]
    return page(request, "versions.html", title=f"Versions of {model}", model=model, tables=tables)


@router.get("/models/{model}/versions/{version}", name="version")
def version_page(request: Request, loop: Loop, model: ModelName, version: str) -> Response:
    """One version."""
    life = version_life(loop.store, model, version)
    search = life["retraining"] or {}
    tables = [
        Table("gates", "Gates", GATES, gate_rows(search.get("gates")), "It went through no gate."),
        Table("trials", "Trials", TRIALS, trial_rows(search.get("trials")), "No trial is on record."),
        Table("rollouts", "Rollouts", _rollouts(), life["rollouts"], "It had no rollout."),
        Table("approvals", "Approvals", _approvals(request), life["approvals"], "Nobody was asked."),
        Table("promotions", "Promotions and rollbacks", _promotions(), life["promotions"], "It was never promoted."),
        Table("events", "All that happened", EVENTS, life["events"]),
    ]
    title = f"{model} version {version}"
    return page(
        request,
        "version.html",
        title=title,
        model=model,
        tables=tables,
        life=life,
        search=search,
        gate=search.get("gate") or {},
        in_mlflow=loop.registry.page_of(model, version),
    )


def gate_rows(gates: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Gates with their result as a state."""
    return [{**gate, "state": "passed" if gate["passed"] else "failed"} for gate in gates or ()]


def trial_rows(trials: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Trials with what became of them as a state."""
    return [
        {**trial, "state": "chosen" if trial["chosen"] else "left out" if trial["cause"] else ""}
        for trial in trials or ()
    ]


def _rollouts() -> list[Column]:
    return [
        Column("since", "Since", "moment"),
        Column("stage", "Stage", "state"),
        Column("candidate", "Candidate", "code"),
        Column("baseline", "Beside", "code"),
        Column("state", "State", "state"),
        Column("until", "Judged until", "moment"),
        Column("ended_at", "Ended", "moment"),
        Column("ended_because", "Because"),
    ]


def _approvals(request: Request) -> list[Column]:
    return [
        Column("approval_id", "No.", "number", link=linked(request, "approval", {"approval_id": "approval_id"})),
        Column("state", "State", "state"),
        Column("champion", "In place of", "code"),
        Column("asked_at", "Asked", "moment"),
        Column("ended_at", "Ended", "moment"),
        Column("ended_because", "Because"),
    ]


def _promotions() -> list[Column]:
    return [
        Column("done_at", "When", "moment"),
        Column("kind", "What", "state"),
        Column("from_version", "From", "code"),
        Column("to_version", "To", "code"),
        Column("made_by", "By"),
        Column("reason", "Reason"),
    ]
