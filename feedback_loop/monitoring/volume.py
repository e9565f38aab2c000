"""Volume and freshness: whether as many predictions come as came before, and whether any come at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from feedback_loop.clock import Window, floor_moment, format_moment

WINDOWS = 14
"""A window is compared with the median of so many before it."""

LEAST_WINDOWS = 5

FACTOR = 2.0
"""So many times more or fewer than that are told, if chance (4 standard errors of a count) does not explain it."""


@dataclass(frozen=True)
class Notice:
    """What is not as it was. `subject` is the same for as long as it is the same thing."""

    subject: str
    words: str


def volume_notice(counts: Mapping[datetime, int], length: timedelta, now: datetime) -> Notice | None:
    """Whether the last closed window has far more or fewer predictions than those before it.

    `counts` are by the start of windows of that length; a window without predictions may be left out.
    """
    last = floor_moment(now, length) - length
    earlier = [
        counts.get(last - ago * length, 0) for ago in range(1, WINDOWS + 1) if last - ago * length >= min(counts)
    ]
    if len(earlier) < LEAST_WINDOWS:
        return None
    usual, found = float(median(earlier)), counts.get(last, 0)
    is_far = found > FACTOR * usual or found * FACTOR < usual
    if not is_far or abs(found - usual) <= 4 * max(usual, 1.0) ** 0.5:
        return None
    window = Window(last, last + length)
    return Notice(f"volume:{format_moment(last)}", f"{found:,} predictions in {window}; usual are {usual:,.0f}")


def silence_notice(last: datetime, allowed: timedelta, now: datetime) -> Notice | None:
    """Whether nothing was predicted for longer than that."""
    if now - last <= allowed:
        return None
    return Notice(f"silence:{format_moment(last)}", f"no predictions since {format_moment(last)}")
