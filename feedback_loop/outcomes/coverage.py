"""Coverage and maturity: which windows can be judged, and how much of them is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from feedback_loop.clock import Window, floor_moment, format_moment
from feedback_loop.schema import Role
from feedback_loop.store.coverage import WindowCoverage
from feedback_loop.store.evaluations import ALL_ROWS

By = Literal["age", "version", "segment"]
"""What coverage is broken down by."""

_AGES = (timedelta(days=1), timedelta(days=2), timedelta(days=7), timedelta(days=30), timedelta(days=90))


@dataclass(frozen=True)
class Coverage:
    """How many predictions of a group there are, how many of them can have an outcome, and how many have one.

    `observed` ones have an outcome; `inferred` ones have matured without one, which means the label `absent_means`.
    Where all are inferred, outcomes may not be coming in at all.
    """

    group: str
    predictions: int
    eligible: int
    observed: int
    inferred: int = 0

    @property
    def labelled(self) -> int:
        """The predictions that have a label, observed or inferred."""
        return self.observed + self.inferred

    @property
    def share(self) -> float:
        """Labelled / eligible."""
        return self.labelled / self.eligible if self.eligible else 0.0


def matured_until(now: datetime, maturity: timedelta, length: timedelta) -> datetime:
    """The end of the newest whole window of which every prediction has had its chance of an outcome."""
    return floor_moment(now - maturity, length)


def matures_at(predicted_at: datetime, maturity: timedelta, length: timedelta) -> datetime:
    """When the whole window of a prediction can be judged."""
    return floor_moment(predicted_at, length) + length + maturity


def is_matured(window: Window, as_of: datetime, maturity: timedelta) -> bool:
    """Whether every prediction of the window has had its chance of an outcome by then."""
    return window.end + maturity <= as_of


def coverage(accounts: Iterable[WindowCoverage], by: By, until: datetime) -> list[Coverage]:
    """The champion's coverage by group: age of the window's start at `until`, version, or segment."""
    champion = [account for account in accounts if account.role == Role.CHAMPION]
    if by == "segment":
        return _grouped(champion, lambda account: account.segment or "all")
    whole = [account for account in champion if account.segment == ALL_ROWS]
    if by == "version":
        return _grouped(whole, lambda account: account.version)
    newest_first = sorted(whole, key=lambda account: account.window_start, reverse=True)
    return _grouped(newest_first, lambda account: _age(account, until))


def _grouped(accounts: Iterable[WindowCoverage], group: Callable[[WindowCoverage], str]) -> list[Coverage]:
    sums: dict[str, tuple[int, ...]] = {}
    for account in accounts:
        name = group(account)
        counts = account.predictions, account.eligible, account.labelled, account.inferred
        sums[name] = tuple(map(sum, zip(sums.get(name, (0, 0, 0, 0)), counts, strict=True)))
    return [Coverage(name, *counts) for name, counts in sums.items()]


def _age(account: WindowCoverage, until: datetime) -> str:
    for most in _AGES:
        if account.window_start > until - most:
            return f"up to {most.days} d"
    return f"before {format_moment(until - _AGES[-1])[:10]}"
