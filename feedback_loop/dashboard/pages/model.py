"""One model: how good it is and was, and what has changed in what it is asked."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from feedback_loop.clock import Window, parse_moment
from feedback_loop.dashboard import model_charts, render
from feedback_loop.dashboard.access import Loop, ModelName, Who
from feedback_loop.dashboard.pages.links import Link
from feedback_loop.dashboard.pages.overview import main_metric
from feedback_loop.dashboard.render import linked, path_to
from feedback_loop.dashboard.tables import Column, Table
from feedback_loop.errors import NotFound
from feedback_loop.plain import plain
from feedback_loop.store.keys import Scope
from feedback_loop.views.performance import (
    MOST_COLUMNS,
    column_detail,
    column_strength,
    drift_rows,
    model_figures,
    newest_drift,
    recent_evaluations,
)
from feedback_loop.views.status import model_status

LINK = Link("Model", "model", of_model=True)

PageNumber = Annotated[int, Query(ge=1, lt=2**31)]

router = APIRouter(include_in_schema=False)


@router.get("/models/{model}", name="model")
def model_page(
    request: Request, loop: Loop, model: ModelName, visitor: Who, metric: str = "", segment: str = ""
) -> Response:
    """The page, about one metric of all rows or of a segment."""
    state, figures = model_status(loop, model), model_figures(loop, model, metric, segment)
    return render.page(
        request,
        "model.html",
        title=model,
        model=model,
        tables=[
            _history(figures),
            _segments(request, model, figures),
            _drift(request, model, figures["drift"]["rows"]),
            _coverage(figures),
            _incidents(request, loop.incidents.list(model, closed=True)),
        ],
        charts=model_charts.of_model(figures),
        state=state,
        figures=figures,
        metric=main_metric(state["measured"]),
        may_act=visitor.may(Scope.ADMIN, model),
    )


@router.get("/models/{model}/columns", name="columns")
def columns_page(request: Request, loop: Loop, model: ModelName, search: str = "", page: PageNumber = 1) -> Response:
    """All columns whose name has a text in it: a model may have thousands, its page shows the farthest."""
    rows = [row for row in drift_rows(loop.store, model) if search.casefold() in row["column"].casefold()]
    first = min((page - 1) * MOST_COLUMNS, max(len(rows) - 1, 0) // MOST_COLUMNS * MOST_COLUMNS)
    return render.page(
        request,
        "columns.html",
        title=f"Columns of {model}",
        model=model,
        tables=[_drift(request, model, rows, first)],
        search=search,
        place=first // MOST_COLUMNS + 1,
        first=min(first + 1, len(rows)),
        last=min(first + MOST_COLUMNS, len(rows)),
    )


@router.get("/models/{model}/column", name="column")
def column_page(request: Request, loop: Loop, model: ModelName, name: str, window: str = "") -> Response:
    """One column: its values in the reference beside those of a window (its start; default: the newest)."""
    evaluations = recent_evaluations(loop.store, model)
    chosen = newest_drift(loop.store, evaluations, parse_moment(window) if window else None)
    if chosen is None:
        raise NotFound("evaluated window", window or "of this model", cure="Those that there are: the model's page.")
    detail = column_detail(loop.store, model, chosen.version, chosen.window, name)
    drifts = plain([value for value in chosen.drift if value.column == name])
    return render.page(
        request,
        "column.html",
        title=f"{name} of {model}",
        model=model,
        tables=[_groups(detail), _methods(drifts)],
        charts=[
            model_charts.column(name, detail),
            *model_charts.strength(column_strength(loop.store, evaluations, name)),
        ],
        name=name,
        detail=detail,
        window=plain(chosen.window),
        version=chosen.version,
        windows=[_start(one.window) for one in reversed(evaluations)],
        chosen=_start(chosen.window),
    )


def _start(window: Window) -> str:
    return str(plain(window.start))


def _history(figures: dict[str, Any]) -> Table:
    columns = [
        Column("start", "Window", "moment"),
        Column("version", "Version", "code"),
        Column("value", figures["metric"] or "Value", "number"),
        Column("low", "95% from", "number"),
        Column("high", "to", "number"),
        Column("least", "At least", "number"),
        Column("most", "At most", "number"),
        Column("estimate", "Estimated", "number"),
        Column("predictions", "Predictions", "number"),
        Column("coverage", "Coverage", "share"),
    ]
    rows = [{**row, "start": row["window"][0]} for row in reversed(figures["history"])]
    return Table("history", f"{figures['metric']} by window", columns, rows, "No window is evaluated yet.")


def _segments(request: Request, model: str, figures: dict[str, Any]) -> Table:
    def address(row: Any) -> str:
        segment = "" if row["segment"] == "(all)" else row["segment"]
        return path_to(request, "model", {"metric": figures["metric"], "segment": segment}, model=model)

    columns = [
        Column("segment", "Segment", link=address),
        Column("value", figures["metric"] or "Value", "number"),
        Column("low", "95% from", "number"),
        Column("high", "to", "number"),
        Column("rows", "Labelled rows", "number"),
        Column("coverage", "Coverage", "share"),
    ]
    empty = "No segment has this metric. Declare some: models.NAME.segments."
    return Table("segments", f"{figures['metric']} by segment", columns, figures["by_segment"], empty)


def _drift(
    request: Request, model: str, drifted: list[dict[str, Any]], first: int = 0, most: int = MOST_COLUMNS
) -> Table:
    def address(row: Any) -> str | None:
        return path_to(request, "column", {"name": row["column"]}, model=model)

    columns = [
        Column("column", "Column", link=address),
        Column("state", "Drift", "state"),
        Column("value", "Distance", "number"),
        Column("threshold", "Threshold", "number"),
        Column("p_value", "p", "number"),
        Column("method", "Method"),
        Column("rows", "Rows", "number"),
    ]
    rows = [{**row, "state": _drift_state(row)} for row in drifted]
    empty = "Drift is not known yet."
    return Table("drift", "Drift in the newest window", columns, rows, empty, most=most, first=first)


def _drift_state(row: dict[str, Any]) -> str:
    if not row["decides"]:
        return "too few rows"
    return "drifted" if row["drifted"] else "within"


def _coverage(figures: dict[str, Any]) -> Table:
    columns = [
        Column("group", "Age"),
        Column("predictions", "Predictions", "number"),
        Column("eligible", "Can have an outcome", "number"),
        Column("observed", "Have one", "number"),
        Column("inferred", "Inferred", "number"),
        Column("share", "Coverage", "share"),
    ]
    return Table("coverage", "Coverage by age", columns, figures["coverage"], "Nothing is joined yet.")


def _incidents(request: Request, incidents: Any) -> Table:
    address = linked(request, "incident", {"incident_id": "incident_id"})
    columns = [
        Column("incident_id", "No.", "number", address),
        Column("title", "What", link=address),
        Column("state", "State", "state"),
        Column("opened_at", "Opened", "moment"),
        Column("closed_at", "Closed", "moment"),
        Column("closed_because", "Because"),
    ]
    rows = [{**row, "state": "closed" if row["closed_at"] else "open"} for row in plain(list(reversed(incidents)))]
    return Table("incidents", "Incidents", columns, rows, "There was no incident.")


def _groups(detail: dict[str, Any]) -> Table:
    columns = [
        Column("group", "Values"),
        Column("reference", "Reference", "share"),
        Column("current", "Window", "share"),
    ]
    triples = zip(detail["groups"], detail["reference"], detail["current"], strict=True)
    rows = [{"group": group, "reference": before, "current": now} for group, before, now in triples]
    return Table("values", "Values", columns, rows)


def _methods(drifts: Any) -> Table:
    columns = [
        Column("method", "Method"),
        Column("value", "Value", "number"),
        Column("threshold", "Threshold", "number"),
        Column("p_value", "p", "number"),
        Column("state", "Alone it says", "state"),
        Column("role", "Counts as"),
    ]
    rows = [
        {**row, "state": "drifted" if row["drifted"] else "within", "role": "decides" if row["decides"] else ""}
        for row in drifts
    ]
    return Table("methods", "By each method", columns, rows)
