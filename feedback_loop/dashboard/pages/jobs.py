"""A model's jobs: what is due, what runs, how runs ended."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from feedback_loop.dashboard.access import Form, Loop, ModelName, Who
from feedback_loop.dashboard.api import own_only
from feedback_loop.dashboard.pages.links import Link
from feedback_loop.dashboard.render import page, path_to
from feedback_loop.dashboard.tables import Column, Table
from feedback_loop.errors import BadInput
from feedback_loop.store.keys import Scope
from feedback_loop.store.ledger import find_run
from feedback_loop.views.jobs import in_words, model_jobs

LINK = Link("Jobs", "jobs", of_model=True)

router = APIRouter(include_in_schema=False)

SCHEDULES = [
    Column("name", "Schedule"),
    Column("schedule", "When", "code"),
    Column("last", "Last due", "moment"),
    Column("next", "Next due", "moment"),
    Column("jobs", "Jobs"),
]
RUNNING = [
    Column("run", "No.", "number"),
    Column("job", "Job"),
    Column("since", "Since", "moment"),
    Column("seconds", "Seconds", "number"),
    Column("usual_seconds", "Usually", "number"),
    Column("holder", "Process", "code"),
    Column("state", "State", "state"),
]
FAILED = [Column("job", "Job"), Column("at", "Due", "moment"), Column("cause", "Cause")]
RUNS = [
    Column("run_id", "No.", "number"),
    Column("job", "Job"),
    Column("state", "State", "state"),
    Column("scheduled_at", "Due", "moment"),
    Column("started_at", "Started", "moment"),
    Column("seconds", "Seconds", "number"),
    Column("holder", "Process", "code"),
    Column("words", "Result"),
]


@router.get("/models/{model}/jobs", name="jobs")
def jobs_page(request: Request, loop: Loop, model: ModelName, visitor: Who) -> Response:
    """The page, or (for htmx) what of it is looked at again."""
    jobs = model_jobs(loop, model, newest=150)
    running = [{**job, "state": "running" if job["alive"] else "died"} for job in jobs["running"]]
    runs = [{**run, "words": run["cause"] or in_words(run["result"])} for run in jobs["runs"]]
    tables = [
        Table("schedules", "Schedules", SCHEDULES, jobs["schedules"]),
        Table("running", "Running now", RUNNING, running, "No job runs now."),
        Table("failed", "Failed the last time", FAILED, jobs["failed"], "No job has failed."),
        Table("runs", "Runs", RUNS, runs, "Nothing has run yet: feedback-loop scheduler."),
    ]
    template = "jobs_part.html" if request.headers.get("hx-request") else "jobs.html"
    may_act = visitor.may(Scope.ADMIN, model)
    ends = [job for job in jobs["running"] if job["alive"]] if may_act else []
    return page(request, template, title=f"Jobs of {model}", model=model, tables=tables, jobs=jobs, ends=ends)


@router.post("/models/{model}/jobs/cancel", name="cancel_job")
def cancel(request: Request, loop: Loop, model: ModelName, visitor: Who, form: Form) -> Response:
    """Asks a job that runs to end."""
    visitor.require(Scope.ADMIN, model)
    if form.get("sure") != "yes" or not form.get("run", "").isdecimal():
        raise BadInput.of("run", "is not chosen, or not confirmed", cure="Go back, choose it, and tick the box.")
    number = int(form["run"][:18])
    run = find_run(loop.store, number)
    own_only(run.model if run else "", model, "run", number)
    loop.jobs.cancel(number, reason=form.get("reason", ""), by=visitor.name)
    return RedirectResponse(path_to(request, "jobs", model=model), status_code=303)
