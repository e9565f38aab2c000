"""Who looks at the pages, and what they may do: keys and their scopes, sessions, and forged requests."""

from __future__ import annotations

import getpass
import hmac
from functools import partial
from types import SimpleNamespace
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from feedback_loop.dashboard.oidc import provider_of
from feedback_loop.dashboard.rights import Right, Visitor, rights_of
from feedback_loop.dashboard.sessions import Session, Sessions, session_secret
from feedback_loop.errors import BadInput, NotFound
from feedback_loop.loop import FeedbackLoop
from feedback_loop.serving import needs_key, tell_proxied
from feedback_loop.serving.http_errors import HttpError, media_type
from feedback_loop.serving.origins import Origins
from feedback_loop.store.keys import KeyRight, Scope, digest, valid_keys

COOKIE = "feedback_loop_session"
FORGERY_FIELD, FORGERY_HEADER = "csrf", "x-csrf-token"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
MOST_BODY_BYTES = 256 * 1024
MOST_FIELDS = 100


class Door:
    """Lets people in: with a key where a server at that `host` would ask for one; by a provider, if there is one."""

    def __init__(self, loop: FeedbackLoop, host: str) -> None:
        settings = loop.settings
        oidc = settings.dashboard.oidc
        asked = {"host": host, "require_key": settings.serving.require_key if oidc is None else "always"}
        serving = settings.serving.model_copy(update=asked)
        self._store = loop.store
        self.needs_key = needs_key(serving)
        self.provider = provider_of(settings)
        self._issuer, self._rules = (oidc.issuer, oidc.rules) if oidc is not None else ("", ())
        self.sessions = Sessions(session_secret(settings), settings.dashboard.session)
        self._origins = Origins(serving, partial(tell_proxied, settings.path(settings.serving.cache)))

    def check_host(self, request: Request) -> None:
        """Raises HttpError: 400 for another's host, 403 for another site's page, where no key is asked for."""
        headers = request.headers
        self._origins.check(SimpleNamespace(get_all=headers.getlist, get=headers.get))

    def right(self, key: str) -> KeyRight | None:
        """What a key is good for now; None for one that is not valid."""
        wanted, match = digest(key.strip()).encode(), None
        for right in valid_keys(self._store):  # all of them, whichever it is: time tells nothing
            if hmac.compare_digest(wanted, right.digest.encode()):
                match = right
        return match

    def visitor(self, request: Request) -> Visitor | None:
        """Who asks, by the key in the header or by the session; None where somebody has to sign in first."""
        if not self.needs_key:
            return Visitor(getpass.getuser(), (Right(frozenset(Scope)),), "local")
        key = bearer_key(request)
        if key is not None:
            return _by_key(self.right(key))
        session = self.sessions.open(request.cookies.get(COOKIE, ""))
        if session is None:
            return None
        if session.issuer:
            return self.person(session)
        return _by_key(next((right for right in valid_keys(self._store) if right.name == session.name), None))

    def person(self, session: Session) -> Visitor | None:
        """A person with what the rules give them now; None for whom they give nothing, or who is another issuer's."""
        rights = rights_of(self._rules, session.claims) if session.issuer == self._issuer else ()
        may_read = any(right.gives(Scope.READ) for right in rights)
        return Visitor(session.name, rights, "person") if may_read else None


def _by_key(right: KeyRight | None) -> Visitor | None:
    return Visitor(right.name, (Right(right.scopes, right.models),)) if right is not None else None


def door_of(request: Request) -> Door:
    """The application's door."""
    door: Door = request.app.state.door
    return door


def loop_of(request: Request) -> FeedbackLoop:
    """The loop that the pages are about."""
    loop: FeedbackLoop = request.app.state.loop
    return loop


def bearer_key(request: Request) -> str | None:
    """The key in the header; None where there is none (a browser may send other credentials by itself)."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" else None


async def refuse_forged(request: Request) -> None:
    """Raises HttpError (403) for a request that changes something, and that no page of ours has sent.

    A browser sends a session's cookie by itself; a key in the header it does not, so such a request is let through.
    Nor does another site's page send JSON without asking first, which is answered with no: JSON needs no token.
    """
    if request.method in SAFE_METHODS or bearer_key(request) is not None:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    foreign = site not in (None, "same-origin", "none")
    foreign |= site is None and origin is not None and origin.partition("://")[2] != request.headers.get("host")
    if not foreign and media_type(request.headers) == "application/json":
        return
    token = request.headers.get(FORGERY_HEADER) or (await form_of(request)).get(FORGERY_FIELD, "")
    expected = door_of(request).sessions.token(request.cookies.get(COOKIE, ""))
    if foreign or not hmac.compare_digest(token.encode(), expected.encode()):
        message = "This form is not of a page that was opened in this session. Open the page again, and send it anew."
        raise HttpError(403, "PERMISSION_DENIED", message)


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a posted form, without NUL characters, which no database of ours holds; raises BadInput."""
    if media_type(request.headers) != "application/x-www-form-urlencoded":
        return {}
    body = (await request.body()).decode("utf-8", "replace")
    try:
        fields = parse_qsl(body, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise BadInput.of("form", f"has more than {MOST_FIELDS} fields") from None
    return {name: value.replace("\0", "") for name, value in fields}


def known(request: Request) -> Visitor:
    """Who asks, whatever they may do; raises HttpError (401) for nobody known."""
    visitor = door_of(request).visitor(request)
    if visitor is None:
        raise HttpError(401, "UNAUTHENTICATED", "A valid key is needed.", www_authenticate="Bearer")
    request.state.visitor = visitor
    return visitor


def admitted(visitor: Annotated[Visitor, Depends(known)]) -> Visitor:
    """Who asks; raises HttpError: 401 for nobody known, 403 for a key without `read`."""
    visitor.require(Scope.READ)
    return visitor


def model_in_path(model: str, visitor: Annotated[Visitor, Depends(admitted)], request: Request) -> str:
    """The model that a page is about; raises HttpError (403) for one that the key is not for, and NotFound."""
    visitor.require(Scope.READ, model)
    if model not in loop_of(request).settings.models:
        raise NotFound("model", model, cure="The models that there are: the overview.")
    return model


def approver(model: str, visitor: Annotated[Visitor, Depends(known)]) -> Visitor:
    """Who answers an approval of that model; raises HttpError (403) without the scope, or with a key for others."""
    visitor.require(Scope.APPROVE, model)
    return visitor


Loop = Annotated[FeedbackLoop, Depends(loop_of)]
"""A parameter of a page's function: the loop."""

Who = Annotated[Visitor, Depends(admitted)]
"""Likewise: who asks."""

ModelName = Annotated[str, Depends(model_in_path)]
"""Likewise: the `{model}` of the path, which is configured, and which the key is for."""

Form = Annotated[dict[str, str], Depends(form_of)]
"""Likewise: the fields of the form that was posted."""
