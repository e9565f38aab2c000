"""The application: its pages, static files, and what is answered when something goes wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Scope

from feedback_loop import __version__
from feedback_loop.dashboard import api, pages
from feedback_loop.dashboard.access import Door, admitted, door_of, refuse_forged
from feedback_loop.dashboard.backtests import Backtests
from feedback_loop.dashboard.headers import SecurityHeaders
from feedback_loop.dashboard.metrics import PATH, Counted, Figures, metrics
from feedback_loop.dashboard.render import local_path, make_environment, page, path_to
from feedback_loop.errors import FeedbackLoopError
from feedback_loop.loop import FeedbackLoop
from feedback_loop.serving.http_errors import HttpError, explained
from feedback_loop.tracing import Tracing, start_tracing

STATIC = Path(__file__).parent / "static"
FOR_EVER = "public, max-age=31536000, immutable"
"""Of files whose address has the version in it."""

TITLES = {
    400: "Bad request",
    401: "Sign in",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible",
    409: "Refused",
    422: "Not understood",
    503: "Not available now",
}


def create_app(loop: FeedbackLoop, *, host: str | None = None, tracing: Tracing | None = None) -> FastAPI:
    """The pages of one loop, to be served by itself or mounted into another application.

    Whether people sign in with a key follows `serving.require_key` as for a server that listens at `host` (default:
    that of the configuration). The loop stays the caller's, who closes it. `tracing` gives each request a span
    (default: one as `dashboard.trace` says, by OpenTelemetry's own variables).
    """
    app = _App(
        title="feedback-loop",
        version=__version__,
        docs_url=None,  # they would be fetched from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
        dependencies=[Depends(_check_host), Depends(refuse_forged)],
    )
    app.state.loop = loop
    app.state.door = Door(loop, host if host is not None else loop.settings.dashboard.host)
    app.state.templates, app.state.links = make_environment(), pages.links
    app.state.figures = Figures(loop)
    app.state.tracing = tracing or (start_tracing() if loop.settings.dashboard.trace else None)
    app.state.backtests = threading.BoundedSemaphore(api.MOST_BACKTESTS)
    app.state.played = Backtests(loop, app.state.backtests)
    app.add_exception_handler(HTTPException, _routing_error)
    for error in (FeedbackLoopError, HttpError, RequestValidationError, Exception):
        app.add_exception_handler(error, _error)
    app.mount("/static", _Static(directory=STATIC), name="static")
    app.add_api_route("/plotly.min.js", _plotly, name="plotly", include_in_schema=False)
    app.add_api_route("/health", _health, name="health", include_in_schema=False)
    app.add_api_route(PATH, metrics, name="metrics", include_in_schema=False)
    app.include_router(pages.sign_in.router)
    for module in pages.PAGES:
        app.include_router(module.router, dependencies=[Depends(admitted)])
    app.include_router(api.router)
    app.include_router(api.answers)
    return app


class _App(FastAPI):
    def build_middleware_stack(self) -> ASGIApp:
        """Around all of it: what `add_middleware` adds sees no answer to an error that nobody expected."""
        return Counted(SecurityHeaders(super().build_middleware_stack()), self.state.figures, self.state.tracing)


class _Static(StaticFiles):
    """Files of a release: their addresses have its version in them."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """A file, kept by the browser for ever."""
        answer = super().file_response(full_path, stat_result, scope, status_code)
        answer.headers["cache-control"] = FOR_EVER
        return answer


async def _check_host(request: Request) -> None:
    door_of(request).check_host(request)


def _plotly() -> FileResponse:
    """Plotly's JavaScript, from its Python package (which is not imported)."""
    package = importlib.util.find_spec("plotly")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "package_data" / "plotly.min.js"
    return FileResponse(path, media_type="text/javascript", headers={"cache-control": FOR_EVER})


async def _health() -> JSONResponse:
    """For whoever supervises the process; needs none of the threads that pages wait for."""
    return JSONResponse({"status": "ok"})


def _routing_error(request: Request, error: Exception) -> Response:
    """No such address, or no such method of one."""
    assert isinstance(error, HTTPException)
    return _failed(request, HttpError(error.status_code, str(error.detail).upper(), _routing_words(error)))


def _routing_words(error: HTTPException) -> str:
    if error.status_code == 404:
        return "There is nothing at this address. Begin at the overview."
    return f"{error.detail}."


def _error(request: Request, error: Exception) -> Response:
    """What went wrong, in words; whatever nobody expected is in the log under a number."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        error = HttpError(422, "INVALID_PARAMETER_VALUE", f"{place}: {first['msg']}.")
    return _failed(request, error)


def _failed(request: Request, error: Exception) -> Response:
    path = local_path(request)
    status, body, headers = explained(error, "/pages")
    if path.startswith("/api/") or path == PATH:
        return Response(body, status, dict(headers))
    if status == 401:
        return _to_sign_in(request)
    message = json.loads(body)["message"]
    title = TITLES.get(status, "Something went wrong")
    return page(request, "error.html", title=title, status=status, message=message)


def _to_sign_in(request: Request) -> Response:
    """To the page where one signs in, which leads back.

    A link from elsewhere (a chat, a mail) comes without the session's cookie, which is for this site alone: the page
    is then asked for once more, by itself.
    """
    if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "GET":
        return page(request, "again.html", title="One moment")
    address = path_to(request, "sign_in", {"next": local_path(request, with_query=True)})
    if request.headers.get("hx-request"):  # a part of a page: the whole page has to go there
        return Response(status_code=204, headers={"hx-redirect": address})
    return RedirectResponse(address, status_code=303)
