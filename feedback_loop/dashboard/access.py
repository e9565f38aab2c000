"""Who looks at the pages, and what they may do: keys and their scopes, sessions, and forged requests."""

from __future__ import annotations

import getpass
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from itsdangerous import BadSignature, URLSafeTimedSerializer

from feedback_loop.config import Settings
from feedback_loop.errors import BadInput, NotFound
from feedback_loop.loop import FeedbackLoop
from feedback_loop.private import new_folder
from feedback_loop.serving import needs_key, tell_proxied
from feedback_loop.serving.http_errors import HttpError, media_type
from feedback_loop.serving.origins import Origins
from feedback_loop.store.keys import KeyRight, Scope, digest, valid_keys

COOKIE = "feedback_loop_session"
FORGERY_FIELD, FORGERY_HEADER = "csrf", "x-csrf-token"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
MOST_BODY_BYTES = 256 * 1024
MOST_FIELDS = 100

_SIGNED_BY = "dashboard.secret"


@dataclass(frozen=True)
class Visitor:
    """Who a request is from: the name of their key (where none is needed: of this process's user), what they may do.

    `models` are those that the key is for; None: all.
    """

    name: str
    scopes: frozenset[Scope]
    models: frozenset[str] | None = None
    has_key: bool = True

    def sees(self, model: str) -> bool:
        """Whether the key is for that model."""
        return self.models is None or model in self.models

    def visible(self, models: Iterable[str]) -> list[str]:
        """Those of the models that the key is for."""
        return [model for model in models if self.sees(model)]

    def may(self, scope: Scope, model: str) -> bool:
        """Whether the key is for that model, and has the scope or `admin`."""
        return self.sees(model) and (scope in self.scopes or Scope.ADMIN in self.scopes)

    def require(self, scope: Scope, model: str | None = None) -> None:
        """Raises HttpError (403) where the key lacks the scope, or is not for that model."""
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            message = f"The key {self.name!r} lacks the scope {scope}. Make one: feedback-loop keys create."
            raise HttpError(403, "PERMISSION_DENIED", message)
        if model is not None and not self.sees(model):
            message = f"The key {self.name!r} is not for this model. Make one: feedback-loop keys create."
            raise HttpError(403, "PERMISSION_DENIED", message)

    def require_all(self, scope: Scope) -> None:
        """Raises HttpError (403) where the key lacks the scope, or is for certain models alone."""
        self.require(scope)
        if self.models is not None:
            message = f"The key {self.name!r} is for certain models alone, and this tells of all of them."
            raise HttpError(403, "PERMISSION_DENIED", message)


class Sessions:
    """Signs who is signed in, and the tokens by which a form is known to be one of our pages'."""

    def __init__(self, secret: bytes, age: timedelta) -> None:
        self._secret, self.age = secret, age
        self._serializer = URLSafeTimedSerializer(secret, salt="feedback-loop session")

    def seal(self, name: str) -> str:
        """The cookie of somebody who has shown the key of that name."""
        return self._serializer.dumps({"key": name, "id": secrets.token_urlsafe(8)})

    def name(self, cookie: str) -> str | None:
        """The key's name in a cookie; None for one that is forged or too old."""
        try:
            return str(self._serializer.loads(cookie, max_age=int(self.age.total_seconds()))["key"])
        except BadSignature:  # its child SignatureExpired too
            return None

    def token(self, cookie: str) -> str:
        """The token of the forms of one session (empty: of somebody who is not signed in)."""
        return hmac.new(self._secret, b"csrf:" + cookie.encode(), hashlib.sha256).hexdigest()


class Door:
    """Lets people in. Keys are asked for where a server at that `host` would ask callers for one."""

    def __init__(self, loop: FeedbackLoop, host: str) -> None:
        settings = loop.settings
        serving = settings.serving.model_copy(update={"host": host})
        self._store = loop.store
        self.needs_key = needs_key(serving)
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
            return Visitor(getpass.getuser(), frozenset(Scope), has_key=False)
        key = bearer_key(request)
        if key is not None:
            right = self.right(key)
        else:
            name = self.sessions.name(request.cookies.get(COOKIE, ""))
            right = next((right for right in valid_keys(self._store) if right.name == name), None)
        return Visitor(right.name, right.scopes, right.models) if right is not None else None


def session_secret(settings: Settings) -> bytes:
    """What sessions are signed with: the configured secret, or one of this host's that is made here once."""
    configured = settings.dashboard.secret.get_secret_value()
    if configured:
        return configured.encode()
    folder = settings.path(settings.serving.cache)
    new_folder(folder)
    path = folder / _SIGNED_BY
    if not path.exists():
        _make_secret(path)
    return path.read_bytes()


def _make_secret(path: Path) -> None:
    """Makes the file whole, or leaves the one that another process has made meanwhile."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(48))
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


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
