"""Time as something that is passed in: clocks, half-open windows, durations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from feedback_loop.errors import BadInput

Clock = Callable[[], datetime]
"""Anything that answers what time it is, in UTC."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


def system_clock() -> datetime:
    """The machine's time, in UTC."""
    return datetime.now(UTC)


class ManualClock:
    """A clock that stands still until it is set: simulations and tests own their time."""

    def __init__(self, moment: datetime) -> None:
        self.moment = as_utc(moment)

    def __call__(self) -> datetime:
        """The moment it was set to."""
        return self.moment

    def set(self, moment: datetime) -> None:
        """Moves to `moment`, forwards or backwards."""
        self.moment = as_utc(moment)


def shifted_clock(by: timedelta) -> Clock:
    """A clock that is so much ahead of the machine's (for replays), the same in every process."""
    return lambda: system_clock() + by


@dataclass(frozen=True, order=True)
class Window:
    """The half-open interval `[start, end)` in UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if as_utc(self.start) >= as_utc(self.end):
            raise BadInput.of("window", f"starts at {self.start}, which is not before its end {self.end}")

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment < self.end

    def __str__(self) -> str:
        return f"[{format_moment(self.start)}, {format_moment(self.end)})"


@dataclass(frozen=True)
class DailyHours:
    """Hours of every day by the clocks of a place, such as 22:00 to 07:00; equal ends are the whole day.

    They begin at the first moment at which the clocks there show `start` or later, and end with the first that shows
    `end` or later: where the clocks are set back they neither end twice nor begin twice, and where a time is left out
    the moment of the change stands for it.
    """

    start: time
    end: time
    zone: ZoneInfo

    def __contains__(self, moment: datetime) -> bool:
        return any(start <= moment < end for start, end in self._around(moment))

    def ends_after(self, moment: datetime) -> datetime:
        """When the hours that a moment is in are over; the moment itself where it is in none."""
        return next((end for start, end in self._around(moment) if start <= moment < end), moment)

    def _around(self, moment: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The hours that begin the day before, and on the day of the moment."""
        today = moment.astimezone(self.zone).date()
        for day in (today - timedelta(days=1), today):
            ends_on = day if self.start < self.end else day + timedelta(days=1)
            yield self._first(datetime.combine(day, self.start)), self._first(datetime.combine(ends_on, self.end))

    def _first(self, shown: datetime) -> datetime:
        """The first moment at which the clocks show that or later, to the minute."""
        moment = shown.replace(tzinfo=self.zone).astimezone(UTC)
        while (before := moment - timedelta(minutes=1)).astimezone(self.zone).replace(tzinfo=None) >= shown:
            moment = before
        return moment


def parse_hours(text: str, zone: ZoneInfo) -> DailyHours:
    """`22:00-07:00` by the clocks of a place; raises BadInput."""
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)\s*-\s*([01]\d|2[0-3]):([0-5]\d)", text.strip())
    if match is None:
        raise BadInput.of("hours", f"{text!r} are no hours of a day", cure="Write 22:00-07:00.")
    first, second, third, fourth = (int(part) for part in match.groups())
    return DailyHours(time(first, second), time(third, fourth), zone)


def windows_between(start: datetime, end: datetime, length: timedelta) -> Iterator[Window]:
    """The whole windows of `length`, counted from 1970, that overlap `[start, end)` and end by `end`."""
    opens = floor_moment(start, length)
    while opens + length <= end:
        yield Window(opens, opens + length)
        opens += length


def floor_moment(moment: datetime, length: timedelta) -> datetime:
    """The newest multiple of `length` since 1970 that is not after `moment`."""
    return moment - (moment - EPOCH) % length


def as_utc(moment: datetime) -> datetime:
    """The same moment in UTC; raises BadInput where it has no time zone, or no such time in UTC."""
    if moment.tzinfo is None:
        raise BadInput.of("time", f"{moment.isoformat()} has no time zone", cure="Give it one, such as +00:00.")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise BadInput.of("time", f"{moment.isoformat()} is beyond the years 1 to 9999 in UTC") from None


def parse_moment(text: str) -> datetime:
    """ISO 8601 to a moment in UTC. A bare date is its midnight in UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput.of("time", f"{text!r} is not ISO 8601", cure="Write 2026-05-31T04:00:00Z.") from None
    return moment.replace(tzinfo=UTC) if len(text) == len("2026-05-31") else as_utc(moment)


def format_moment(moment: datetime) -> str:
    """Short ISO 8601: no time of day at midnight, no seconds where they are zero."""
    utc = as_utc(moment)
    if utc.microsecond or utc.second:
        return utc.isoformat().replace("+00:00", "Z")
    return utc.strftime("%Y-%m-%d" if not (utc.hour or utc.minute) else "%Y-%m-%dT%H:%MZ")


def parse_duration(text: str) -> timedelta:
    """`90s`, `30m`, `6h`, `2d`, `4w` and sums such as `1d12h` to a timedelta above zero."""
    parts = _DURATION.findall(text.strip().lower())
    try:
        total = sum((timedelta(**{_UNITS[unit]: float(number)}) for number, unit in parts), timedelta())
    except OverflowError:
        raise BadInput.of("duration", f"{text!r} is longer than any time") from None
    if _DURATION.sub("", text.strip().lower()).strip() or total <= timedelta():
        raise BadInput.of("duration", f"{text!r} is not a duration", cure="Write 90s, 30m, 6h, 2d, 4w or 1d12h.")
    return total


def format_duration(duration: timedelta) -> str:
    """A duration as `parse_duration` takes it: in the largest unit of which it is a multiple."""
    if duration.microseconds:
        return f"{duration.total_seconds():.6f}".rstrip("0") + "s"
    seconds = duration // timedelta(seconds=1)
    unit, length = next((unit, length) for unit, length in _LENGTHS if seconds % length == 0)
    return f"{seconds // length}{unit}"


_LENGTHS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
