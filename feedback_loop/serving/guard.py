"""Who may do what: keys with scopes, and where a server listens without asking for one."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from feedback_loop.config import ServingSettings
from feedback_loop.errors import FeedbackLoopError
from feedback_loop.serving.http_errors import HttpError
from feedback_loop.store.keys import KeyRight, Scope, digest

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Caller:
    """Who a request is from: the name of its key (None where none is needed), and its models (None: all)."""

    key: str | None = None
    models: frozenset[str] | None = None

    def require(self, model: str | None) -> None:
        """Raises HttpError where the key is not for that model (None: for all that there are)."""
        if self.models is None or model in self.models:
            return
        what = f"the model {model!r}" if model is not None else "all models"
        message = f"The key {self.key!r} is not for {what}. Make one: feedback-loop keys create --model."
        raise HttpError(403, "PERMISSION_DENIED", message, www_authenticate='Bearer error="insufficient_scope"')


ANYONE = Caller()


class Guard:
    """Lets callers in by their key. Thread-safe; which keys are valid is read again with every `refresh`.

    A key that is revoked is refused from the next `refresh` on. Where the store can't be read then, the keys of
    before stay: callers are answered while the store is away. A key that is not known may be a new one:
    `refresh_if_asked` reads again then, unless the store was away the last time.
    """

    def __init__(self, read: Callable[[], Iterable[KeyRight]], *, is_needed: bool) -> None:
        self._read = read
        self._valid: tuple[tuple[bytes, KeyRight], ...] = ()
        self._is_current = self._is_asked = False
        self.is_needed = is_needed

    def refresh(self) -> None:
        """Reads which keys are valid; on a failure those of before stay."""
        if not self.is_needed:
            return
        self._is_current = self._is_asked = False
        try:
            self._valid = tuple((right.digest.encode(), right) for right in self._read())
            self._is_current = True
        except FeedbackLoopError as error:
            _log.warning("keys not read", cause=str(error))

    def refresh_if_asked(self) -> None:
        """The same where somebody came with an unknown key since the last time."""
        if self._is_asked and self._is_current:
            self.refresh()

    def admits(self, authorization: str | None, scope: Scope) -> Caller:
        """Who it is, by the Authorization header (`Bearer fl_…`).

        Raises HttpError: 401 without a valid key, 403 with one that has neither the scope nor `admin`.
        """
        if not self.is_needed:
            return ANYONE
        right = self._right(authorization or "")
        if right is None:
            self._is_asked |= bool(authorization)
            message = "A valid key is needed: Authorization: Bearer fl_…"
            raise HttpError(401, "UNAUTHENTICATED", message, www_authenticate="Bearer")
        if scope not in right.scopes and Scope.ADMIN not in right.scopes:
            message = f"The key {right.name!r} lacks the scope {scope}. Make one: feedback-loop keys create."
            challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
            raise HttpError(403, "PERMISSION_DENIED", message, www_authenticate=challenge)
        return Caller(right.name, right.models)

    def _right(self, authorization: str) -> KeyRight | None:
        scheme, _, key = authorization.partition(" ")
        digest_of_key, match = digest(key.strip()).encode(), None
        for valid, right in self._valid:  # all of them, whichever it is: time tells nothing
            if hmac.compare_digest(digest_of_key, valid):
                match = right
        return match if scheme.lower() == "bearer" else None


def needs_key(settings: ServingSettings) -> bool:
    """Whether callers must show a key: always, never, or (`auto`) unless only this machine can reach the server."""
    if settings.require_key != "auto":
        return settings.require_key == "always"
    if settings.host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        return True
