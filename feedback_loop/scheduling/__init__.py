"""When things run: schedules, leases, the ledger of runs, catching up."""

from feedback_loop.scheduling.health import find_troubles, tell_helped
from feedback_loop.scheduling.runner import Job, Outcome, Runner
from feedback_loop.scheduling.scheduler import Asked, Chain, Scheduler
from feedback_loop.scheduling.schedules import last_due, parse_schedule

__all__ = [
    "Asked",
    "Chain",
    "Job",
    "Outcome",
    "Runner",
    "Scheduler",
    "find_troubles",
    "last_due",
    "parse_schedule",
    "tell_helped",
]
