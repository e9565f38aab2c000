"""A model's policy: as it is configured, and what a changed one would have said of the log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from feedback_loop.clock import parse_duration
from feedback_loop.dashboard.access import Form, Loop, ModelName, Who
from feedback_loop.dashboard.backtests import Asked, Backtests
from feedback_loop.dashboard.pages.links import Link
from feedback_loop.dashboard.render import page, path_to
from feedback_loop.dashboard.tables import Column, Table
from feedback_loop.errors import BadInput
from feedback_loop.views.policy import model_policy

LINK = Link("Policy", "policy", of_model=True)

CHANGEABLE = (
    *("rule", "loss", "alpha", "tolerance", "unit", "cycle", "threshold", "reference"),
    *("mode", "cooldown", "refresh", "budget", "maturity", "window"),
)
"""The settings that the form has. (`watch` is a list of tables: the file is the place for it.)"""

router = APIRouter(include_in_schema=False)


@router.get("/models/{model}/policy", name="policy")
def policy_page(request: Request, loop: Loop, model: ModelName) -> Response:
    """The page, with the newest backtest: how far it is, or what came of it."""
    return _page(request, loop, model, {})


@router.post("/models/{model}/policy", name="play")
def play(request: Request, loop: Loop, model: ModelName, visitor: Who, form: Form) -> Response:
    """Plays the log again under the settings of the form, as a job of this process. Nothing is saved."""
    backtests: Backtests = request.app.state.played
    configured = {setting["name"]: setting["value"] for setting in model_policy(loop, model)["settings"]}
    try:
        changes = changed(form, {name: configured[name] for name in CHANGEABLE})
        every = parse_duration(form["every"]) if form.get("every") else None
        backtests.start(model, Asked(changes, every, "known_now" in form, visitor.name))
    except BadInput as error:
        return _page(request, loop, model, form, str(error))
    return RedirectResponse(path_to(request, "policy", model=model), status_code=303)


def _page(request: Request, loop: Loop, model: str, form: Mapping[str, str], problem: str = "") -> Response:
    policy = model_policy(loop, model)
    configured = {setting["name"]: setting for setting in policy["settings"]}
    settings = [
        {**configured[name], "written": form.get(name, written(configured[name]["value"]))} for name in CHANGEABLE
    ]
    backtest: dict[str, Any] | None = request.app.state.played.newest(model)
    result = (backtest or {}).get("result") or {}
    rows = [policy["row"] for policy in result.get("policies", ())]
    tables = [
        Table(
            "settings",
            "As configured",
            SETTINGS,
            [{**row, "value": written(row["value"])} for row in policy["settings"]],
        ),
        Table(
            "compared", "On this log", [Column(name, name.capitalize()) for name in (rows[0] if rows else ())], rows
        ),
        Table("alarms", "Alarms", ALARMS, _alarms(result), "None of the two would have alarmed."),
    ]
    return page(
        request,
        "policy.html",
        status=400 if problem else 200,
        title=f"Policy of {model}",
        model=model,
        tables=tables,
        policy=policy,
        settings=settings,
        choices=CHOICES,
        problem=problem,
        backtest=backtest,
        result=result,
        form=form,
    )


CHOICES = {
    "rule": ("change", "harm", "either", "threshold", "absolute"),
    "mode": ("observe", "propose", "act"),
    "unit": ("auto", "label", "window"),
    "loss": ("auto", "error", "brier", "absolute_error", "squared_error", "log_loss"),
}

SETTINGS = [
    Column("name", "Setting", "code"),
    Column("value", "Value", "code"),
    Column("says", "What it says"),
]
ALARMS = [
    Column("policy", "Policy"),
    Column("at", "When", "moment"),
    Column("version", "Version", "code"),
    Column("summary", "What it said"),
]


def written(value: Any) -> str:
    """A setting as one writes it in the form: empty where it is left out."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def changed(query: Mapping[str, str], configured: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a form that are others than the configured ones."""
    changes: dict[str, Any] = {}
    for name, value in configured.items():
        text = query.get(name, written(value)).strip()
        if text != written(value):
            changes[name] = _value(text)
    return changes


def _value(text: str) -> Any:
    """A number where it is one, nothing where it is empty, else a text."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):  # too deep a nesting is no number either
        return text


def _alarms(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    policies = result.get("policies", ())
    return [{**alarm, "policy": policy["name"]} for policy in policies for alarm in policy["alarms"]]
