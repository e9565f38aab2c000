"""One incident: why it was opened, all that happened, and what can be done about it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from feedback_loop.clock import parse_duration
from feedback_loop.dashboard import model_charts
from feedback_loop.dashboard.access import Form, Loop, Who
from feedback_loop.dashboard.api import Number
from feedback_loop.dashboard.pages.reports import report_table
from feedback_loop.dashboard.render import page, path_to
from feedback_loop.dashboard.rights import Visitor
from feedback_loop.dashboard.searching import last_retraining_by_hand, start_retraining
from feedback_loop.dashboard.tables import Column, Table
from feedback_loop.errors import BadInput, Refused
from feedback_loop.loop import FeedbackLoop
from feedback_loop.plain import plain
from feedback_loop.promotion import champions_that_stand
from feedback_loop.store import incidents, retrainings
from feedback_loop.store.incidents import Incident
from feedback_loop.store.keys import Scope
from feedback_loop.views.incident import in_mlflow, incident_evidence, incident_story
from feedback_loop.views.performance import around

BEFORE, AFTER = timedelta(days=14), timedelta(days=7)
"""The metric is drawn from so long before an incident until so long after it."""

DONE = {
    "acknowledged": "You look after it now.",
    "silenced": "Its alerts are held back.",
    "unsilenced": "Its alerts go out again.",
    "retraining": "The search has begun; it goes on here, and is among the model's jobs.",
    "promoted": "That version is the champion now.",
    "rolled-back": "The version before is the champion again.",
    "closed": "It is closed.",
}
"""What is said after an act, by the address's `done`: no text of the address is ever shown."""

router = APIRouter(include_in_schema=False)


@router.get("/incidents/{incident_id}", name="incident")
def incident_page(request: Request, loop: Loop, incident_id: Number, visitor: Who, done: str = "") -> Response:
    """The page."""
    incident, story = incident_story(loop, incident_id)
    model = incident.model
    visitor.require(Scope.READ, model)
    evidence = incident_evidence(loop, incident)
    loss = next((row["name"] for row in evidence["watched"]), "")
    end = (incident.closed_at or loop.clock()) + AFTER
    drawn = model_charts.metric(around(loop, model, loss, incident.opened_at - BEFORE, end))
    columns = [Column("at", "When", "moment"), Column("what", "What", "state"), Column("words", "In words")]
    before = champions_that_stand(retrainings.load_promotions(loop.store, model))[:-1]
    is_open = incident.closed_at is None
    return page(
        request,
        "incident.html",
        title=f"Incident {incident_id} of {model}",
        model=model,
        tables=[
            Table("timeline", "Timeline", columns, plain(story)),
            _watched(evidence["watched"]),
            _carriers(evidence["carriers"]),
            _parts(evidence["parts"]),
            report_table(request, loop, model, incident.opened_at - BEFORE),
        ],
        charts=[drawn] if drawn is not None else [],
        incident=plain(incident),
        evidence=evidence,
        in_mlflow=in_mlflow(loop, incident),
        done=DONE.get(done, ""),
        is_open=is_open,
        may_act=is_open and visitor.may(Scope.ADMIN, model),
        held=loop.held_by_diagnosis(model) if is_open else "",
        search=last_retraining_by_hand(loop, model),
        candidates=[one.candidate for one in retrainings.load_retrainings(loop.store, model) if one.candidate],
        before=before[-1] if before else None,
    )


@router.post("/incidents/{incident_id}/acknowledge", name="acknowledge")
def acknowledge(request: Request, loop: Loop, incident_id: Number, visitor: Who) -> Response:
    """Whoever does so looks after it."""
    _acting_on(loop, visitor, incident_id)
    loop.incidents.ack(incident_id, visitor.name)
    return _back(request, incident_id, "acknowledged")


@router.post("/incidents/{incident_id}/silence", name="silence")
def silence(request: Request, loop: Loop, incident_id: Number, visitor: Who, form: Form) -> Response:
    """Holds its alerts back for a while; `for` is empty: no longer."""
    _acting_on(loop, visitor, incident_id)
    until: datetime | None = None
    if form.get("for"):
        until = (loop.clock() + parse_duration(form["for"])).replace(microsecond=0)
    loop.incidents.silence(incident_id, until, visitor.name)
    return _back(request, incident_id, "silenced" if until else "unsilenced")


@router.post("/incidents/{incident_id}/retrain", name="retrain")
def retrain(request: Request, loop: Loop, incident_id: Number, visitor: Who, form: Form) -> Response:
    """Begins a search for a better version."""
    incident = _acting_on(loop, visitor, incident_id, form)
    promotes, despite = form.get("promotes") == "yes", form.get("despite") == "yes"
    start_retraining(loop, incident.model, by=visitor.name, promotes=promotes, despite_diagnosis=despite)
    incidents.note(loop.store, incident_id, "retraining asked", f"by {visitor.name}", loop.clock())
    return _back(request, incident_id, "retraining")


@router.post("/incidents/{incident_id}/promote", name="promote")
def promote(request: Request, loop: Loop, incident_id: Number, visitor: Who, form: Form) -> Response:
    """Makes a version the champion, after what the command looks at too."""
    model, version = _acting_on(loop, visitor, incident_id, form).model, _needed(form, "version")
    reason = _needed(form, "reason")
    loop.models.check_servable(model, version)
    loop.promote(model, version, reason=reason, by=visitor.name)
    return _back(request, incident_id, "promoted")


@router.post("/incidents/{incident_id}/roll-back", name="roll_back")
def roll_back(request: Request, loop: Loop, incident_id: Number, visitor: Who, form: Form) -> Response:
    """Makes the champion of before the champion again."""
    incident = _acting_on(loop, visitor, incident_id, form)
    loop.rollback(incident.model, reason=_needed(form, "reason"), by=visitor.name)
    return _back(request, incident_id, "rolled-back")


@router.post("/incidents/{incident_id}/close", name="close")
def close(request: Request, loop: Loop, incident_id: Number, visitor: Who, form: Form) -> Response:
    """Closes it by hand."""
    _acting_on(loop, visitor, incident_id, form)
    loop.incidents.close(incident_id, _needed(form, "because"), visitor.name)
    return _back(request, incident_id, "closed")


def _acting_on(
    loop: FeedbackLoop, visitor: Visitor, incident_id: int, form: dict[str, str] | None = None
) -> Incident:
    """The open incident; raises HttpError (403), NotFound, Refused, and BadInput for a form that is not confirmed."""
    visitor.require(Scope.ADMIN)  # before anything is said of it
    incident = loop.incidents.find(incident_id)
    visitor.require(Scope.ADMIN, incident.model)
    if incident.closed_at is not None:
        raise Refused(f"Incident {incident_id} of {incident.model} is closed.", cure="Do it by the command line.")
    if form is not None and form.get("sure") != "yes":
        raise BadInput.of("sure", "is not ticked", cure="Confirm it: go back, and tick it.")
    return incident


def _needed(form: dict[str, str], field: str) -> str:
    if not (text := form.get(field, "").strip()):
        raise BadInput.of(field, "is empty", cure="Go back, and fill it in.")
    return text


def _back(request: Request, incident_id: int, done: str) -> Response:
    return RedirectResponse(path_to(request, "incident", {"done": done}, incident_id=incident_id), status_code=303)


def _watched(rows: list[dict[str, Any]]) -> Table:
    columns = [
        Column("name", "Watched"),
        Column("reference", "Reference", "number"),
        Column("after", "Since the change", "number"),
        Column("low", "Change at least", "number"),
        Column("high", "at most", "number"),
        Column("changed_at", "Changed", "moment"),
        Column("labels", "Labelled", "number"),
        Column("once_in", "By chance once in", "number"),
        Column("acts", "Decides"),
    ]
    return Table("evidence", "Evidence of the newest verdict", columns, rows, "No verdict opened it.")


def _carriers(rows: list[dict[str, Any]]) -> Table:
    columns = [
        Column("segment", "Segment"),
        Column("reference", "Reference", "number"),
        Column("current", "Now", "number"),
        Column("labels", "Labelled", "number"),
        Column("share", "Of the whole change", "share"),
    ]
    return Table("carriers", "Who carries it", columns, rows, "No segment stands out.")


def _parts(rows: list[dict[str, Any]]) -> Table:
    columns = [
        Column("part", "Part of the change"),
        Column("value", "Loss", "number"),
        Column("error", "± standard error", "number"),
    ]
    return Table("diagnosis", "What the change is made of", columns, rows, "It could not be told apart yet.")
