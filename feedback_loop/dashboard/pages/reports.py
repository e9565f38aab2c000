"""Evidently's reports: which there are, and each as it was written, shut off from the pages."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from feedback_loop.clock import parse_moment
from feedback_loop.dashboard.access import Loop, ModelName
from feedback_loop.dashboard.render import linked
from feedback_loop.dashboard.tables import Column, Table
from feedback_loop.errors import NotFound
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import list_reports
from feedback_loop.plain import plain

SANDBOX = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; frame-ancestors 'none'"
)
"""A report has its scripts within it. It is given no origin: it can neither ask these pages nor see their cookie."""

router = APIRouter(include_in_schema=False)


@router.get("/models/{model}/reports/{name}", name="report")
def report(loop: Loop, model: ModelName, name: str) -> FileResponse:
    """One report, by its file's name."""
    for listed in list_reports(loop.reports):
        if listed.model == model and listed.path.name == name:
            return FileResponse(listed.path, media_type="text/html", headers={"content-security-policy": SANDBOX})
    raise NotFound("report", name, cure=f"List them: feedback-loop report {model} --list.")


def report_table(request: Request, loop: FeedbackLoop, model: str, since: datetime) -> Table:
    """The reports of a model whose windows end after a moment, newest first."""
    columns = [
        Column("kind", "Report", link=linked(request, "report", {"name": "file"}, model=model)),
        Column("name", "Of"),
        Column("version", "Version", "code"),
        Column("start", "From", "moment"),
        Column("end", "To", "moment"),
        Column("rows", "Rows", "number"),
        Column("as_of", "As of", "moment"),
    ]
    rows = [
        {**plain(listed), "file": listed.path.name, "start": listed.window[0], "end": listed.window[1]}
        for listed in reversed(list_reports(loop.reports))
        if listed.model == model and parse_moment(listed.window[1]) > since
    ]
    return Table("reports", "Reports", columns, rows, f"None. Make one: feedback-loop report {model}.")
