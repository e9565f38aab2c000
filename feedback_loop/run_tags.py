"""The tags that runs in MLflow get which are begun within a piece of the loop's work, by whatever code it calls."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

PREFIX = "feedback_loop."
"""What the names of our tags begin with."""

VARIABLE = "FEEDBACK_LOOP_RUN_TAGS"
"""JSON of the tags of a process that was started for such a piece of work."""

_NONE: Mapping[str, str] = MappingProxyType({})
_within: ContextVar[Mapping[str, str]] = ContextVar("feedback_loop_run_tags", default=_NONE)


@contextmanager
def run_tags(**tags: object) -> Iterator[None]:
    """In the block runs are tagged: `run_tags(incident=3)` with `feedback_loop.incident`. None says nothing."""
    named = {PREFIX + name: str(value) for name, value in tags.items() if value is not None}
    token = _within.set({**_within.get(), **named})
    try:
        yield
    finally:
        _within.reset(token)


def current_tags() -> dict[str, str]:
    """The tags of this moment: those that this process was started with, and of the blocks that it is in."""
    return {**_of_process(), **_within.get()}


def as_variables() -> dict[str, str]:
    """The variable by which a process that is started now has the tags of this moment."""
    return {VARIABLE: json.dumps(current_tags())}


def _of_process() -> dict[str, str]:
    try:
        given = json.loads(os.environ.get(VARIABLE, "{}"))
    except ValueError:  # somebody else's
        return {}
    return {str(name): str(value) for name, value in given.items()} if isinstance(given, dict) else {}
