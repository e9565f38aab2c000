"""Volume and freshness: whether as many predictions come as came before, and whether any come at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from feedback_loop.clock import Window, floor_moment, format_moment

WEEK = timedelta(days=7)

WEEKS, LEAST_WEEKS = 8, 3
"""A window is compared with those at its place in the week, of so many weeks before it; of all with fewer weeks."""

NEAR = timedelta(hours=1)
"""And with those so long before and after them: clocks change."""

WINDOWS, LEAST_WINDOWS = 14, 5
"""Windows that are no part of a week are compared with so many before them."""

FACTOR = 2.0
"""So many times more than the most of them, or fewer than the least, are told, if chance does not explain it."""

ALPHA, LOOKS = 0.05, 10_000
"""Where predictions come by chance at their places' rates, so many of all models are told once in so many windows."""


@dataclass(frozen=True)
class Notice:
    """What is not as it was. `subject` is the same for as long as it is the same thing."""

    subject: str
    words: str


def volume_notice(counts: Mapping[datetime, int], length: timedelta, now: datetime) -> Notice | None:
    """Whether the last closed window has far more or fewer predictions than those before it.

    `counts` are by the start of windows of that length; a window without predictions may be left out. Of several in a
    row that have too many, or too few, the first is told.
    """
    last = floor_moment(now, length) - length
    sign = _strangeness(counts, length, last)
    if not sign:
        return None
    first = last
    while _strangeness(counts, length, first - length) == sign:
        first -= length
    window, usual = Window(first, first + length), [counts.get(each, 0) for each in _like(counts, length, first)]
    words = f"{counts.get(first, 0):,} predictions in {window}; usual are {median(usual):,.0f}"
    return Notice(f"volume:{format_moment(first)}", words)


def _strangeness(counts: Mapping[datetime, int], length: timedelta, start: datetime) -> int:
    """1 for a window with too many predictions, -1 for too few, else 0."""
    from scipy import stats

    earlier, count = [counts.get(each, 0) for each in _like(counts, length, start)], counts.get(start, 0)
    if not earlier:
        return 0
    # By one rate, the share of one window in the sum of all is binomial; they are all taken to be like the utmost.
    share, level = 1 / (len(earlier) + 1), ALPHA / LOOKS / 2
    least, most = (count + len(earlier) * each for each in (min(earlier), max(earlier)))
    if count > FACTOR * max(earlier) and stats.binom.sf(count - 1, most, share) < level:
        return 1
    return -int(count * FACTOR < min(earlier) and bool(stats.binom.cdf(count, least, share) < level))


def _like(counts: Mapping[datetime, int], length: timedelta, start: datetime) -> list[datetime]:
    """The windows before it that it should be like, as far as there are any; none where there are too few."""
    first = min(counts)
    if WEEK % length:
        before = [start - ago * length for ago in range(1, WINDOWS + 1) if start - ago * length >= first]
        return before if len(before) >= LEAST_WINDOWS else []
    same = [start - ago * WEEK for ago in range(1, WEEKS + 1) if start - ago * WEEK >= first]
    if len(same) < LEAST_WEEKS:
        before = [start - ago * length for ago in range(1, 2 * (WEEK // length) + 1)]
        return [each for each in before if each >= first] if same else []
    near = (-NEAR, timedelta(0), NEAR) if not NEAR % length else (timedelta(0),)
    return [each + by for each in same for by in near if each + by >= first]


def silence_notice(last: datetime, allowed: timedelta, now: datetime) -> Notice | None:
    """Whether nothing was predicted for longer than that."""
    if now - last <= allowed:
        return None
    return Notice(f"silence:{format_moment(last)}", f"no predictions since {format_moment(last)}")
