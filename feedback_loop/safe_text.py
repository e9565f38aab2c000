"""What people are shown of data: as text, without control characters and without secrets."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

HIDDEN = "***"
"""What stands in the place of a secret."""

_TELLING = 4
"""What is shorter is no token, and stands in many a word."""

_USER = re.compile(r"""(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<user>[^\s'"<>|]*)@""", re.IGNORECASE)
_NAMED = re.compile(
    r"""(?P<name>(?:[?&;\s,](?:ssl)?(?:password|passwd|pwd|token|access_token|secret|client_secret|api_?key)|[?&](?:sig|signature))=)[^&;,\s'"]+""",
    re.IGNORECASE,
)


def without_secrets(text: str, *, secret_url: str = "") -> str:
    """A URL, or a text with URLs in it, as it may be shown: without passwords and tokens.

    Every URL that is printed, logged or sent passes here. Of a `secret_url` (an alert's route, a dead man's switch)
    nothing is shown but its scheme: any part of it may be the token.
    """
    parts = {part for part in re.split("[/?@:&=]", secret_url.partition("://")[2]) if len(part) >= _TELLING}
    for part in (secret_url, *sorted(parts, key=len, reverse=True)):
        text = text.replace(part, HIDDEN) if part else text
    if "://" in text:
        text = _USER.sub(_hide_user, text)
    return _NAMED.sub(rf"\g<name>{HIDDEN}", text) if "=" in text else text


def _hide_user(match: re.Match[str]) -> str:
    """What is before the `@`: a name is shown with a database, and hidden where it may be a token."""
    scheme, user = match["scheme"], match["user"]
    name, colon, _ = user.partition(":")
    if colon:
        return f"{scheme}{name}:{HIDDEN}@"
    return f"{scheme}{HIDDEN}@" if scheme.lower().startswith("http") else match[0]


def as_text(text: str, *, keep: str = "") -> str:
    r"""The same with control and invisible characters written out (`\x1b`, `\u202e`), but for those in `keep`.

    What callers send is printed on operators' terminals: an escape sequence would be obeyed, a line end would make a
    line of its own.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter in keep or _is_visible(letter) else repr(letter)[1:-1] for letter in text)


def all_as_text(value: Any) -> Any:
    """The same value with each text in it (of dictionaries and sequences, their names too) as `as_text` has it."""
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, dict):
        return {all_as_text(name): all_as_text(inner) for name, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(all_as_text, value))
    return value


def _is_visible(letter: str) -> bool:
    """Whether it is a letter or a space: what moves a cursor, turns text around or breaks a line is neither."""
    return letter.isprintable() or unicodedata.category(letter) == "Zs"
