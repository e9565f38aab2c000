"""Drift of inputs and predictions, window by window: it may warn, with a stated share of false warnings."""

from feedback_loop.decisions.drift.due import watch_due_windows
from feedback_loop.decisions.drift.watch import (
    Watch,
    reference_digest,
    rule_of,
    start_watch,
    watch_values,
    watch_window,
)

__all__ = [
    "Watch",
    "reference_digest",
    "rule_of",
    "start_watch",
    "watch_due_windows",
    "watch_values",
    "watch_window",
]
