"""`/api`: what the pages show, as JSON for programs. GET asks for the scope `read`, an answer for `approve`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Body, Depends, Path, Query, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from feedback_loop.clock import parse_duration, parse_moment
from feedback_loop.dashboard.access import Loop, ModelName, Who, admitted, approver
from feedback_loop.dashboard.oidc import checks_of
from feedback_loop.dashboard.rights import Visitor
from feedback_loop.errors import BadInput, NotFound, Refused
from feedback_loop.loop import FeedbackLoop
from feedback_loop.plain import plain
from feedback_loop.store.keys import Scope
from feedback_loop.store.retrainings import find_retraining, load_retrainings
from feedback_loop.views.approvals import approval_story, list_approvals
from feedback_loop.views.doctor import Check, doctor
from feedback_loop.views.history import Event, model_history, retraining_row, retraining_story
from feedback_loop.views.incident import Entry, in_mlflow, incident_story
from feedback_loop.views.jobs import model_jobs
from feedback_loop.views.performance import model_figures
from feedback_loop.views.policy import model_policy, try_policy
from feedback_loop.views.predictions import MOST, logged_predictions
from feedback_loop.views.status import loop_status, model_status
from feedback_loop.views.versions import Version, model_versions, version_life

Row = dict[str, Any]

MOST_BACKTESTS = 2
"""So many are played at once."""


class Json(JSONResponse):
    """JSON of plain values; a number that JSON does not have (NaN, infinity) is null."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return msgspec.json.encode(content)


@dataclass(frozen=True)
class Problem:
    """Why a request was not answered, and what to do about it."""

    error_code: str
    message: str


_WORDS = {
    400: "A value that can't be so; `message` says which.",
    401: "No valid key: `Authorization: Bearer fl_…`",
    403: "The key lacks the scope, or is not for the model; or a browser's request that no page of ours sent.",
    404: "There is no such model or record.",
    409: "Refused as things stand.",
    422: "A parameter of another type than is described here.",
    503: "The database or the registry is away.",
}

FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"description": words, "model": Problem} for status, words in _WORDS.items()
}


class _Route(APIRoute):
    """A route whose name is no page's, by which links find those."""

    def __init__(self, path: str, endpoint: Callable[..., Any], *, name: str | None = None, **options: Any) -> None:
        super().__init__(path, endpoint, name=name or f"api_{endpoint.__name__}", **options)


_options: dict[str, Any] = {
    "prefix": "/api",
    "responses": FAILURES,
    "default_response_class": Json,
    "route_class": _Route,
}

_bearer = Depends(HTTPBearer(auto_error=False, description="A key of `feedback-loop keys create`."))
"""Says in the description how a key is shown; `access` looks at it."""


router = APIRouter(tags=["read"], dependencies=[_bearer, Depends(admitted)], **_options)
answers = APIRouter(tags=["approve"], dependencies=[_bearer], **_options)
"""What needs another scope than `read`."""

Number = Annotated[int, Path(ge=1, lt=2**31)]


def moment_of(text: str | None, name: str = "as_of") -> datetime | None:
    """A moment of a query; raises BadInput, which names the parameter."""
    try:
        return parse_moment(text) if text else None
    except BadInput as error:
        raise BadInput.of(name, error.problems[0].cause, cure=error.cure) from None


def key_of(texts: list[str]) -> dict[str, str]:
    """A key as `column=value` texts; raises BadInput."""
    key: dict[str, str] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or column in key:
            raise BadInput.of("key", f"{text!r} is no column=value, or is there twice", cure="Write customer=123.")
        key[column] = value
    return key


def own_only(record_model: str, model: str, kind: str, number: int) -> None:
    """Raises NotFound for a record of another model."""
    if record_model != model:
        raise NotFound(kind, f"{model} {number}")


@router.get("/status")
def status(loop: Loop, visitor: Who) -> Row:
    """The states of all models that the key is for, as `feedback-loop status --json` has them.

    Where store and registry are is told to `admin` for all models alone.
    """
    states = loop_status(loop, visitor.visible(loop.settings.models))
    private = () if visitor.may_everywhere(Scope.ADMIN) else ("store", "registry")
    return {name: value for name, value in states.items() if name not in private}


@router.get("/doctor")
def checks(loop: Loop, visitor: Who) -> list[Check]:
    """What `feedback-loop doctor` says: whether the loop can work at all. Needs `admin` for all models."""
    visitor.require_all(Scope.ADMIN)
    return doctor(loop, checks_of(loop.settings))


@router.get("/models")
def models(loop: Loop, visitor: Who) -> list[str]:
    """The names of the models that the key is for."""
    return visitor.visible(loop.settings.models)


@router.get("/models/{model}")
def model_state(loop: Loop, model: ModelName) -> Row:
    """One model: champion, rows, outcomes, the last evaluation and verdict, what is open, what failed."""
    return model_status(loop, model)


@router.get("/models/{model}/performance")
def performance(loop: Loop, model: ModelName, metric: str = "", segment: str = "") -> Row:
    """One metric over its newest windows, with coverage by age, calibration, segments and drift."""
    figures: Row = plain(model_figures(loop, model, metric, segment))
    return figures


@router.get("/models/{model}/versions")
def versions(loop: Loop, model: ModelName) -> list[Version]:
    """Every version on record, the newest first, and where it stands."""
    return model_versions(loop.store, model)


@router.get("/models/{model}/versions/{version}")
def version(loop: Loop, model: ModelName, version: str) -> Row:
    """One version's life: its retraining with trials and gates, approvals, rollouts, promotions, events."""
    return version_life(loop.store, model, version)


@router.get("/models/{model}/history")
def history(loop: Loop, model: ModelName, version: str | None = None) -> list[Event]:
    """All that happened to its versions (or to one), oldest first."""
    return model_history(loop.store, model, version)


@router.get("/models/{model}/retrainings")
def retrainings(loop: Loop, model: ModelName) -> list[Row]:
    """Its retrainings, oldest first."""
    return [retraining_row(loop.store, search) for search in load_retrainings(loop.store, model)]


@router.get("/models/{model}/retrainings/{number}")
def retraining(loop: Loop, model: ModelName, number: Number) -> Row:
    """One retraining with its trials, gates, and what became of its candidate."""
    search = find_retraining(loop.store, number)
    own_only(search.model if search else "", model, "retraining", number)
    return retraining_story(loop.store, number)


@router.get("/models/{model}/incidents")
def incidents(loop: Loop, model: ModelName, closed: bool = False) -> list[Row]:
    """Its open incidents, and those that are closed where that is asked for."""
    rows: list[Row] = plain(loop.incidents.list(model, closed=closed))
    return rows


@router.get("/models/{model}/incidents/{number}")
def incident(loop: Loop, model: ModelName, number: Number) -> Row:
    """One incident, all that happened in it (`story`), and where MLflow shows its verdict (`in_mlflow`)."""
    found, story = incident_story(loop, number)
    own_only(found.model, model, "incident", number)
    entries: list[Entry] = story
    return {**plain(found), "story": plain(entries), "in_mlflow": in_mlflow(loop, found)}


@router.get("/models/{model}/approvals")
def approvals(loop: Loop, model: ModelName, closed: bool = False) -> list[Row]:
    """What waits for people, and what has ended where that is asked for."""
    return list_approvals(loop, model, closed=closed)


@router.get("/models/{model}/approvals/{number}")
def approval(loop: Loop, model: ModelName, number: Number) -> Row:
    """One approval with its evidence, answers, and whom it was sent to."""
    story = approval_story(loop, number)
    own_only(story["model"], model, "approval", number)
    return story


@router.get("/models/{model}/predictions")
def predictions(
    loop: Loop,
    model: ModelName,
    key: Annotated[list[str], Query(default_factory=list, description="`column=value`; repeatable")],
    prediction_id: str | None = None,
    as_of: Annotated[str | None, Query(description="with what was known then; ISO 8601")] = None,
    newest: Annotated[int, Query(ge=1, le=MOST)] = 50,
) -> list[Row]:
    """The newest predictions with that key or id: what was answered, by which version, every outcome since."""
    moment = moment_of(as_of)
    return logged_predictions(loop, model, key_of(key), prediction_id=prediction_id, as_of=moment, newest=newest)


@router.get("/models/{model}/jobs")
def jobs(loop: Loop, model: ModelName) -> Row:
    """What is scheduled and due next, what runs and where, and how runs ended."""
    return model_jobs(loop, model)


@router.get("/models/{model}/policy")
def policy(loop: Loop, model: ModelName) -> Row:
    """What counts as worse and what follows, as it is configured."""
    return model_policy(loop, model)


@router.post("/models/{model}/policy/backtest")
def backtest(
    request: Request,
    loop: Loop,
    model: ModelName,
    changes: Annotated[Row, Body(description="settings by name, such as `alpha`")],
    every: Annotated[str | None, Body(description="look so often (`1d`), instead of when it was looked")] = None,
    known_now: Annotated[bool, Body(description="with what is known now at every look")] = False,
) -> Row:
    """A changed policy on the log, beside the configured one. Saves nothing: `toml` has the lines to put in."""
    return play(request, loop, model, changes, every=every, known_now=known_now)


def play(
    request: Request,
    loop: FeedbackLoop,
    model: str,
    changes: Mapping[str, Any],
    *,
    every: str | None,
    known_now: bool,
) -> Row:
    """A changed policy on the log (see `try_policy`), for few requests at once; raises Refused and BadInput.

    It reads the whole log, whoever may read: without a limit some of them would take all of the process's threads.
    """
    slots: threading.BoundedSemaphore = request.app.state.backtests
    if not slots.acquire(blocking=False):
        raise Refused(f"{MOST_BACKTESTS} backtests are being played.", cure="Try again when one has ended.")
    try:
        return try_policy(loop, model, changes, every=parse_duration(every) if every else None, known_now=known_now)
    finally:
        slots.release()


@answers.post("/models/{model}/approvals/{number}")
def answer(
    loop: Loop,
    visitor: Annotated[Visitor, Depends(approver)],
    model: str,
    number: Number,
    answer: Annotated[Literal["approve", "reject"], Body()],
    reason: Annotated[str, Body(min_length=1, max_length=4000, pattern=r"^[^\x00]*$")],
) -> Row:
    """One person's yes or no, in the name of the key; with the last yes that is needed the candidate is promoted."""
    return answer_approval(loop, visitor, model, number, approves=answer == "approve", reason=reason)


def answer_approval(
    loop: FeedbackLoop, visitor: Visitor, model: str, number: int, *, approves: bool, reason: str
) -> Row:
    """Answers an approval of that model in a visitor's name. Raises as `loop.approvals.approve` does."""
    loop.settings.model(model)
    own_only(approval_story(loop, number)["model"], model, "approval", number)
    say = loop.approvals.approve if approves else loop.approvals.reject
    say(number, reason=reason, by=visitor.name)
    return approval_story(loop, number)
