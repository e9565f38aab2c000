"""What somebody may do: the right of a key, or those that rules give to what a provider says of a person."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from feedback_loop.config import OidcRule
from feedback_loop.serving.http_errors import HttpError
from feedback_loop.store.keys import Scope

EMAIL = "email"


@dataclass(frozen=True)
class Right:
    """Scopes for some models (None: for all)."""

    scopes: frozenset[Scope]
    models: frozenset[str] | None = None

    def gives(self, scope: Scope) -> bool:
        """Whether that scope, or `admin`, is among them."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


@dataclass(frozen=True)
class Visitor:
    """Who a request is from, and what they may do.

    `name` is that of their key or, of a `person`, what their provider knows them by; where nobody has to sign in
    (`local`), of this process's user.
    """

    name: str
    rights: tuple[Right, ...]
    kind: Literal["key", "person", "local"] = "key"

    def visible(self, models: Iterable[str]) -> list[str]:
        """Those of the models that the visitor may read."""
        return [model for model in models if self.may(Scope.READ, model)]

    def may(self, scope: Scope, model: str) -> bool:
        """Whether the visitor has the scope or `admin` for that model."""
        return any(right.gives(scope) and (right.models is None or model in right.models) for right in self.rights)

    def may_everywhere(self, scope: Scope) -> bool:
        """Whether the visitor has the scope or `admin` for all models together."""
        return any(right.gives(scope) and right.models is None for right in self.rights)

    def require(self, scope: Scope, model: str | None = None) -> None:
        """Raises HttpError (403) where the visitor lacks the scope, or has it not for that model."""
        if not any(right.gives(scope) for right in self.rights):
            raise self._refusal(f"lacks the scope {scope}. {self._cure}")
        if model is not None and not self.may(scope, model):
            raise self._refusal(f"lacks the scope {scope} for this model. {self._cure}")

    def require_all(self, scope: Scope) -> None:
        """Raises HttpError (403) where the visitor has the scope for none, or for certain models alone."""
        self.require(scope)
        if not self.may_everywhere(scope):
            raise self._refusal(f"has the scope {scope} for certain models alone, and this tells of all of them.")

    def _refusal(self, words: str) -> HttpError:
        who = f"The key {self.name!r}" if self.kind == "key" else self.name
        return HttpError(403, "PERMISSION_DENIED", f"{who} {words}")

    @property
    def _cure(self) -> str:
        if self.kind == "key":
            return "Make one: feedback-loop keys create."
        return "The rules of dashboard.oidc say who has it."


def value_at(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name or, where there is none, by a path of names with dots between; None: there is none."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def texts_at(claims: Mapping[str, Any], name: str) -> list[str]:
    """The texts of a claim: itself, or those in its list. An email is none before its provider has verified it."""
    if name == EMAIL and claims.get("email_verified") not in (True, "true"):
        return []
    value = value_at(claims, name)
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def named_by(rules: Sequence[OidcRule], claims: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of all claims those that a rule is about: what a session has to remember of a person."""
    named = {(rule.claim, rule.value) for rule in rules if rule.value in texts_at(claims, rule.claim)}
    return sorted(named)


def rights_of(rules: Sequence[OidcRule], named: Collection[tuple[str, str]]) -> tuple[Right, ...]:
    """What the rules give to whom this is true of; nothing to others."""
    return tuple(
        Right(frozenset(map(Scope, rule.scopes)), frozenset(rule.models) or None)
        for rule in rules
        if (rule.claim, rule.value) in named
    )
