"""Predictions by their key, with outcome and version, as of any moment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from feedback_loop.clock import parse_moment
from feedback_loop.dashboard.access import Loop, ModelName
from feedback_loop.dashboard.pages.links import Link
from feedback_loop.dashboard.render import page, path_to
from feedback_loop.dashboard.tables import Column, Row, Table
from feedback_loop.errors import BadInput, NotFound
from feedback_loop.views.predictions import logged_predictions

LINK = Link("Predictions", "predictions", of_model=True)

KEY = "key."
"""What the parameters of key columns begin with."""

SHOWN = 50
"""So many predictions are on a page."""

router = APIRouter(include_in_schema=False)


@router.get("/models/{model}/predictions", name="predictions")
def predictions_page(request: Request, loop: Loop, model: ModelName) -> Response:
    """The newest predictions, or those with a key."""
    query = request.query_params
    key = {name.removeprefix(KEY): text for name, text in query.items() if name.startswith(KEY) and text}
    rows: list[dict[str, Any]] = []
    problem = ""
    try:
        rows = logged_predictions(
            loop,
            model,
            key,
            prediction_id=query.get("id") or None,
            as_of=_moment(query.get("as_of", "")),
            newest=SHOWN,
        )
    except BadInput as error:
        problem = str(error)
    table = _table(request, loop.settings.model(model).key, model, rows)
    return page(
        request,
        "predictions.html",
        status=400 if problem else 200,
        title=f"Predictions of {model}",
        model=model,
        tables=[table],
        key=[(name, KEY + name, key.get(name, "")) for name in loop.settings.model(model).key],
        problem=problem,
        shown=SHOWN,
        query=query,
    )


@router.get("/models/{model}/predictions/{prediction_id}", name="prediction")
def prediction_page(request: Request, loop: Loop, model: ModelName, prediction_id: str) -> Response:
    """One prediction: what it was made of, and every revision of its outcome."""
    as_of = _moment(request.query_params.get("as_of", ""))
    found = logged_predictions(loop, model, prediction_id=prediction_id, as_of=as_of)
    if not found:
        raise NotFound("prediction", prediction_id, cure="It may have been erased, or is older than the retention.")
    row = found[0]
    values = [{"name": name, "value": _shown(value)} for name, value in {**row["key"], **row["values"]}.items()]
    revisions = [{**revision, "labels": _labels(revision["labels"])} for revision in row["revisions"]]
    tables = [
        Table("outcomes", "Outcomes", OUTCOMES, revisions, "No outcome names it."),
        Table(
            "columns",
            "Key, answer and features",
            [Column("name", "Column", "code"), Column("value", "Value")],
            values,
        ),
    ]
    return page(
        request,
        "prediction.html",
        title=f"Prediction of {model}",
        model=model,
        tables=tables,
        row=row,
        labels=_labels(row["labels"]),
        as_of=as_of,
    )


OUTCOMES = [
    Column("recorded_at", "Recorded", "moment"),
    Column("occurred_at", "Occurred", "moment"),
    Column("revision", "Revision", "number"),
    Column("labels", "Outcome"),
    Column("named_by", "Named by"),
    Column("source", "Source"),
]


def _moment(text: str) -> datetime | None:
    """A moment of the form, which is UTC where it says nothing; raises BadInput."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return parse_moment(text)  # which says what is wrong
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else parse_moment(text)


def _table(request: Request, key: tuple[str, ...], model: str, rows: list[dict[str, Any]]) -> Table:
    """The rows with the key, the answer and what came of it; the rest is on the page of each."""
    as_of = request.query_params.get("as_of") or None

    def address(row: Row) -> str:
        return path_to(request, "prediction", {"as_of": as_of}, model=model, prediction_id=row["prediction_id"])

    answers = dict.fromkeys(
        name for row in rows for name in row["values"] if name.startswith(("prediction", "probability"))
    )
    columns = [
        Column("predicted_at", "Predicted", "moment", link=address),
        *(Column(f"key {name}", name, "code") for name in key),
        Column("model_version", "Version", "code"),
        Column("role", "Role"),
        *(Column(f"value {name}", name) for name in answers),
        Column("labels", "Outcome"),
        Column("state", "State", "state"),
        Column("recorded_at", "Recorded", "moment"),
        Column("prediction_id", "Id", "code"),
    ]
    shown = [
        {
            **row,
            **{f"key {name}": _shown(row["key"].get(name)) for name in key},
            **{f"value {name}": _shown(row["values"].get(name)) for name in answers},
            "labels": _labels(row["labels"]),
            "state": "conflict" if row["is_conflict"] else row["outcome"],
            "recorded_at": row["revisions"][-1]["recorded_at"] if row["revisions"] else None,
        }
        for row in rows
    ]
    return Table("predictions", "Predictions", columns, shown, "No prediction is like that.")


def _labels(labels: dict[str, Any] | None) -> str:
    """An outcome in words: its value, or of several each by its name."""
    if not labels:
        return ""
    if len(labels) == 1:
        return _shown(next(iter(labels.values())))
    return ", ".join(f"{name}: {_shown(value)}" for name, value in labels.items())


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
