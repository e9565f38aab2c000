"""Segments: which values of a column are looked at one by one; all others are counted together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

SEGMENT_VALUES = 50
"""So many values of each column of segments are counted by themselves, unless it is configured otherwise."""

OTHER = "(other)"
"""The value that stands for all of a column that are not counted by themselves; one that reads so is among them."""


def segment_name(column: str, value: str) -> str:
    """How a segment is called."""
    return f"{column}={value}"


def most_frequent(counts: Mapping[str, int], limit: int) -> tuple[str, ...]:
    """The values that are there most often, by name where as often."""
    ordered = sorted(counts, key=lambda value: (-counts[value], value))
    return tuple(value for value in ordered if value != OTHER)[:limit]


def with_arrivals(
    named: Sequence[str], arrivals: Iterable[tuple[datetime, str | None]], limit: int
) -> tuple[str, ...]:
    """The values that are named already and, while there is room, those that came next.

    They are named in the order in which they came, of one moment the most frequent first. So a value that is named
    stays so, and of the values that had come by some moment the same ones are named whenever that is asked.
    """
    if len(named) >= limit:
        return tuple(named)
    excluded = {*named, OTHER, None}
    came = Counter((moment, value) for moment, value in arrivals if value is not None and value not in excluded)
    ordered = sorted(came, key=lambda arrival: (arrival[0], -came[arrival], arrival[1]))
    return tuple(dict.fromkeys([*named, *(value for _, value in ordered)]))[:limit]
