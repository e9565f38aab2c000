"""Schedules as people write them: `1d`, `0 4 * * *` or `never`, all in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

from feedback_loop.clock import EPOCH, parse_duration
from feedback_loop.errors import BadInput, ConfigError

_LOOK_BACK = tuple(timedelta(days=days) for days in (0.05, 1.5, 40, 400))

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class Trigger(Protocol):
    """APScheduler's, as far as it is used here."""

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """When it fires next, not before `now`."""
        ...


def parse_schedule(text: str, key: str) -> Trigger | None:
    """A trigger, or None for `never`; raises ConfigError, which names the key."""
    from apscheduler.triggers.interval import IntervalTrigger

    if text == "never":
        return None
    trigger: Trigger
    try:
        if len(text.split()) == 5:
            trigger = _crontab(text)
        else:
            # Counted from 1970: when a job is due does not depend on when the process was started.
            seconds = int(parse_duration(text).total_seconds())
            trigger = IntervalTrigger(seconds=seconds, start_date=EPOCH, timezone=UTC)
    except (ValueError, BadInput) as error:
        raise ConfigError(
            f"{key}: {text!r} is no schedule ({error}).",
            cure="Write 1d, 6h, a cron line (0 4 * * *) or never.",
            key=key,
        ) from error
    return trigger


def _crontab(text: str) -> Trigger:
    """A line as crontab has it, which APScheduler reads otherwise: weekdays from Sunday (0 or 7), and either day.

    Where both a day of the month and one of the week are named, it is due on each of them.
    """
    from apscheduler.triggers.combining import OrTrigger
    from apscheduler.triggers.cron import CronTrigger

    minute, hour, day, month, weekday = text.split()
    days = [{"day": day}, {"day_of_week": _weekdays(weekday)}]
    if day.startswith("*") or weekday.startswith("*"):
        days = [days[0] | days[1]]
    made: Trigger = OrTrigger(
        [CronTrigger(minute=minute, hour=hour, month=month, timezone=UTC, **fields) for fields in days]
    )
    return made


def _weekdays(field: str) -> str:
    """The days that crontab's field means, each by its name; raises ValueError."""
    weekdays: set[int] = set()
    for part in field.lower().split(","):
        days, has_step, step = part.partition("/")
        first, is_range, last = days.partition("-")
        low, high = (0, 6) if days == "*" else (_weekday(first), _weekday(last if is_range else first))
        if has_step and not is_range:  # `2/2` goes on to the week's end
            high = 6
        high += 7 * (high < low)  # sat-sun
        weekdays.update(day % 7 for day in range(low, high + 1, int(step) if has_step else 1))
    return ",".join(_WEEKDAYS[day] for day in sorted(weekdays))


def _weekday(text: str) -> int:
    if text in _WEEKDAYS:
        return _WEEKDAYS.index(text)
    if text.isdigit() and int(text) <= len(_WEEKDAYS):
        return int(text)
    raise ValueError(f"{text!r} is no weekday: they are 0 to 7 (0 and 7 are Sunday), or {', '.join(_WEEKDAYS)}")


def last_due(trigger: Trigger, after: datetime | None, now: datetime) -> datetime | None:
    """The newest moment at which the trigger fired in `(after, now]`: missed ones before it are not caught up."""
    for back in _LOOK_BACK:
        start = now - back if after is None else max(after + timedelta.resolution, now - back)
        newest, fires = None, trigger.get_next_fire_time(None, start)
        while fires is not None and fires <= now:
            newest, fires = fires, trigger.get_next_fire_time(fires, fires + timedelta.resolution)
        if newest is not None or (after is not None and start > now - back):
            return newest
    return None
