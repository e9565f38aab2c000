"""Cookies: who is signed in, and who has gone to a provider to sign in; signed, so that nobody can make one up."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from itsdangerous import BadSignature, URLSafeTimedSerializer

from feedback_loop.config import Settings
from feedback_loop.private import new_folder

ATTEMPT_SECONDS = 600
"""Who goes to a provider is back by then, or begins anew."""

_SIGNED_BY = "dashboard.secret"


@dataclass(frozen=True)
class Session:
    """Who is signed in: a key by its name, or a person with what their provider said of them that a rule names."""

    name: str
    issuer: str = ""  # empty: it is a key
    claims: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Attempt:
    """Somebody's way to a provider and back: what ties its answer to the browser that has asked, and to this time."""

    state: str
    nonce: str
    verifier: str
    goes_to: str


class Sessions:
    """Signs who is signed in, and the tokens by which a form is known to be one of our pages'."""

    def __init__(self, secret: bytes, age: timedelta) -> None:
        self._secret, self.age = secret, age
        self._serializer = URLSafeTimedSerializer(secret, salt="feedback-loop session")
        self._attempts = URLSafeTimedSerializer(secret, salt="feedback-loop attempt to sign in")

    def seal(self, name: str, *, issuer: str = "", claims: Sequence[tuple[str, str]] = ()) -> str:
        """The cookie of somebody who has shown the key of that name, or whom an issuer knows by it."""
        who = {"person": name, "issuer": issuer, "claims": claims} if issuer else {"key": name}
        return self._serializer.dumps({**who, "id": secrets.token_urlsafe(8)})

    def open(self, cookie: str) -> Session | None:
        """Who is signed in by a cookie; None for one that is forged or too old."""
        content = _opened(self._serializer, cookie, self.age.total_seconds())
        if content is None:
            return None
        if "key" in content:
            return Session(content["key"])
        claims = tuple((claim, value) for claim, value in content["claims"])
        return Session(content["person"], content["issuer"], claims)

    def token(self, cookie: str) -> str:
        """The token of the forms of one session (empty: of somebody who is not signed in)."""
        return self._digest("csrf", cookie)

    def begin(self, goes_to: str) -> tuple[str, Attempt]:
        """An attempt to sign in, and its cookie."""
        number = secrets.token_urlsafe(24)
        cookie = self._attempts.dumps({"id": number, "next": goes_to})
        return cookie, self._attempt(number, goes_to)

    def attempt(self, cookie: str) -> Attempt | None:
        """The attempt of a cookie; None for one that is forged or too old."""
        content = _opened(self._attempts, cookie, ATTEMPT_SECONDS)
        return self._attempt(content["id"], content["next"]) if content is not None else None

    def _attempt(self, number: str, goes_to: str) -> Attempt:
        """Its secrets follow from its number and ours, so that the cookie need not have them."""
        state, nonce, verifier = (self._digest(kind, number) for kind in ("state", "nonce", "verifier"))
        return Attempt(state, nonce, verifier, goes_to)

    def _digest(self, kind: str, text: str) -> str:
        return hmac.new(self._secret, f"{kind}:{text}".encode(), hashlib.sha256).hexdigest()


def _opened(serializer: URLSafeTimedSerializer, cookie: str, seconds: float) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = serializer.loads(cookie, max_age=int(seconds))
    except BadSignature:  # its child SignatureExpired too
        return None
    return content


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
