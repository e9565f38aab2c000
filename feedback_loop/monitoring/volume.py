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
"""So many times more than the most of them, or fewer than the least, are reported, if a test rejects chance."""

ALPHA, LOOKS = 0.05, 10_000
"""Where predictions are Poisson at their usual rates, a share of `ALPHA` of models is reported in `LOOKS` windows."""


@dataclass(frozen=True)
class Notice:
    """Something unusual. `subject` stays the same for as long as it lasts."""

    subject: str
    words: str


def volume_notice(counts: Mapping[datetime, int], length: timedelta, now: datetime) -> Notice | None:
    """Whether the last closed window has far more or fewer predictions than those before it.

    `counts` are by the start of windows of that length; a window without predictions may be left out. Of several in a
    row that have too many, or too few, the first is reported.
    """
    last = floor_moment(now, length) - length
    sign = _deviation(counts, length, last)
    if not sign:
        return None
    first = last
    while _deviation(counts, length, first - length) == sign:
        first -= length
    window, usual = (
        Window(first, first + length),
        [counts.get(start, 0) for start in _comparable(counts, length, first)],
    )
    words = f"{counts.get(first, 0):,} predictions in {window}; usual are {median(usual):,.0f}"
    return Notice(f"volume:{format_moment(first)}", words)


def _deviation(counts: Mapping[datetime, int], length: timedelta, start: datetime) -> int:
    """1 for a window with too many predictions, -1 for too few, else 0."""
    from scipy import stats

    count, earlier = counts.get(start, 0), [counts.get(window, 0) for window in _comparable(counts, length, start)]
    if not earlier:
        return 0
    # At one rate, a window's part of the sum is binomial. The earlier ones are all taken to be as the extreme one.
    share, level = 1 / (len(earlier) + 1), ALPHA / LOOKS / 2
    least, most = (count + len(earlier) * usual for usual in (min(earlier), max(earlier)))
    if count > FACTOR * max(earlier) and stats.binom.sf(count - 1, most, share) < level:
        return 1
    return -int(count * FACTOR < min(earlier) and bool(stats.binom.cdf(count, least, share) < level))


def _comparable(counts: Mapping[datetime, int], length: timedelta, start: datetime) -> list[datetime]:
    """The starts of the earlier windows that it is compared with; none where there are too few."""
    first = min(counts)
    if WEEK % length:
        before = [start - ago * length for ago in range(1, WINDOWS + 1) if start - ago * length >= first]
        return before if len(before) >= LEAST_WINDOWS else []
    same = [start - ago * WEEK for ago in range(1, WEEKS + 1) if start - ago * WEEK >= first]
    if len(same) < LEAST_WEEKS:
        before = [start - ago * length for ago in range(1, 2 * (WEEK // length) + 1)]
        return [start for start in before if start >= first] if same else []
    near = (-NEAR, timedelta(0), NEAR) if not NEAR % length else (timedelta(0),)
    return [start + by for start in same for by in near if start + by >= first]


def silence_notice(last: datetime, allowed: timedelta, now: datetime) -> Notice | None:
    """Whether nothing was predicted for longer than is `allowed`."""
    if now - last <= allowed:
        return None
    return Notice(f"silence:{format_moment(last)}", f"no predictions since {format_moment(last)}")
