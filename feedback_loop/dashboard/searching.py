"""A retraining that somebody asks for on a page: in the ledger, then in a thread of this process or a scheduler."""

from __future__ import annotations

import threading
from typing import Any

import structlog

from feedback_loop.cycle import BY_HAND, retrain_as_asked
from feedback_loop.errors import FeedbackLoopError, Refused
from feedback_loop.loop import FeedbackLoop
from feedback_loop.plain import plain
from feedback_loop.store.freezes import refuse_frozen
from feedback_loop.store.leases import holder_of
from feedback_loop.store.ledger import JobRun, drop_asked, end_run, find_run, load_runs, want_run

_log = structlog.get_logger(__name__)


def start_retraining(loop: FeedbackLoop, model: str, *, by: str, promotes: bool, despite_diagnosis: bool) -> None:
    """Records what is asked for, begins the search, and returns. Raises Refused where it is known that it would be.

    Whatever happens later is in the ledger, as of any job. Where this process ends too soon a scheduler makes it.
    """
    refuse_frozen(loop.store, model)
    if not despite_diagnosis and (held := loop.held_by_diagnosis(model)):
        raise Refused(held, cure="Tick that it is to search all the same.")
    if (holder := holder_of(loop.store, f"model:{model}")) is not None:
        raise Refused(f"Another run is at work on {model} ({holder}).", cure="Wait for its end.")

    for newest in load_runs(loop.store, model, newest=1, job=BY_HAND):  # one that nobody has begun gives way
        if newest.asked is not None:
            drop_asked(loop.store, newest.run_id, state="cancelled", now=loop.clock(), cause=f"{by} has asked anew")
    asked = {"by": by, "promotes": promotes, "despite_diagnosis": despite_diagnosis, "begun": 0}
    run = want_run(loop.store, BY_HAND, model, asked, loop.clock())
    threading.Thread(target=_run, args=(loop, run), name=f"retrain {model}", daemon=True).start()


def _run(loop: FeedbackLoop, run: JobRun) -> None:
    try:
        retrain_as_asked(loop, run)
    except FeedbackLoopError as error:  # another run was quicker, or the lease was lost: it is left to a scheduler
        _log.error("retraining not made here", model=run.model, cause=str(error))


def give_up(loop: FeedbackLoop) -> bool:
    """Ends the searches of this process, which is about to end, in the ledger and in MLflow; whether there were any.

    What MLflow can't be told now, `end_left` of the next process tells it.
    """
    if not loop.runner.abandon("the pages were stopped before it ended"):
        return False
    try:
        loop.registry.lineage.runs.give_up(loop.clock())
    except Exception as error:  # noqa: BLE001 (whatever it is, the process ends)
        _log.warning("runs_not_ended", cause=repr(error))
    return True


def end_left(loop: FeedbackLoop) -> None:
    """Ends, in a thread, what searches of pages left whose process died: their runs in MLflow and in the ledger."""
    threading.Thread(target=_end_all_left, args=(loop,), name="end left", daemon=True).start()


def _end_all_left(loop: FeedbackLoop) -> None:
    for model in loop.settings.models:
        for left in load_runs(loop.store, model, newest=1, job=BY_HAND):
            if left.state in ("running", "abandoned"):
                _end_left(loop, model, left)


def _end_left(loop: FeedbackLoop, model: str, left: JobRun) -> None:
    patience = threading.Event()  # a process that was killed holds its lease until that runs out
    while left.state == "running" and holder_of(loop.store, f"model:{model}") is not None:
        patience.wait(1)
        left = find_run(loop.store, left.run_id) or left
    try:
        if left.state == "running":
            with loop.runner.leased(model):
                cause = "its process ended before the job did"
                end_run(loop.store, left.run_id, state="abandoned", now=loop.clock(), cause=cause)
        loop.registry.end_abandoned(model, loop.clock())
    except FeedbackLoopError as error:  # another run has begun, which ends it; or MLflow is away
        _log.warning("search not ended", model=model, cause=str(error))


def last_retraining_by_hand(loop: FeedbackLoop, model: str) -> dict[str, Any] | None:
    """How the newest one stands: its run in the ledger, as plain values."""
    newest = load_runs(loop.store, model, newest=1, job=BY_HAND)
    return plain(newest[0]) if newest else None
