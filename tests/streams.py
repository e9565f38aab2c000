"""Streams of losses for tests of monitors: made, seeded, with and without change; how many a test takes."""

import numpy as np
import pytest
from hypothesis import settings


def errors(random, rate, count):
    """0/1 losses of one rate, or of a rate each."""
    return (random.random(count) < rate).astype(float)


def delay(monitor, losses, look=500, first=0):
    """After how many labels the monitor alarms, told at the end of the look (a window); None: never."""
    for place, start in enumerate(range(0, len(losses), look), first):
        monitor = monitor.update(losses[start : start + look], place)
        if monitor.alarmed_at is not None:
            return start + look
    return None


def median_delay(start, losses, streams, *, before=20_000, change):
    """The median delay of so many streams that change after `before` labels; one that is not found counts as ever."""
    delays = []
    for seed in range(streams):
        random = np.random.default_rng(seed)
        monitor = start(losses(random, 5000, 0.0), seed).update(losses(random, before, 0.0))
        delays.append(delay(monitor, losses(random, 20_000, change)) or 10**9)
    return float(np.median(delays))


def day_losses(random, days, level=0.2, spread=0.05, per_day=300):
    """Losses whose days differ, with each one's window number."""
    means = level + spread * random.normal(size=days)
    losses = np.clip(np.repeat(means, per_day) + 0.1 * random.normal(size=days * per_day), 0, 1)
    return losses, np.repeat(np.arange(days), per_day)


def season(windows, swing, cycle=7):
    """What the window's place in the cycle adds to its level."""
    return swing * np.sin(2 * np.pi * windows / cycle)


def seasonal_numbers(random, added):
    """Beta losses with something added to each."""
    return np.clip(random.beta(2, 8, len(added)) + added, 0, 1)


def examples(few, **options):
    """Hypothesis's settings for a property of which `few` examples are drawn, and with others twenty times as many.

    The profile `others` is that of `make statistics`.
    """
    times = 20 if settings.get_current_profile_name() == "others" else 1
    return settings(max_examples=few * times, **options)


def simulated(few, many):
    """Parametrizes a simulation by its `streams`: few in `make test`, many in `make statistics`."""
    return pytest.mark.parametrize("streams", [few, pytest.param(many, marks=pytest.mark.statistics)])
