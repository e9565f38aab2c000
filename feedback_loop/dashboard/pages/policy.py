"""A model's policy: as it is configured, and what a changed one would have said of the log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from feedback_loop.dashboard.access import Loop, ModelName
from feedback_loop.dashboard.api import play
from feedback_loop.dashboard.pages.links import Link
from feedback_loop.dashboard.render import page
from feedback_loop.dashboard.tables import Column, Table
from feedback_loop.errors import BadInput, NotFound
from feedback_loop.views.policy import model_policy, policy_row

LINK = Link("Policy", "policy", of_model=True)

CHANGEABLE = (
    *("rule", "loss", "alpha", "tolerance", "unit", "cycle", "threshold", "reference"),
    *("mode", "cooldown", "refresh", "budget", "maturity", "window"),
)
"""The settings that the form has. (`watch` is a list of tables: the file is the place for it.)"""

router = APIRouter(include_in_schema=False)


@router.get("/models/{model}/policy", name="policy")
def policy_page(request: Request, loop: Loop, model: ModelName) -> Response:
    """The page; with `try` the log is played again under the settings of the form. Nothing is saved."""
    query, policy, problem = request.query_params, model_policy(loop, model), ""
    configured = {setting["name"]: setting for setting in policy["settings"]}
    result: dict[str, Any] | None = None
    if "try" in query:
        changes = changed(query, {name: configured[name]["value"] for name in CHANGEABLE})
        try:
            every, known_now = query.get("every"), "known_now" in query
            result = play(request, loop, model, changes, every=every, known_now=known_now)
        except (BadInput, NotFound) as error:
            problem = str(error)
    settings = [
        {**configured[name], "written": query.get(name, written(configured[name]["value"]))} for name in CHANGEABLE
    ]
    tables = [
        Table(
            "settings",
            "As configured",
            SETTINGS,
            [{**row, "value": written(row["value"])} for row in policy["settings"]],
        ),
        Table(
            "compared", "On this log", _compared(result), list(map(policy_row, result["policies"])) if result else []
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
        result=result,
        query=query,
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


def _compared(result: dict[str, Any] | None) -> list[Column]:
    row = policy_row(result["policies"][0]) if result else {}
    return [Column(name, name.capitalize()) for name in row]


def _alarms(result: dict[str, Any] | None) -> list[dict[str, Any]]:
    policies = result["policies"] if result else []
    return [{**alarm, "policy": policy["name"]} for policy in policies for alarm in policy["alarms"]]
