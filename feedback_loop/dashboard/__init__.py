"""Web pages over `feedback_loop.views`: FastAPI, Jinja2, htmx, Plotly; nothing is fetched from elsewhere.

A page is one module in `pages/`, with `router` (its routes) and, where it is in the navigation, `LINK`; it is
added to `pages.PAGES`. It reads from `views`, and answers by `render.page(request, template, tables=…, charts=…)`,
which makes every table a CSV too (`?format=csv&table=NAME`). Whoever asks has been let in with scope `read` before
a page's function runs; one that changes something asks `visitor.require(Scope.ADMIN, model)` first. Forged posts are
refused for all routes: a form has `{{ csrf() }}` in it. See docs/dashboard.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feedback_loop.dashboard.app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> object:
    """Imports FastAPI when the application is first asked for."""
    if name not in __all__:
        raise AttributeError(name)
    from feedback_loop.dashboard import app

    return getattr(app, name)
