"""Errors on their way to a caller: a status, MLflow's code and words, and never a stack trace."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import Any

import msgspec
import structlog

from feedback_loop.errors import (
    BadInput,
    FeedbackLoopError,
    ModelFault,
    ModelRefused,
    NotFound,
    TooLarge,
    Unavailable,
    traceback_of,
)
from feedback_loop.schema.protocol import WireError, encode_error, refused_by_model
from feedback_loop.schema.protocol.oip import encode_oip_error
from feedback_loop.serving.publication import InTheMaking

INFERENCE = "/v2"
"""What paths of the Open Inference Protocol begin with."""

Headers = list[tuple[str, str]]

JSON: Headers = [("content-type", "application/json")]

_MAKING_SECONDS = "2"
"""As long as it takes to make a small model ready: whoever asked first is next."""

_log = structlog.get_logger(__name__)


class HttpError(Exception):
    """A request that is refused before anybody looks into it. Headers are given with `_` in the place of `-`."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def media_type(headers: Any) -> str:
    """The type of a request's body, without its parameters; empty where it says none."""
    return (headers.get("content-type") or "").partition(";")[0].strip().lower()


def explained(error: Exception, path: str) -> tuple[int, bytes, Headers]:
    """What a caller is told: what it did wrong, when to come again, or under which number the log has the rest."""
    status, body, headers = _told(error, path)
    if path.startswith(INFERENCE):  # the same words, as that protocol has them
        body = encode_oip_error(msgspec.json.decode(body)["message"])
    return status, body, headers


def _told(error: Exception, path: str) -> tuple[int, bytes, Headers]:
    if isinstance(error, WireError):
        return error.status, error.body(), [("content-type", error.content_type)]
    if isinstance(error, HttpError):
        return error.status, encode_error(error.code, error.message), [*JSON, *error.headers.items()]
    if isinstance(error, FeedbackLoopError) and not isinstance(error, ModelFault):
        return _explained(error, path)
    incident = uuid.uuid4().hex[:8]
    if isinstance(error, ModelFault):
        _log.error("model at fault", path=path, incident=incident, cause=str(error))
    else:
        _log.error("request failed", path=path, incident=incident, exception=traceback_of(error))
    return 500, encode_error("INTERNAL_ERROR", f"It is in the server's log under {incident}."), JSON


def _explained(error: FeedbackLoopError, path: str) -> tuple[int, bytes, Headers]:
    if isinstance(error, ModelRefused):
        return 400, refused_by_model(str(error)).body(), JSON
    if isinstance(error, TooLarge):
        return 413, encode_error("REQUEST_LIMIT_EXCEEDED", str(error)), JSON
    if isinstance(error, BadInput):
        problems = [asdict(problem) for problem in error.problems]
        return 400, encode_error("BAD_REQUEST", str(error), problems), JSON
    if isinstance(error, NotFound):
        return 404, encode_error("RESOURCE_DOES_NOT_EXIST", str(error)), JSON
    if isinstance(error, Unavailable):
        return _unavailable(error, path)
    return 409, encode_error("REFUSED", str(error)), JSON


def _unavailable(error: Unavailable, path: str) -> tuple[int, bytes, Headers]:
    if isinstance(error, InTheMaking):
        said, seconds = error.cause, _MAKING_SECONDS
    else:
        _log.error("unavailable", path=path, cause=str(error))
        said, seconds = f"The {error.service} takes nothing at the moment.", "1"
    message = f"{said} Nothing was logged."
    return 503, encode_error("TEMPORARILY_UNAVAILABLE", message), [*JSON, ("retry-after", seconds)]
