"""Signing in with an API key, and out."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from feedback_loop.dashboard.access import COOKIE, Form, door_of
from feedback_loop.dashboard.render import page, path_to
from feedback_loop.store.keys import Scope

router = APIRouter(include_in_schema=False)


@router.get("/sign-in", name="sign_in")
def sign_in(request: Request, next: str = "") -> Response:  # noqa: A002 (the address has that word)
    """The form; where no key is asked for, there is nothing to sign in to."""
    if not door_of(request).needs_key:
        return RedirectResponse(path_to(request, "overview"), status_code=303)
    return page(request, "sign_in.html", title="Sign in", goes_to=next, problem="")


@router.post("/sign-in")
def sign_in_with_key(request: Request, form: Form) -> Response:
    """Checks the key, and begins a session of it."""
    door, goes_to = door_of(request), form.get("next", "")
    right = door.right(form.get("key", ""))
    problem = ""
    if right is None:
        problem = "That key is not valid. Make one: feedback-loop keys create NAME --scope read."
    elif Scope.READ not in right.scopes and Scope.ADMIN not in right.scopes:
        problem = f"The key {right.name!r} lacks the scope read, which the pages need."
    if problem or right is None:
        return page(request, "sign_in.html", title="Sign in", status=403, goes_to=goes_to, problem=problem)
    answer = RedirectResponse(_within(request, goes_to), status_code=303)
    root = request.scope.get("root_path", "") or "/"
    age = int(door.sessions.age.total_seconds())
    is_secure = request.url.scheme == "https"
    value = door.sessions.seal(right.name)
    answer.set_cookie(COOKIE, value, max_age=age, path=root, secure=is_secure, httponly=True, samesite="strict")
    return answer


@router.post("/sign-out", name="sign_out")
def sign_out(request: Request) -> Response:
    """Ends the session in this browser."""
    answer = RedirectResponse(path_to(request, "sign_in"), status_code=303)
    answer.delete_cookie(COOKIE, path=request.scope.get("root_path", "") or "/", httponly=True, samesite="strict")
    return answer


def _within(request: Request, goes_to: str) -> str:
    """The page that somebody came from; the overview, where that is none of ours."""
    is_ours = goes_to.startswith("/") and not goes_to.startswith(("//", "/\\")) and goes_to.isprintable()
    return f"{request.scope.get('root_path', '')}{goes_to}" if is_ours else path_to(request, "overview")
