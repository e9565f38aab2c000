"""What is wrong with a configuration, in words: the file, the key, and the nearest right one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import SecretStr

from feedback_loop.errors import ConfigError


def explained(root: Any, place: Path, problem: Mapping[str, Any]) -> ConfigError:
    """A problem that Pydantic has found in the settings of class `root`."""
    keys = tuple(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return unknown_setting(root, place, keys)
    dotted = ".".join(keys)
    shown = f" (it is {problem['input']!r})" if _may_be_shown(root, keys, problem["input"]) else ""
    cause = "is missing" if problem["type"] == "missing" else f"{problem['msg']}{shown}"
    cure = "Add it." if problem["type"] == "missing" else "Mend it."
    return ConfigError(f"{place}: {dotted}: {cause}.", cure=cure, path=place, key=dotted)


def _may_be_shown(root: Any, keys: tuple[str, ...], value: object) -> bool:
    """Whether an error may print a value: no secret, whatever type it was given, and nothing that holds one."""
    if not isinstance(value, bool | int | float | str) or "://" in str(value) or _SECRETS & set(keys):
        return False
    section = _section(root, keys[:-1])
    field = section.model_fields.get(keys[-1]) if hasattr(section, "model_fields") else None
    return field is None or field.annotation is not SecretStr


_SECRETS = {"url", "tracking_uri", "registry_uri", "routes", "heartbeat"}
"""Settings that may hold a password or a token, as part of a URL."""


def _section(root: Any, keys: tuple[str, ...]) -> Any:
    """What these keys lead to: into sections, dictionaries of them, and those that may be absent."""
    section = root
    for key in keys:
        if key.isdecimal():  # a place in a list, whose sections are known already
            continue
        if get_origin(section) is dict:
            kind = get_args(section)[1]
        elif key in getattr(section, "model_fields", {}):
            kind = section.model_fields[key].annotation
        else:
            return None
        optional = [inner for inner in get_args(kind) if hasattr(inner, "model_fields")]
        section = optional[0] if optional and get_origin(kind) is not dict else kind
    return section


def unknown_setting(root: Any, place: Path, keys: tuple[str, ...]) -> ConfigError:
    """There is no such key in the settings of class `root`."""
    section = _section(root, keys[:-1])
    names = {field.alias or name for name, field in section.model_fields.items()} - {"home"}
    dotted = ".".join(keys)
    cure = nearest(keys[-1], names, lambda name: ".".join((*keys[:-1], name)))
    return ConfigError(f"{place}: there is no setting {dotted!r}.", cure=cure, path=place, key=dotted)


def nearest(word: str, names: set[str], spell: Callable[[str], str]) -> str:
    """The cure for a wrong word: the known one that is like it, or all of them."""
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {spell(close[0])}?"
    return f"Known here: {', '.join(sorted(names))}."
