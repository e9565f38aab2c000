"""Records as plain values, as JSON and people have them: times as text, windows by their two ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any

from feedback_loop.clock import Window, format_moment


def plain(value: Any) -> Any:
    """The same without dataclasses and times, however deep they are in it; what JSON does not know is its text."""
    if isinstance(value, datetime):
        return format_moment(value) if value.tzinfo is not None else value.isoformat()  # others' may have no zone
    if isinstance(value, Window):
        value = (value.start, value.end)
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    return value if isinstance(value, int | float | None) else str(value)
