"""`play`: one frame, kept in every way; and what the ways of learning cost where outcomes are poisoned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.yardstick import product
from benchmarks.yardstick.adapters import adapted, refitted_with_care
from benchmarks.yardstick.calendars import ALL, CADENCES, EVERY_LOOK, WINDOWS, Answers, Fits, calendar, frozen
from benchmarks.yardstick.harm import POISONS, start_of
from benchmarks.yardstick.measures import Judged
from benchmarks.yardstick.rows import Settings, rows_of

if TYPE_CHECKING:
    import pandas as pd

Strategy = Callable[[Fits], Answers]
"""A way of keeping a model: one more of them is a function more."""


def with_adapter(strategy: Strategy, fits: Fits) -> Answers:
    """An adapter on what another strategy answers."""
    return adapted(fits.rows, strategy(fits))


CALENDARS: tuple[Strategy, ...] = tuple(
    partial(calendar, cadence=cadence, window=window) for cadence in CADENCES for window in WINDOWS
)
"""The loop is compared with the best of these in hindsight."""

refreshed: Strategy = partial(calendar, cadence="every 28 days", window=ALL)
weekly: Strategy = partial(calendar, cadence="weekly", window=ALL)
at_every_look: Strategy = partial(calendar, cadence=EVERY_LOOK, window=ALL)

ADAPTERS: tuple[Strategy, ...] = tuple(partial(with_adapter, strategy) for strategy in (frozen, refreshed, weekly))

_OWN, _ADAPTER = {"retraining": {"search": "own"}}, {"adapter": {"mode": "on"}}

PRODUCT: tuple[Strategy, ...] = (
    partial(product.loop, name="the loop, own recipe", changes=_OWN),
    partial(product.loop, name="the loop, own recipe + adapter", changes=_OWN | _ADAPTER),
    partial(product.loop, name="the loop"),
    partial(product.loop, name="the loop + adapter", changes=_ADAPTER),
)

EVERYTHING: tuple[Strategy, ...] = (frozen, *CALENDARS, at_every_look, *ADAPTERS, *PRODUCT)

QUICK: tuple[Strategy, ...] = (frozen, *CALENDARS, *ADAPTERS, PRODUCT[1])

careful: Strategy = partial(refitted_with_care, cadence="every 28 days")

POISONED: tuple[Strategy, ...] = (ADAPTERS[0], refreshed, ADAPTERS[1], careful)
"""What is played with poison; each is compared with itself without."""


def play(
    frame: pd.DataFrame, model: Any, settings: Settings, strategies: Sequence[Strategy] = EVERYTHING
) -> Iterator[Judged]:
    """Plays a frame with a model that is not fitted yet, once for each strategy.

    The frame has the columns `time`, `delay`, `outcome` (see `rows`); all others are features.
    """
    fits = Fits(rows_of(frame, settings), model)
    for strategy in strategies:
        yield Judged(strategy(fits), fits.rows)


def poisoned(
    frame: pd.DataFrame, model: Any, settings: Settings, strategies: Sequence[Strategy] = POISONED
) -> Iterator[tuple[str, Judged, Judged]]:
    """For each poison and each strategy: the poison's name, what was answered with it, and without it."""
    start = start_of(frame, settings)
    clean = Fits(rows_of(frame, settings), model)
    without = [Judged(strategy(clean), clean.rows) for strategy in strategies]
    for poison in POISONS:
        fits = Fits(rows_of(poison.of(frame, settings, start), settings), model)
        for strategy, known in zip(strategies, without, strict=True):
            yield poison.name, Judged(strategy(fits), fits.rows), known
