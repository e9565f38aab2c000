"""Coverage and maturity: which windows can be judged, and how much of them is known."""

from __future__ import annotations

from datetime import datetime, timedelta

from feedback_loop.clock import Window, floor_moment


def matured_until(now: datetime, maturity: timedelta, length: timedelta) -> datetime:
    """The end of the newest whole window of which every prediction has had its chance of an outcome."""
    return floor_moment(now - maturity, length)


def is_matured(window: Window, as_of: datetime, maturity: timedelta) -> bool:
    """Whether every prediction of the window has had its chance of an outcome by then."""
    return window.end + maturity <= as_of
