"""The overview: how every model does, and what waits for somebody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from feedback_loop.dashboard.access import Loop, Who
from feedback_loop.dashboard.pages.links import Link
from feedback_loop.dashboard.render import linked, page
from feedback_loop.dashboard.rights import Visitor
from feedback_loop.dashboard.tables import Column, Table
from feedback_loop.loop import FeedbackLoop
from feedback_loop.store.keys import Scope
from feedback_loop.views.status import model_status

LINK = Link("Overview", "overview")

COUNTED = ("answered", "spooled", "stored", "waiting", "refused", "dropped", "unsampled", "rejected")
"""What the accounts of the log say became of rows."""

router = APIRouter(include_in_schema=False)


@router.get("/", name="overview")
def overview(request: Request, loop: Loop, visitor: Who) -> Response:
    """The whole page, or (for htmx) what of it is looked at again every half minute."""
    states = {name: model_status(loop, name) for name in visitor.visible(loop.settings.models)}
    tables = [_models(request, states), _accounts(request, states), _incidents(request, states)]
    template = "overview_part.html" if request.headers.get("hx-request") else "overview.html"
    return page(
        request,
        template,
        title="Overview",
        tables=tables,
        states=states,
        attention=_attention(states),
        totals=_totals(loop, visitor, states),
    )


def main_metric(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The metric that a model is judged by, of an evaluation of `status`: its name, value and bounds."""
    if evaluation is None or not evaluation["metrics"]:
        return None
    name = evaluation["loss"] if evaluation["loss"] in evaluation["metrics"] else next(iter(evaluation["metrics"]))
    value, band = evaluation["metrics"][name], evaluation["bands"][name]
    error = band["standard_error"]
    ends = (
        {"low": None, "high": None} if error is None else {"low": value - 1.96 * error, "high": value + 1.96 * error}
    )
    return {"metric": name, "value": value, **ends, **band}


def _models(request: Request, states: Mapping[str, Any]) -> Table:
    columns = [
        Column("model", "Model", link=linked(request, "model", {"model": "model"})),
        Column("state", "Verdict", "state"),
        Column("champion", "Champion", "code"),
        Column("predictions", "Predictions", "number"),
        Column("last_predicted", "Last one", "moment"),
        Column("coverage", "Coverage", "share"),
        Column("metric", "Metric"),
        Column("value", "Value", "number"),
        Column("low", "95% from", "number"),
        Column("high", "to", "number"),
        Column("open_incidents", "Open incidents", "number"),
        Column("retrainings", "Retrainings", "number"),
    ]
    rows = []
    for model, state in states.items():
        evaluation = state["measured"]
        metric = main_metric(evaluation) or {}
        rows.append(
            {
                "model": model,
                "state": state["verdict"]["state"] if state["verdict"] else "not judged yet",
                "champion": state["champion"],
                "predictions": state["predictions"],
                "last_predicted": state["predicted"][1] if state["predicted"] else None,
                "coverage": evaluation["coverage"] if evaluation else None,
                "open_incidents": len(state["open_incidents"]),
                "retrainings": state["retrainings"],
                **{name: metric.get(name) for name in ("metric", "value", "low", "high")},
            }
        )
    return Table("models", "Models", columns, rows, "No model is configured. Add one: feedback-loop init.")


def _accounts(request: Request, states: Mapping[str, Any]) -> Table:
    columns = [
        Column("model", "Model", link=linked(request, "model", {"model": "model"})),
        Column("predictions", "In the log", "number"),
        Column("outcomes", "Outcomes", "number"),
        Column("unmatched_outcomes", "Match nothing", "number"),
        Column("conflicts", "Conflicts", "number"),
        *(Column(name, name.capitalize(), "number") for name in COUNTED),
    ]
    rows = [
        {
            "model": model,
            **{name: state[name] for name in ("predictions", "outcomes", "unmatched_outcomes", "conflicts")},
            **{name: state["capture"].get(name, 0) for name in COUNTED},
        }
        for model, state in states.items()
    ]
    return Table("accounts", "Accounts of the log", columns, rows, "No model is configured.")


def _incidents(request: Request, states: Mapping[str, Any]) -> Table:
    address = linked(request, "incident", {"incident_id": "id"})
    columns = [
        Column("id", "No.", "number", link=address),
        Column("model", "Model"),
        Column("title", "What", link=address),
        Column("cause", "Cause"),
        Column("since", "Since", "moment"),
        Column("acknowledged_by", "Acknowledged by"),
        Column("silenced_until", "Silenced until", "moment"),
    ]
    rows = [{"model": model, **incident} for model, state in states.items() for incident in state["open_incidents"]]
    return Table("incidents", "Open incidents", columns, rows, "No incident is open.")


def _attention(states: Mapping[str, Any]) -> list[dict[str, str]]:
    """What somebody should look at, besides incidents: in words, by model."""
    lines: list[dict[str, str]] = []
    for model, state in states.items():
        words = [
            *(f"Frozen by {freeze['frozen_by']}: {freeze['reason']}" for freeze in state["frozen"]),
            *([f"Not judged: {state['missing_reference']}"] if state["missing_reference"] else []),
            *(f"Version {failed['version']} is not served: {failed['cause']}" for failed in state["not_served"]),
            *(f"Stands still: {trouble}" for trouble in state["troubles"]),
            *(f"Job {job['job']} failed: {job['cause']}" for job in state["failed_jobs"]),
            *(f"A window failed {failed['attempts']} times: {failed['cause']}" for failed in state["failed_windows"]),
            *(f"Difference in the log: {difference}" for difference in state["capture"]["differences"]),
            *(
                f"An alert on {alert['route']} is {alert['state']}: {alert['cause'] or 'not tried yet'}"
                for alert in state["undelivered_alerts"]
            ),
            *(f"Data quality: {failing['check']}" for failing in (state["drift"] or {}).get("failing", ())),
            *(f"Drift: {column['words']}" for column in (state["drift"] or {}).get("columns", ())),
        ]
        if asked := state["approval"]:
            words.append(f"An approval is {asked['state']}: version {asked['candidate']}")
        lines += [{"model": model, "words": text} for text in words]
    return lines


def _totals(loop: FeedbackLoop, visitor: Visitor, states: Mapping[str, Any]) -> dict[str, Any]:
    """The figures at the top."""
    return {
        "models": len(states),
        "degraded": sum((state["verdict"] or {}).get("state") == "degraded" for state in states.values()),
        "incidents": sum(len(state["open_incidents"]) for state in states.values()),
        "approvals": sum(state["approval"] is not None for state in states.values()),
        "predictions": sum(state["predictions"] for state in states.values()),
        "waiting": sum(state["capture"]["waiting"] for state in states.values()),
        "now": loop.clock(),
        "sees_all": visitor.may_everywhere(Scope.READ),
    }
