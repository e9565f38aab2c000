"""Signing in with an API key or by OpenID Connect, and out."""

from __future__ import annotations

import hmac
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from feedback_loop.dashboard.access import COOKIE, Form, door_of
from feedback_loop.dashboard.oidc import CALLBACK, Person, Provider
from feedback_loop.dashboard.render import page, path_to
from feedback_loop.dashboard.rights import named_by
from feedback_loop.dashboard.sessions import ATTEMPT_SECONDS, Session
from feedback_loop.errors import Refused, Unavailable
from feedback_loop.serving.http_errors import HttpError
from feedback_loop.store.keys import Scope

ATTEMPT_COOKIE = "feedback_loop_attempt"
"""Goes to the callback alone, where the provider sends people from its own site: `Lax`."""

ID_TOKEN_COOKIE = "feedback_loop_id_token"  # noqa: S105 (a name)
"""Goes to where people sign out, alone: by it their provider knows whom to sign out."""

LONGEST_COOKIE = 3500
"""Browsers keep 4096 characters of a cookie, its name and attributes with them."""

LONGEST_WAY_BACK = 1000
"""The address of a page that somebody wanted to see; the overview, if it is longer."""

router = APIRouter(include_in_schema=False)

_log = structlog.get_logger(__name__)


@router.get("/sign-in", name="sign_in")
def sign_in(request: Request, next: str = "") -> Response:  # noqa: A002 (the address has that word)
    """The form; where no key is asked for, there is nothing to sign in to."""
    if not door_of(request).needs_key:
        return RedirectResponse(path_to(request, "overview"), status_code=303)
    return _form(request, next)


@router.post("/sign-in")
def sign_in_with_key(request: Request, form: Form) -> Response:
    """Checks the key, and begins a session of it."""
    door, goes_to = door_of(request), form.get("next", "")
    right = door.right(form.get("key", ""))
    if right is None:
        problem = "That key is not valid. Make one: feedback-loop keys create NAME --scope read."
        return _form(request, goes_to, problem, 403)
    if Scope.READ not in right.scopes and Scope.ADMIN not in right.scopes:
        return _form(request, goes_to, f"The key {right.name!r} lacks the scope read, which the pages need.", 403)
    answer = RedirectResponse(_within(request, goes_to), status_code=303)
    _begin_session(request, answer, door.sessions.seal(right.name), is_secure=request.url.scheme == "https")
    return answer


@router.get("/sign-in/oidc", name="sign_in_oidc")
async def go_to_provider(request: Request, next: str = "") -> Response:  # noqa: A002
    """Sends the browser to the provider."""
    provider = _provider(request)
    cookie, attempt = door_of(request).sessions.begin(next if len(next) <= LONGEST_WAY_BACK else "")
    try:
        answer = RedirectResponse(await provider.begin(attempt), status_code=303)
    except (Refused, Unavailable) as error:
        return _failed(request, error, next)
    _set_cookie(request, answer, ATTEMPT_COOKIE, cookie, CALLBACK, is_secure=provider.is_secure)
    return answer


@router.get(CALLBACK)
async def come_back(request: Request, state: str = "", code: str = "", error: str = "", iss: str = "") -> Response:
    """Begins a session of whom the provider has sent back with a code, if it is the one whom we have sent."""
    provider, door = _provider(request), door_of(request)
    attempt = door.sessions.attempt(request.cookies.get(ATTEMPT_COOKIE, ""))
    if attempt is None or not hmac.compare_digest(attempt.state.encode(), state.encode()):
        problem = "That was not begun in this browser, or too long ago. Sign in anew."
        return _once(request, _form(request, "", problem, 403))
    if error or not code or iss not in ("", provider.issuer):
        problem = f"{provider.host} did not sign you in."
        return _once(request, _form(request, attempt.goes_to, problem, 403))
    try:
        person = await provider.finish(attempt, code)
    except (Refused, Unavailable) as failure:
        return _once(request, _failed(request, failure, attempt.goes_to))
    return _once(request, _let_in(request, provider, person, attempt.goes_to))


@router.post("/sign-out", name="sign_out")
async def sign_out(request: Request) -> Response:
    """Ends the session in this browser and, of a person, the one at their provider."""
    door = door_of(request)
    session = door.sessions.open(request.cookies.get(COOKIE, ""))
    answer: Response = RedirectResponse(path_to(request, "sign_in"), status_code=303)
    if door.provider is not None and session is not None and session.issuer == door.provider.issuer:
        try:
            address = await door.provider.end(request.cookies.get(ID_TOKEN_COOKIE, ""))
        except (Refused, Unavailable):  # the session here ends all the same
            address = None
        if address is not None:  # no redirect: a form may lead to this site alone
            answer = page(request, "onward.html", title="Signed out", address=address)
    root = _root(request)
    answer.delete_cookie(COOKIE, path=root or "/", httponly=True, samesite="strict")
    answer.delete_cookie(ID_TOKEN_COOKIE, path=f"{root}/sign-out", httponly=True, samesite="strict")
    return answer


def _let_in(request: Request, provider: Provider, person: Person, goes_to: str) -> Response:
    """A session of somebody to whom the rules give something; nothing else of them is kept than what rules name."""
    door, claims = door_of(request), named_by(provider.rules, person.claims)
    if door.person(Session(person.name, provider.issuer, tuple(claims))) is None:
        _log.warning("nobody has let them in", person=person.name, issuer=provider.issuer)
        problem = f"{person.name} is known to {provider.host}, but no rule here lets them in (dashboard.oidc.rules)."
        return _form(request, goes_to, problem, 403)
    _log.info("signed in", person=person.name, issuer=provider.issuer)
    address = quote(_within(request, goes_to), safe="/?&=%:+,~@!$'()*;[]#")
    # A page that goes on by itself: after a redirect, the browser would still come from the provider's site, without
    # the cookie, which is for those from this one.
    answer = page(request, "onward.html", title="Signed in", address=address)
    cookie = door.sessions.seal(person.name, issuer=provider.issuer, claims=claims)
    _begin_session(request, answer, cookie, is_secure=provider.is_secure)
    if len(person.id_token) <= LONGEST_COOKIE:
        _set_cookie(request, answer, ID_TOKEN_COOKIE, person.id_token, "/sign-out", is_secure=provider.is_secure)
    return answer


def _begin_session(request: Request, answer: Response, cookie: str, *, is_secure: bool) -> None:
    _set_cookie(request, answer, COOKIE, cookie, "", is_secure=is_secure)


def _set_cookie(request: Request, answer: Response, name: str, value: str, path: str, *, is_secure: bool) -> None:
    """A cookie that no script sees. All but an attempt's, which a provider ends, are for this site's own pages."""
    is_attempt = name == ATTEMPT_COOKIE
    answer.set_cookie(
        name,
        value,
        max_age=ATTEMPT_SECONDS if is_attempt else int(door_of(request).sessions.age.total_seconds()),
        path=_root(request) + path or "/",
        secure=is_secure,
        httponly=True,
        samesite="lax" if is_attempt else "strict",
    )


def _once(request: Request, answer: Response) -> Response:
    """An attempt ends with its answer, whatever that is."""
    answer.delete_cookie(ATTEMPT_COOKIE, path=_root(request) + CALLBACK, httponly=True, samesite="lax")
    return answer


def _failed(request: Request, error: Refused | Unavailable, goes_to: str) -> Response:
    """The form again, with what went wrong: keys go on working."""
    _log.warning("signing in failed", cause=error.cause, reason=str(error.__cause__ or ""))
    if isinstance(error, Unavailable):
        return _form(request, goes_to, f"{error.cause} Try it later, or sign in with a key.", 503)
    return _form(request, goes_to, str(error), 403)


def _form(request: Request, goes_to: str, problem: str = "", status: int = 200) -> Response:
    shown: dict[str, Any] = {"goes_to": goes_to, "problem": problem, "provider": door_of(request).provider}
    return page(request, "sign_in.html", title="Sign in", status=status, **shown)


def _provider(request: Request) -> Provider:
    provider = door_of(request).provider
    if provider is None:
        raise HttpError(
            404, "RESOURCE_DOES_NOT_EXIST", "No provider of OpenID Connect is configured: dashboard.oidc."
        )
    return provider


def _root(request: Request) -> str:
    root: str = request.scope.get("root_path", "")
    return root


def _within(request: Request, goes_to: str) -> str:
    """The page that somebody came from; the overview, where that is none of ours."""
    is_ours = goes_to.startswith("/") and not goes_to.startswith(("//", "/\\")) and goes_to.isprintable()
    return f"{_root(request)}{goes_to}" if is_ours else path_to(request, "overview")
