"""A page's HTML: templates, what all of them are given, and how values are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from feedback_loop import __version__
from feedback_loop.clock import parse_moment
from feedback_loop.dashboard.access import COOKIE, FORGERY_FIELD, door_of
from feedback_loop.dashboard.charts import Chart
from feedback_loop.dashboard.tables import Table, as_csv, number_words, share_words
from feedback_loop.safe_text import as_text

STATES = {
    "good": "ok champion observed yes open_none served promoted passed succeeded sent done approved recovered within",
    "bad": (
        "not_made degraded failed crossed dead_letter died abandoned rejected not_served failing drifted harmful "
        "refused conflict cut cancelled"
    ),
    "warn": (
        "warning open waiting waits_for_approval pending expired silenced retrying frozen running_long insufficient "
        "missing"
    ),
    "busy": "running wanted asked started in_progress shadow canary ramp probation chosen",
}
"""Which look a state has. Its word always stands beside the colour."""

_LOOKS = {state: look for look, states in STATES.items() for state in states.split()}


def page(
    request: Request,
    template: str,
    *,
    title: str,
    status: int = 200,
    tables: Sequence[Table] = (),
    charts: Sequence[Chart] = (),
    model: str | None = None,
    **context: Any,
) -> Response:
    """A page; or one of its tables as CSV, where `?format=csv&table=NAME` asks for it (without a name: the first).

    `tables` and `charts` come to the template by name. `model` is the one that the page is about, in the navigation.
    """
    if request.query_params.get("format") == "csv" and tables:
        wanted = request.query_params.get("table", tables[0].name)
        chosen = next((table for table in tables if table.name == wanted), tables[0])
        return Response(as_csv(chosen), media_type="text/csv; charset=utf-8", headers=_download(chosen.name))
    visitor = getattr(request.state, "visitor", None)
    environment: Environment = request.app.state.templates
    html = environment.get_template(template).render(
        request=request,
        title=title,
        here_path=own_path(request),
        visitor=visitor,
        navigation=request.app.state.links(of_model=False) if visitor is not None else [],
        model_navigation=request.app.state.links(of_model=True) if model is not None else [],
        model=model,
        tables={table.name: table for table in tables},
        charts={chart.name: chart for chart in charts},
        release=__version__,
        **context,
    )
    return HTMLResponse(html, status_code=status)


def _download(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}.csv"'}


def path_to(request: Request, route: str, query: Mapping[str, Any] | None = None, **parameters: Any) -> str:
    """The address of a route by its name, wherever the application is mounted; without host: it holds behind a proxy.

    `parameters` are those of its path. What is None in the query is left out.
    """
    path = request.app.url_path_for(route, **{name: str(value) for name, value in parameters.items()})
    asked = {name: value for name, value in (query or {}).items() if value is not None}
    return f"{request.scope.get('root_path', '')}{quote(path)}{'?' + urlencode(asked) if asked else ''}"


def linked(
    request: Request, route: str, fields: Mapping[str, str], **parameters: Any
) -> Callable[[Mapping[str, Any]], str]:
    """A column's link to a route: `fields` are those of a row, by the parameters of its path that they are for."""

    def address(row: Mapping[str, Any]) -> str:
        return path_to(request, route, **parameters, **{name: row[field] for name, field in fields.items()})

    return address


def own_path(request: Request) -> str:
    """The path of a request, as `path_to` writes it."""
    return quote(request.scope["path"])


def local_path(request: Request, *, with_query: bool = False) -> str:
    """The path of a request within the application, wherever that is mounted."""
    path = own_path(request).removeprefix(request.scope.get("root_path", "")) or "/"
    return f"{path}?{request.url.query}" if with_query and request.url.query else path


def make_environment() -> Environment:
    """The templates. Whatever is not ours is escaped, and shown as text: also what is invisible in it."""
    environment = Environment(
        loader=PackageLoader("feedback_loop.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.globals.update(path=_path, static=_static, csrf=_csrf, here=_here, looks=look_of)
    environment.filters.update(moment=moment_words, number=number_words, share=share_words, look=look_of)
    return environment


def _visible(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return as_text(value, keep="\n")
    return value


@pass_context
def _path(context: Context, route: str, query: Mapping[str, Any] | None = None, **parameters: Any) -> str:
    return path_to(context["request"], route, query, **parameters)


@pass_context
def _static(context: Context, name: str) -> str:
    request: Request = context["request"]
    return f"{request.scope.get('root_path', '')}/static/{name}?v={__version__}"


@pass_context
def _csrf(context: Context) -> Markup:
    """The hidden field that each form has."""
    request: Request = context["request"]
    token = door_of(request).sessions.token(request.cookies.get(COOKIE, ""))
    return Markup('<input type="hidden" name="{}" value="{}">').format(FORGERY_FIELD, token)


@pass_context
def _here(context: Context, **changed: Any) -> str:
    """The page's own address, with other parameters."""
    request: Request = context["request"]
    query = {**request.query_params, **changed}
    kept = {name: value for name, value in query.items() if value is not None}
    return f"{own_path(request)}{'?' + urlencode(kept) if kept else ''}"


def moment_words(value: str | datetime | None) -> Markup | str:
    """A moment for people (UTC), exact in its title and for programs; a dash where there is none."""
    if value is None or value == "":
        return "–"
    moment = parse_moment(value) if isinstance(value, str) else value
    exact = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(exact, exact, f"{moment:%Y-%m-%d %H:%M}")


def look_of(state: str) -> str:
    """The look of a state: `good`, `bad`, `warn`, `busy`, or `plain`."""
    return _LOOKS.get(str(state).replace(" ", "_"), "plain")
