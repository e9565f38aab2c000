"""Monitors: sequential tests of losses with an error rate for ever, and beside them thresholds."""

from feedback_loop.decisions.monitors.factory import (
    LEAST_REFERENCE,
    MADE_OF,
    Method,
    Monitor,
    alpha_of_monitor,
    follow_windows,
    start_monitor,
)
from feedback_loop.decisions.monitors.rules import RuleName, WindowRule, start_rule
from feedback_loop.decisions.monitors.sequences import ConfidenceSequence
from feedback_loop.decisions.monitors.window_means import Units

__all__ = [
    "LEAST_REFERENCE",
    "MADE_OF",
    "ConfidenceSequence",
    "Method",
    "Monitor",
    "RuleName",
    "Units",
    "WindowRule",
    "alpha_of_monitor",
    "follow_windows",
    "start_monitor",
    "start_rule",
]
