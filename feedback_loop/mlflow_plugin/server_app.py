"""MLflow's server with the loop's pages in it: `mlflow server --app-name feedback-loop`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from feedback_loop.errors import FeedbackLoopError, Refused

if TYPE_CHECKING:
    from fastapi import FastAPI

    from feedback_loop.loop import FeedbackLoop

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
    pages = Pages(listens_at(sys.argv))
    to_pages = Route(path, lambda _: RedirectResponse(f"{path}/"))
    app.router.routes[:0] = [to_pages, Mount(path, app=pages)]  # before MLflow's catch-all
    mlflows = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: FastAPI) -> AsyncIterator[Any]:
        async with mlflows(served) as state:  # a mounted application is not told of its server's end
            yield state
        await asyncio.to_thread(pages.close)

    app.router.lifespan_context = lifespan
    return app


class Pages:
    """The pages, opened when they are first asked for: MLflow's server starts and works without them.

    While the configuration or the store can't be opened, they say so, and try again.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._app: Any = None
        self._loop: FeedbackLoop | None = None
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

    def close(self) -> None:
        """Ends the searches that were begun here; where there is one, the process too, which its fit would keep."""
        from feedback_loop.dashboard.searching import give_up

        if self._loop is not None and give_up(self._loop):
            os._exit(0)

    def _open(self) -> Any:
        from feedback_loop.dashboard import create_app as create_pages
        from feedback_loop.dashboard.searching import end_left
        from feedback_loop.loop import FeedbackLoop

        self._loop = FeedbackLoop.open()
        end_left(self._loop)
        return create_pages(self._loop, host=self._host)


def listens_at(arguments: list[str]) -> str:
    """The address in the command line of uvicorn, which its workers have too; everywhere, if none is there."""
    for place, word in enumerate(arguments):
        if word.startswith("--host="):
            return word.partition("=")[2]
        if word == "--host" and place + 1 < len(arguments):
            return arguments[place + 1]
    return EVERYWHERE
