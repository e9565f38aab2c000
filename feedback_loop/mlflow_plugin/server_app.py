"""MLflow's server with the loop's pages in it: `mlflow server --app-name feedback-loop`."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

from feedback_loop.errors import FeedbackLoopError, Refused

if TYPE_CHECKING:
    from fastapi import FastAPI

PATH = "/feedback-loop"
"""Where the pages are in MLflow's server, after its `--static-prefix`."""

EVERYWHERE = "0.0.0.0"  # noqa: S104 (nothing listens there: keys are asked for as if it were so)


def create_app() -> FastAPI:
    """MLflow's own application, with the pages of the configuration under `PATH`.

    Raises Refused where MLflow is to be run by gunicorn or waitress, which know nothing of ASGI.
    """
    if os.environ.get("_MLFLOW_SGI_NAME", "uvicorn") != "uvicorn":
        raise Refused("The pages need uvicorn.", cure="Leave out --gunicorn-opts and --waitress-opts.")
    from mlflow.server.fastapi_app import create_fastapi_app
    from mlflow.server.handlers import STATIC_PREFIX_ENV_VAR
    from starlette.responses import RedirectResponse
    from starlette.routing import Mount, Route

    app: FastAPI = create_fastapi_app()
    path = os.environ.get(STATIC_PREFIX_ENV_VAR, "").rstrip("/") + PATH
    pages = Mount(path, app=Pages(listens_at(sys.argv)))
    app.router.routes[:0] = [Route(path, lambda _: RedirectResponse(f"{path}/")), pages]  # before MLflow's catch-all
    return app


class Pages:
    """The pages, opened when they are first asked for: MLflow's server starts and works without them.

    While the configuration or the store can't be opened, they say so, and try again.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._app: Any = None
        self._opening = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers a request, as ASGI has it."""
        from starlette.responses import PlainTextResponse

        try:
            async with self._opening:
                self._app = self._app or await asyncio.to_thread(self._open)
        except FeedbackLoopError as error:
            await PlainTextResponse(f"{error}\n", status_code=503)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _open(self) -> Any:
        from feedback_loop.dashboard import create_app as create_pages
        from feedback_loop.loop import FeedbackLoop

        return create_pages(FeedbackLoop.open(), host=self._host)


def listens_at(arguments: list[str]) -> str:
    """The address in the command line of uvicorn, which its workers have too; everywhere, if none is there."""
    for place, word in enumerate(arguments):
        if word.startswith("--host="):
            return word.partition("=")[2]
        if word == "--host" and place + 1 < len(arguments):
            return arguments[place + 1]
    return EVERYWHERE
