"""One simulated turn of the loop: what a scheduler would have run at that moment. The demo is played by it too."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from feedback_loop.clock import ManualClock
from feedback_loop.cycle import cycle, monthly
from feedback_loop.errors import FeedbackLoopError
from feedback_loop.loop import FeedbackLoop


def take_turn(
    loop: FeedbackLoop, clock: ManualClock, model: str, moment: datetime, *, without: Collection[str] = ()
) -> None:
    """Moves the clock to the moment and runs the scheduler's jobs, but for those `without`; alerts are sent.

    On the first turn of a month its report is written, too. Raises FeedbackLoopError where a job fails: a scheduler
    would try it again at the next turn, but a simulation that goes on from a failure shows nothing.
    """
    since = clock()
    clock.set(moment)
    jobs = [job for job in cycle(loop, model) if job.name not in without]
    if (since.year, since.month) != (moment.year, moment.month):
        jobs += [job for job in monthly(loop, model) if job.name not in without]
    outcomes = loop.runner.run(model, jobs, moment)
    loop.deliver_alerts()
    failed = next((outcome for outcome in outcomes if outcome.state == "failed"), None)
    if failed is not None:
        raise FeedbackLoopError(
            f"A job failed: {moment:%Y-%m-%d} {failed.job}: {failed.cause}", cure=f"See {loop.settings.home}."
        )
