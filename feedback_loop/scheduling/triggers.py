"""Schedules as people write them: `1d`, `0 4 * * *` or `never`, all in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

from feedback_loop.clock import EPOCH, parse_duration
from feedback_loop.errors import BadInput, ConfigError

_LOOK_BACK = tuple(timedelta(days=days) for days in (0.05, 1.5, 40, 400))


class Trigger(Protocol):
    """APScheduler's, as far as it is used here."""

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """When it fires next, not before `now`."""
        ...


def parse_schedule(text: str, key: str) -> Trigger | None:
    """A trigger, or None for `never`; raises ConfigError, which names the key."""
    from apscheduler.triggers.cron import CronTrigger
    from apscheduler.triggers.interval import IntervalTrigger

    if text == "never":
        return None
    trigger: Trigger
    try:
        if len(text.split()) == 5:
            trigger = CronTrigger.from_crontab(text, timezone=UTC)
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
